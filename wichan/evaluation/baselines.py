"""Estimators by name: one line here makes a method known to ``wichan evaluate``.

A builder takes a `Setting` (what is known beforehand) and returns a `Built`: the estimator, the conditions that it is told
for each channel, and how it was made. Estimators that are told conditions are ranked apart from those that are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError
from wichan.estimators.base import Estimate, Estimator
from wichan.evaluation.setting import Setting
from wichan.registry import Registry

# For recipes of kind ``ofdm``: unquantised pilots on a grid.
_OFDM = {
    "ls": "wichan.evaluation.baselines:build_ls",
    "ls-nearest": "wichan.evaluation.baselines:build_ls_nearest",
    "lmmse-pooled": "wichan.evaluation.baselines:build_lmmse_pooled",
    "lmmse-kronecker": "wichan.evaluation.baselines:build_lmmse_kronecker",
    "lmmse-separable": "wichan.evaluation.baselines:build_lmmse_separable",
    "lmmse-plugin": "wichan.evaluation.plugin:build_lmmse_plugin",
    "lmmse-bank": "wichan.evaluation.bank:build_lmmse_bank",
    "delay-doppler-mixture": "wichan.evaluation.mixture_baseline:build_delay_doppler_mixture",
    "lmmse-genie": "wichan.evaluation.baselines:build_lmmse_genie",
    "linear": "wichan.evaluation.learned:build_linear",
    "cevit": "wichan.evaluation.learned:build_cevit",
    "cevit-blind": "wichan.evaluation.learned:build_cevit_blind",
    "fortitran": "wichan.evaluation.learned:build_fortitran",
    "adafortitran": "wichan.evaluation.learned:build_adafortitran",
    "adafortitran-blind": "wichan.evaluation.learned:build_adafortitran_blind",
    "sionna-ls": "wichan.integrations.sionna.baseline:build_ls",
    "sionna-lmmse": "wichan.integrations.sionna.baseline:build_lmmse",
}
# For recipes of kind ``quantized``: what coarse converters leave of the pilots.
_QUANTIZED = {
    "bls": "wichan.evaluation.quantized_baselines:build_bls",
    "blmmse": "wichan.evaluation.quantized_baselines:build_blmmse",
    "bussgang-gmm": "wichan.evaluation.quantized_baselines:build_bussgang_gmm",
    "bussgang-mfa": "wichan.evaluation.quantized_baselines:build_bussgang_mfa",
    "bussgang-vae": "wichan.evaluation.quantized_baselines:build_bussgang_vae",
    "bussgang-gmm-quantized": "wichan.evaluation.quantized_baselines:build_bussgang_gmm_quantized",
    "bussgang-mfa-quantized": "wichan.evaluation.quantized_baselines:build_bussgang_mfa_quantized",
    "bussgang-genie": "wichan.evaluation.quantized_baselines:build_bussgang_genie",
    "cme-gibbs": "wichan.evaluation.quantized_baselines:build_cme_gibbs",
}
# For recipes of kind ``irs``: training of a reflected channel.
_IRS = {
    "omp": "wichan.evaluation.irs_baselines:build_omp",
    "kron-omp": "wichan.evaluation.irs_baselines:build_kron_omp",
    "kron-omp-published": "wichan.evaluation.irs_baselines:build_kron_omp_published",
    "sbl": "wichan.evaluation.irs_baselines:build_sbl",
    "pc-sbl": "wichan.evaluation.irs_baselines:build_pc_sbl",
    "kron-sbl-am": "wichan.evaluation.irs_baselines:build_kron_sbl_am",
    "kron-sbl-svd": "wichan.evaluation.irs_baselines:build_kron_sbl_svd",
    "kron-sbl-single": "wichan.evaluation.irs_baselines:build_kron_sbl_single",
    "kron-sbl-mm": "wichan.evaluation.irs_baselines:build_kron_sbl_mm",
    "kron-sbl-pc": "wichan.evaluation.irs_baselines:build_kron_sbl_pc",
    "ls-irs": "wichan.evaluation.irs_baselines:build_ls_irs",
    "oracle-ls": "wichan.evaluation.irs_baselines:build_oracle_ls",
}
_KINDS = {"ofdm": _OFDM, "quantized": _QUANTIZED, "irs": _IRS}
#: name -> builder ``(setting) -> Built``.
BASELINES = Registry("estimator", _OFDM | _QUANTIZED | _IRS)


@dataclass(frozen=True)
class Built:
    """An estimator that is ready to run.

    Args:
        estimator: called as ``estimator(y, no, **conditions)``; returns an `Estimate` or ``h_hat`` alone.
        told: names of the conditions that it is told, columns of a batch such as ``"delay_spread"``.
        note: how it was made, for the report.
    """

    estimator: Callable[..., Any]
    told: tuple[str, ...] = ()
    note: str = ""


def build_ls(setting: Setting) -> Built:
    """Least squares at the pilots, linear interpolation."""
    from wichan.estimators import LS

    return Built(LS(setting.observation, interpolation="linear"), note="linear interpolation")


def build_ls_nearest(setting: Setting) -> Built:
    """Least squares at the pilots, nearest pilot."""
    from wichan.estimators import LS

    return Built(LS(setting.observation, interpolation="nearest"), note="nearest pilot")


def _build_pooled(setting: Setting, structure: str) -> Built:
    from wichan.estimators import LMMSE

    lmmse = LMMSE(setting.observation, setting.pooled.covariance, structure=structure)
    return Built(lmmse, note=f"pooled covariance: {setting.pooled.note}")


def build_lmmse_pooled(setting: Setting) -> Built:
    """LMMSE with the covariance over all conditions of the recipe: the best linear one that is told nothing."""
    return _build_pooled(setting, "joint")


def build_lmmse_kronecker(setting: Setting) -> Built:
    """As lmmse-pooled, the covariance approximated by one Kronecker product over antennas, times and subcarriers."""
    return _build_pooled(setting, "kronecker")


def build_lmmse_separable(setting: Setting) -> Built:
    """As lmmse-pooled, but one filter in frequency and then one in time."""
    return _build_pooled(setting, "separable")


def build_lmmse_genie(setting: Setting) -> Built:
    """LMMSE with the exact covariance of each channel's own conditions, which it is told."""
    if not all(setting.model(name).has_closed_form for name in setting.profile_weights):
        raise InvalidValueError(
            f"estimator 'lmmse-genie' cannot be built for source {setting.recipe.source!r}: no closed-form covariance; "
            "leave it out (--estimators ls,lmmse-pooled --reference none)"
        )
    names = tuple(setting.arguments(setting.draw_conditions({})))
    told = (*names, "profile") if "profile" in setting.laws else names
    return Built(ConditionGenie(setting), told=told, note="covariance of each channel's own conditions")


class ConditionGenie(Estimator):
    """LMMSE that is told delay spread, Doppler, ... of each channel, and its profile.

    Frames with equal conditions (one channel at several noise levels, or a law with few choices) share one filter.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting = setting

    def forward(self, y: torch.Tensor, no: Any, *, profile: Any = None, **conditions: torch.Tensor) -> Estimate:
        """Estimate; ``conditions`` are (batch,), ``profile`` a list of names (or None)."""
        batch = y.shape[0]
        names = list(profile) if profile is not None else [""] * batch
        noise = torch.as_tensor(no, device=y.device).expand(batch)
        parts: list[tuple[torch.Tensor, Estimate]] = []
        for name in dict.fromkeys(names):
            index = torch.tensor([i for i, other in enumerate(names) if other == name], device=y.device)
            picked = {key: value[index.to(value.device)] for key, value in conditions.items()}
            parts.append((index, self._of_profile(name, y[index], noise[index], picked)))
        if len(parts) == 1:
            return parts[0][1]
        order = torch.argsort(torch.cat([index for index, _ in parts]))
        h_hat, err_var = (torch.cat([getattr(part, field) for _, part in parts])[order] for field in Estimate._fields)
        return Estimate(h_hat, err_var)

    def _of_profile(self, profile: str, y: torch.Tensor, no: torch.Tensor, conditions: Mapping[str, torch.Tensor]) -> Estimate:
        columns = {key: value.to("cpu", torch.float64) for key, value in conditions.items()}
        rows = torch.stack(list(columns.values()), dim=1) if columns else torch.zeros(y.shape[0], 1, dtype=torch.float64)
        distinct, owner, counts = rows.unique(dim=0, return_inverse=True, return_counts=True)
        if distinct.shape[0] == 1:
            return self._filter(profile, {key: value[0] for key, value in columns.items()}, y)(y, no)
        width = int(counts.max())
        if width * distinct.shape[0] > 2 * y.shape[0]:  # counts too uneven to lay frames out in a rectangle
            return self._filter(profile, columns, y)(y, no)
        # Frame i goes to row owner[i] (its conditions) and the next free place in it; empty places see noise only.
        order = owner.argsort(stable=True)
        place = torch.empty_like(owner)
        place[order] = torch.arange(owner.numel()) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        flat = (owner * width + place).to(y.device)
        spread_y = y.new_zeros(distinct.shape[0] * width, *y.shape[1:]).index_copy(0, flat, y)
        spread_no = no.new_ones(distinct.shape[0] * width).index_copy(0, flat, no)
        shape = (distinct.shape[0], width)
        lmmse = self._filter(profile, dict(zip(columns, distinct.unbind(1), strict=True)), y)
        result = lmmse(spread_y.unflatten(0, shape), spread_no.unflatten(0, shape))
        return Estimate(*(part.flatten(0, 1)[flat] for part in result))

    def _filter(self, profile: str, columns: Mapping[str, torch.Tensor], y: torch.Tensor) -> Estimator:
        from wichan.estimators import LMMSE

        covariance = self.setting.covariance(profile, columns)
        return LMMSE(self.setting.observation.to(y.device), covariance.to(y.device))


def kind_of(name: str) -> str | None:
    """Kind of recipe that a baseline is made for; None where it does not say (one that somebody else registered)."""
    return next((kind for kind, names in _KINDS.items() if name in names), None)


def resolve(entry: Any, name: str, setting: Setting) -> Built:
    """Make an estimator ready: a name (registered, of a released model, a path of weights), a `Built`, or an object to call.

    An object may say in an attribute ``told`` (a tuple of names) which conditions it wants.
    """
    if entry is None or isinstance(entry, str):
        built = _by_name(entry or name, setting)
    elif isinstance(entry, Built):
        built = entry
    elif callable(entry):
        built = Built(entry, told=tuple(getattr(entry, "told", ())), note="given")
    else:
        raise InvalidTypeError(f"estimators[{name!r}] must be a name or callable as (y, no), got {type(entry).__name__}")
    return built


def _by_name(word: str, setting: Setting) -> Built:
    if word in BASELINES:
        made: Built = BASELINES[word](setting)
        return made
    from wichan.evaluation.learned import build_learned
    from wichan.evaluation.names import check_known
    from wichan.evaluation.quantized_baselines import build_given

    check_known(word)
    if setting.recipe.kind == "irs":
        raise InvalidValueError(
            f"estimator {word!r} is a set of weights, which recipe {setting.recipe.name!r} of kind 'irs' has no use for"
        )
    return build_given(word, setting) if setting.recipe.kind == "quantized" else build_learned(word, setting)
