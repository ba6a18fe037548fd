"""Estimators of a channel over an IRS for ``wichan evaluate``: greedy, sparse Bayesian, and what is told the paths."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from wichan.errors import InvalidValueError, check_noise, check_shape, check_tensor
from wichan.estimators.base import Estimate, Estimator
from wichan.evaluation.baselines import Built
from wichan.evaluation.setting import Setting
from wichan.random import make_generator

#: Share of a channel's energy that may lie beside the grid points next to its paths: single precision leaves 1e-12.
GRID_TOLERANCE = 1e-6
_TRIALS = 8


def build_omp(setting: Setting) -> Built:
    """Orthogonal matching pursuit over all coefficients, until the residual is noise."""
    from wichan.estimators import OMP

    return Built(OMP(setting.irs_dictionary), note=f"residual down to the noise, {grid_text(setting)}")


def build_kron_omp(setting: Setting) -> Built:
    """Kronecker OMP: one atom an axis at a time, normalised atoms, until the residual is noise."""
    from wichan.estimators import KroneckerOMP

    return Built(
        KroneckerOMP(setting.irs_dictionary), note=f"normalised atoms, residual down to the noise, {grid_text(setting)}"
    )


def build_kron_omp_published(setting: Setting) -> Built:
    """Kronecker OMP as in the published comparison: raw atoms, relative residual of 1 %, at most 10 atoms an axis."""
    from wichan.estimators import KroneckerOMP

    est = KroneckerOMP(setting.irs_dictionary, form="published")
    return Built(est, note=f"raw atoms, relative residual of 1 %, {grid_text(setting)}")


def build_sbl(setting: Setting) -> Built:
    """Classical sparse Bayesian learning, a prior variance for every coefficient; dense and slow."""
    from wichan.estimators import SBL

    return Built(SBL(setting.irs_dictionary), note=f"a prior variance for each coefficient, {grid_text(setting)}")


def build_pc_sbl(setting: Setting) -> Built:
    """Pattern-coupled sparse Bayesian learning along the flattened coefficients; dense and slow."""
    from wichan.estimators import PCSBL

    return Built(
        PCSBL(setting.irs_dictionary), note=f"neighbours coupled along the flattened coefficients, {grid_text(setting)}"
    )


def build_kron_sbl_am(setting: Setting) -> Built:
    """Kronecker sparse Bayesian learning, M-step by alternating minimisation."""
    return _kronecker_sbl(setting, "am")


def build_kron_sbl_svd(setting: Setting) -> Built:
    """Kronecker sparse Bayesian learning, M-step by a rank-one fit."""
    return _kronecker_sbl(setting, "svd")


def build_kron_sbl_single(setting: Setting) -> Built:
    """Kronecker sparse Bayesian learning, M-step of a single sweep: the earlier form."""
    return _kronecker_sbl(setting, "single")


def build_kron_sbl_mm(setting: Setting) -> Built:
    """Kronecker sparse Bayesian learning, M-step by majorisation."""
    return _kronecker_sbl(setting, "mm")


def build_kron_sbl_pc(setting: Setting) -> Built:
    """Kronecker sparse Bayesian learning by rank-one fits, neighbours coupled at the surface and at the base station."""
    section = setting.recipe.sbl
    return _kronecker_sbl(setting, "svd", couple=tuple(section.couple), coupling=section.coupling)


def _kronecker_sbl(setting: Setting, m_step: str, **options: Any) -> Built:
    from wichan.estimators import KroneckerSBL

    section = setting.recipe.sbl
    est = KroneckerSBL(setting.irs_dictionary, m_step, max_iter=section.max_iter, tol=section.tol, **options)
    coupled = f" coupled along {' and '.join(options['couple'])}," if options.get("couple") else ""
    return Built(est, note=f"M-step {m_step},{coupled} at most {section.max_iter} iterations, {grid_text(setting)}")


def build_ls_irs(setting: Setting) -> Built:
    """Least squares pattern by pattern, without any structure; for as many pilots as the terminal has antennas."""
    check_buildable("ls-irs", setting)
    return Built(PatternLS(setting.irs), note="every pattern alone, no structure")


def build_oracle_ls(setting: Setting) -> Built:
    """Least squares on the atoms of the true paths, which it is told; a reference, on a grid that the paths keep to."""
    check_buildable("oracle-ls", setting)
    est = ToldPaths(setting)
    return Built(est, told=est.told, note=f"least squares on the true support, {grid_text(setting)}")


def check_buildable(name: str, setting: Setting) -> None:
    """Raise where a named estimator lacks what it is made of, before the others have done their work.

    Raises:
        InvalidValueError: a reference that is told the support, where paths lie between the points of the grid; least squares
            with fewer pilots than antennas.
    """
    training = setting.irs
    num_ms_ant = training.channel_shape[1]
    if name == "ls-irs" and int(torch.linalg.matrix_rank(training.pilots)) < num_ms_ant:
        raise InvalidValueError(
            f"estimator 'ls-irs' needs at least {num_ms_ant} independent pilots, one for each antenna of the terminal; recipe "
            f"{setting.recipe.name!r} has {training.num_pilots} (--set num_pilots={num_ms_ant} --set training.pilots=dft)"
        )
    reason = off_grid(setting) if name == "oracle-ls" else None
    if reason is not None:
        raise InvalidValueError(
            f"estimator {name!r} cannot be built for recipe {setting.recipe.name!r}: {reason}; leave it out (--reference none)"
        )


# -- Dictionary, grid and paths. --


def grid_text(setting: Setting) -> str:
    """How many points the grid has, for a note."""
    return "grid of " + " x ".join(str(number) for number in setting.irs_dictionary.num_atoms)


def path_names(setting: Setting) -> tuple[str, ...]:
    """Columns that say where the paths of a channel go, as far as the dictionary asks for them."""
    dictionary = setting.irs_dictionary
    ends = ["ms_irs_arrival", "ms_irs_departure", "irs_bs_arrival", "irs_bs_departure"]
    ends += ["direct_arrival", "direct_departure"] if dictionary.has_direct else []
    if "delay" in dictionary.names:
        ends += ["ms_irs_delay", "irs_bs_delay", *(["direct_delay"] if dictionary.has_direct else [])]
    return tuple(ends)


def has_support(setting: Setting) -> bool:
    """Whether the recipe's channels tell their paths, so that a support can be compared with them."""
    return set(path_names(setting)) <= set(setting.link.source.draw_columns)


def off_grid(setting: Setting) -> str | None:
    """Why least squares on the atoms next to the paths would not be exact; None: it is.

    A few channels are projected on those atoms.
    """
    if not has_support(setting):
        return "its channels do not tell the directions of their paths"
    training, dictionary = (copy.deepcopy(part).cpu() for part in (setting.irs, setting.irs_dictionary))
    draw = training.irs.sample(_TRIALS, generator=make_generator(setting.seed, "grid")).double()
    h = training.channel(draw)
    supports, synthesis = dictionary.mode_support(draw), dictionary.synthesis
    assert synthesis is not None
    for index in range(_TRIALS):
        # (Nbs, Nms, K, F) with the axes of the factors: K, Nms, Nbs and, over a wide band, F.
        rest = h[index].permute(2, 1, 0, 3)
        for axis, (atoms, marked) in enumerate(zip(synthesis, supports, strict=True)):
            basis = torch.linalg.qr(atoms[:, marked[index]].to(rest.dtype)).Q
            rest = torch.movedim(torch.tensordot(basis @ basis.mH, rest, dims=([1], [axis])), 0, axis)
        missed = (h[index].permute(2, 1, 0, 3) - rest).abs().square().sum()
        if float(missed) > GRID_TOLERANCE * float(h[index].abs().square().sum()):
            return "its paths lie between the points of the dictionary's grid"
    return None


class TrueSupport:
    """Support of channels from the columns that tell their paths; the nearest points where these lie between the grid's.

    Args:
        setting: the link.
        who: what asks, for the error.

    Raises:
        InvalidValueError: channels that do not tell their paths.
    """

    def __init__(self, setting: Setting, who: str) -> None:
        if not has_support(setting):
            raise InvalidValueError(
                f"{who} does not apply to recipe {setting.recipe.name!r}: its channels do not tell their directions"
            )
        self._dictionary = setting.irs_dictionary
        self.told = path_names(setting)

    def __call__(self, conditions: Mapping[str, Any], dictionary: Any = None) -> torch.Tensor | None:
        """Support in a dictionary (default the recipe's), bool (n, N1, ..., NI); None for one that knows no directions."""
        known = self._dictionary if dictionary is None else dictionary
        if not hasattr(known, "support"):
            return None
        support: torch.Tensor = known.support({name: conditions[name] for name in self.told})
        return support


class PatternLS(Estimator):
    r"""Least squares of every pattern by itself, :math:`\hat G_k = Y_k X^+`: no surface, no directions, no grid.

    Args:
        observation: a `wichan.observations.IRSTraining` with at least as many independent pilots as antennas.
    """

    def __init__(self, observation: Any) -> None:
        super().__init__()
        self.observation = observation

    def forward(self, y: torch.Tensor, no: Any) -> Estimate:  # type: ignore[override]
        r"""Estimate the channel of observations (\*batch, M).

        ``err_var`` is :math:`\mathrm{no}\, ((X X^H)^{-1})_{mm}`, exact.
        """
        check_shape("y", check_tensor("y", y, kind="complex"), (self.observation.num_measurements,))
        inverse = torch.linalg.pinv(self.observation.pilots.to(torch.complex128))  # (P, Nms)
        received = y.unflatten(-1, self.observation.measurement_shape)
        h_hat = torch.einsum("pm,...kpbf->...bmkf", inverse.to(y.dtype), received)
        noise = check_noise(no, y.shape[:-1], dtype=h_hat.real.dtype, device=y.device)
        spread = inverse.abs().square().sum(dim=0).to(noise)[:, None, None]
        return Estimate(h_hat, (noise[..., None, None, None, None] * spread).expand(h_hat.shape))


class ToldPaths(Estimator):
    """`wichan.estimators.OracleLS` that is told the columns of the paths.

    Args:
        setting: the link.

    Attributes:
        told: the columns.
        dictionary: the recipe's.
    """

    def __init__(self, setting: Setting) -> None:
        from wichan.estimators import OracleLS

        super().__init__()
        self.told = path_names(setting)
        self.dictionary = setting.irs_dictionary
        # On the joint support: where paths do not pair in all ways it is smaller than the product of one support an axis.
        self.estimator = OracleLS(self.dictionary, form="full")

    def forward(self, y: torch.Tensor, no: Any, **paths: Any) -> Estimate:
        """Estimate the channel of observations (n, M); ``paths`` have a leading axis n."""
        result: Estimate = self.estimator(y, no, support=self.dictionary.support(paths))
        return result
