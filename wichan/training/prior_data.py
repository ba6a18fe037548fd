"""What a prior is fitted to: channels of a recipe or of a data set, or quantised pilots alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from wichan.errors import InvalidValueError, StoreError, check_int, unknown_name

if TYPE_CHECKING:
    from wichan.observations import QuantizedPilots
    from wichan.training.priors import PriorConfig

#: Training channels where neither the recipe nor the caller says it.
DEFAULT_SAMPLES = 30_000
TRAIN, VALIDATION = "train", "val"
_HELD_OUT = 1000  # channels that the likelihood is checked on


class Samples(NamedTuple):
    """What a prior is fitted to.

    Attributes:
        h: training channels, (n, \\*shape); None where only pilots are seen.
        obs, r, no: the pilots instead.
        held_out: channels to check the likelihood on, or None.
    """

    h: torch.Tensor | None
    obs: QuantizedPilots | None = None
    r: torch.Tensor | None = None
    no: float = 0.0
    held_out: torch.Tensor | None = None

    @property
    def number(self) -> int:
        """How many."""
        return len(self.r if self.h is None else self.h)  # type: ignore[arg-type]


def prior_section(recipe: Any) -> dict[str, Any]:
    """The ``prior:`` section of a recipe; empty where it has none."""
    return {} if recipe is None else dict(recipe.plain().get("prior") or {})


def open_samples(config: PriorConfig, recipe: Any, on_note: Callable[[str], None]) -> Samples:
    """Draw or read what the prior is fitted to.

    Raises:
        InvalidValueError: no training split, no quantised pilots to learn from. StoreError: no such data set.
    """
    section = prior_section(recipe)
    number = config.num_samples
    if config.data is not None:
        return _from_disk(config, recipe, number)
    number = number or section.get("num_train") or DEFAULT_SAMPLES
    on_note(f"drawing {number:,} training samples of {recipe.name}")
    held_out = training_channels(recipe, _HELD_OUT, None, VALIDATION) if VALIDATION in recipe.split_names() else None
    if not config.from_observations:
        return Samples(training_channels(recipe, number, config.seed or None), held_out=held_out)
    snr_db = section.get("train_snr_db") if config.snr_db is None else config.snr_db
    obs, r, no = training_observations(recipe, number, snr_db, config.seed or None)
    return Samples(None, obs, r, no, held_out)


def training_channels(recipe: Any, number: int, seed: int | None = None, split: str = TRAIN) -> torch.Tensor:
    """Draw channels of a recipe's split, (number, num_rx_ant, num_tx_ant, num_ofdm_symbols, num_subcarriers).

    Args:
        recipe: name, path or `Recipe`.
        number: how many; they are the first of a data set.
        seed: default the recipe's.
        split: which split.
    """
    return _draw(recipe, number, seed, split, {}).h


def training_observations(
    recipe: Any, number: int, snr_db: float | None, seed: int | None = None, split: str = TRAIN
) -> tuple[QuantizedPilots, torch.Tensor, float]:
    """Draw quantised pilots of a recipe at one SNR: observation, its outputs (number, M), and the noise variance.

    Raises:
        InvalidValueError: a recipe of another kind, or no SNR.
    """
    from wichan.simulate import build_link

    if recipe is None or recipe.kind != "quantized":
        known = "a data set without recipe" if recipe is None else f"recipe {recipe.name!r} of kind {recipe.kind!r}"
        raise InvalidValueError(f"from_observations needs quantised pilots (a recipe of kind 'quantized'), not {known}")
    if snr_db is None:
        raise InvalidValueError("snr_db is missing: give the SNR [dB] of the pilots to learn from")
    batch = _draw(recipe, number, seed, split, {"conditions.snr_db": float(snr_db)})
    return build_link(recipe).observation, batch.y, float(batch.no[0])


def _draw(recipe: Any, number: int, seed: int | None, split: str, overrides: dict[str, Any]) -> Any:
    from wichan.simulate import load_recipe, stream

    loaded = load_recipe(recipe, overrides)
    if split not in loaded.split_names():
        raise InvalidValueError(
            f"recipe={loaded.name!r} has no split {split!r} to learn from (it has {', '.join(loaded.split_names())})"
        )
    options: dict[str, Any] = {"seed": seed, "split": split, "cell": "all"}
    return next(stream(loaded, batch_size=check_int("num_samples", number, minimum=1), num_batches=1, **options))


def _from_disk(config: PriorConfig, recipe: Any, number: int | None) -> Samples:
    """The first samples of the training split of a data set, or of all where it has no such split."""
    import wichan.store as store

    path = str(config.data)
    manifest = store.load_manifest(path)
    columns = {column.name for column in manifest.header.columns}
    wanted = ["y", "no"] if config.from_observations else ["h"]
    for name in wanted:
        if name not in columns:
            raise unknown_name(f"column needed from {path}", name, sorted(columns))
    splits = dict.fromkeys(cell.split for cell in manifest.cells)
    train = store.open(path, split=TRAIN if TRAIN in splits else None, columns=wanted)
    count = len(train) if number is None else number
    if not 1 <= count <= len(train):
        raise InvalidValueError(f"num_samples={count} is more than the {len(train)} samples of {path}")
    batch = train.batch(list(range(count)))
    held_out = None
    if VALIDATION in splits and "h" in columns:
        other = store.open(path, split=VALIDATION, columns=["h"])
        held_out = other.batch(list(range(min(len(other), _HELD_OUT))))["h"]
    if not config.from_observations:
        return Samples(batch["h"], held_out=held_out)
    return _observed(path, recipe, batch["y"], batch["no"], config, held_out)


def _observed(
    path: str, recipe: Any, y: torch.Tensor, no: torch.Tensor, config: PriorConfig, held_out: torch.Tensor | None
) -> Samples:
    from wichan.simulate import build_link

    if recipe is None or recipe.kind != "quantized":
        raise StoreError(f"{path} was not made from a recipe of kind 'quantized'; its pilots are not known")
    obs = build_link(recipe).observation
    level = float(no[0]) if config.snr_db is None else float(obs.no_from_snr_db(config.snr_db))
    near = (no.double() / level - 1).abs() < 1e-3
    if config.snr_db is None and not bool(near.all()):
        raise InvalidValueError(f"{path} holds pilots of several SNRs; name one of them with snr_db")
    if not bool(near.any()):
        raise InvalidValueError(f"snr_db={config.snr_db} is that of no sample in {path}")
    return Samples(None, obs, y[near], level, held_out)
