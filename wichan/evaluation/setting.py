"""What an estimator may know before the first observation: a recipe's grid, pilots, channel models and laws."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from wichan.channels import ChannelModel
from wichan.channels.base import NoClosedFormError
from wichan.channels.covariance import ChannelCovariance, KroneckerTerm
from wichan.errors import check_choice, check_int
from wichan.grid import OFDMGrid
from wichan.observations import OFDMPilots

if TYPE_CHECKING:
    from wichan.evaluation.pooling import Pooled
    from wichan.observations import IRSDictionary, IRSTraining, QuantizedPilots
    from wichan.simulate.conditions import Law


@dataclass(frozen=True, eq=False)
class Setting:
    """The distribution that estimators are built for.

    Args:
        recipe: a recipe of kind ``ofdm``, ``quantized`` or ``irs``.
        link: its parts, from `wichan.simulate.build_link`.
        split: the split that evaluation draws from.
        cell: the cell whose laws count.
        seed: seed of everything that a builder draws (training samples of an estimated covariance, ...).
        on_note: told what takes a builder long.
    """

    recipe: Any
    link: Any
    split: str
    cell: str
    seed: int = 0
    on_note: Callable[[str], None] | None = None

    @classmethod
    def of(cls, recipe: Any, split: str | None = None, seed: int | None = None) -> Setting:
        """Build the setting of a recipe; ``split`` defaults to its test split, or else its last;
        ``seed`` to the recipe's.

        Raises:
            InvalidValueError: a recipe that has no pilots to estimate from, or an unknown split.
        """
        from wichan.evaluation.kinds import check_recipe_kind
        from wichan.simulate import build_link

        check_recipe_kind(recipe.name, recipe.kind)
        names = recipe.split_names()
        chosen = split or ("test" if "test" in names else names[-1])
        check_choice("split", chosen, names)
        number = recipe.seed if seed is None else check_int("seed", seed, minimum=0)
        return cls(recipe, build_link(recipe), chosen, recipe.cell_names(chosen)[0], number)

    @property
    def grid(self) -> OFDMGrid:
        """The OFDM lattice."""
        return self.link.grid

    @property
    def observation(self) -> OFDMPilots:
        """The pilots of a recipe of kind ``ofdm``."""
        return self.link.observation

    @property
    def quantized(self) -> QuantizedPilots:
        """The pilots and converters of a recipe of kind ``quantized``."""
        return self.link.observation

    @property
    def irs(self) -> IRSTraining:
        """The training of a recipe of kind ``irs``."""
        return self.link.observation

    @functools.cached_property
    def irs_dictionary(self) -> IRSDictionary:
        """The dictionary of a recipe of kind ``irs``, from its section ``dictionary``."""
        return self.recipe.build_dictionary(self.link.observation)

    @property
    def laws(self) -> dict[str, Law]:
        """Law of every condition, ``snr_db`` and ``profile`` included."""
        return dict(self.link.laws(self.split, self.cell))

    @property
    def profile_weights(self) -> dict[str, float]:
        """Probability of every profile; ``{"": 1}`` for a source without profiles."""
        law = self.laws.get("profile")
        if law is None:
            return {"": 1.0}
        return {name: law.values.count(name) / len(law.values) for name in law.categories}

    def model(self, profile: str) -> ChannelModel:
        """The channel model of a profile; built if the recipe does not name it (a held-out profile)."""
        known: Mapping[str, ChannelModel] = self.link.models
        return known[profile] if profile in known else self.link.source.build(profile)

    def arguments(self, columns: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Pick from a batch's columns what ``model.covariance`` takes."""
        return dict(self.link.source.arguments(columns))

    def covariance(self, profile: str, columns: Mapping[str, torch.Tensor]) -> ChannelCovariance:
        """Covariance of a profile at given conditions, scaled as the recipe scales its channels."""
        model = self.model(profile)
        return model.covariance(self.grid, normalize=self.recipe.normalize, **self.arguments(columns))

    @functools.cached_property
    def pooled(self) -> Pooled:
        """The covariance over all conditions, computed once for all estimators that want it."""
        from wichan.evaluation.pooling import pooled_covariance

        return pooled_covariance(self)

    def draw_conditions(self, u: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Conditions of the channel at given uniform numbers, one (n,) tensor a law; derived ones included.

        Args:
            u: law name -> float64 in [0, 1), (n,); a law that is not named stands at its median.
        """
        count = max((values.numel() for values in u.values()), default=1)
        middle = torch.full((count,), 0.5, dtype=torch.float64)
        drawn = {name: law.draw(u.get(name, middle)) for name, law in self.laws.items() if name != "profile"}
        return drawn | dict(self.link.source.derive(drawn))


def kronecker_terms(covariance: ChannelCovariance) -> list[KroneckerTerm]:
    """The terms, all Kronecker products.

    Raises:
        NoClosedFormError: a term that is a dense matrix.
    """
    terms = [term for term in covariance.terms if isinstance(term, KroneckerTerm)]
    if len(terms) < len(covariance.terms):
        raise NoClosedFormError("the covariance is no sum of Kronecker products; estimate it from samples instead")
    return terms
