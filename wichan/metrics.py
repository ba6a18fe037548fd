"""How far an estimate is from the truth, and whether it knows it: NMSE, MSE, calibration of the error variance.

Two normalised errors live side by side because papers mix them up: `nmse` divides sums (large channels count more),
`nmse_mean_of_ratios` averages each sample's own ratio (faded channels count as much as strong ones).
All sums run in float64, whatever the input's precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_finite, check_int, check_tensor


class ErrorAndEnergy(NamedTuple):
    r"""Per-sample sums; resample both together (bootstrap) and divide their totals.

    Attributes:
        error: float64, (\*batch): sum of \|h - h_hat\|^2 over a sample.
        energy: float64, (\*batch): sum of \|h\|^2 over a sample.
    """

    error: torch.Tensor
    energy: torch.Tensor


class Calibration(NamedTuple):
    """Does ``err_var`` tell the truth? One row a bin of equal counts, by ascending ``err_var``.

    Attributes:
        mean_err_var: float64, (num_bins,): what the estimator claims.
        normalized_error: float64, (num_bins,): mean of |h - h_hat|^2 / err_var; 1 if calibrated.
        coverage_50: float64, (num_bins,): share of errors inside the 50 % disc of a complex Gaussian error.
        coverage_90: float64, (num_bins,): the same for 90 %.
        counts: int64, (num_bins,): elements in the bin.
        mean_error: float64, (num_bins,): mean of |h - h_hat|^2, the variance that the error really has.
    """

    mean_err_var: torch.Tensor
    normalized_error: torch.Tensor
    coverage_50: torch.Tensor
    coverage_90: torch.Tensor
    counts: torch.Tensor
    mean_error: torch.Tensor


def _check_pair(h_hat: torch.Tensor, h: torch.Tensor, *, kind: str = "any") -> None:
    for name, value in (("h_hat", h_hat), ("h", h)):
        check_tensor(name, value, kind=kind)
        if not (value.is_complex() or value.is_floating_point()):
            raise InvalidTypeError(f"{name} has dtype {value.dtype}; allowed are single and double precision, real or complex")
    # No broadcasting: an estimate of another shape than the truth is a mistake, and its error would look plausible.
    if h_hat.shape != h.shape:
        raise ShapeError(f"h_hat has shape {tuple(h_hat.shape)} but h has shape {tuple(h.shape)}; they must be equal")
    if not h.numel():
        raise ShapeError(f"h has shape {tuple(h.shape)}; it must hold at least one element")


def _squared(value: torch.Tensor) -> torch.Tensor:
    """Squared real and imaginary parts in float64, on a last axis; no square root as in abs(), so gradients hold at 0."""
    parts = torch.view_as_real(value.resolve_conj()) if value.is_complex() else value.unsqueeze(-1)
    return parts.to(torch.float64).square()


def _sums(h_hat: torch.Tensor, h: torch.Tensor, dims: tuple[int, ...]) -> ErrorAndEnergy:
    # One reduction over the samples' axes and the parts: to add the two parts first costs as much again.
    error, energy = _squared(h_hat - h).sum((*dims, -1)), _squared(h).sum((*dims, -1))
    if not torch.compiler.is_compiling() and not math.isfinite(float(error.detach().sum() + energy.detach().sum())):
        # The sums of finite inputs are finite, so one look at them spares two passes over the data.
        check_finite("h", h)
        check_finite("h_hat", h_hat)
        raise InvalidValueError("the squared values of h_hat and h overflow; scale both down")
    return ErrorAndEnergy(error, energy)


def _ratio(sums: ErrorAndEnergy) -> torch.Tensor:
    if not torch.compiler.is_compiling():
        silent = int((sums.energy.detach() == 0).sum())
        if silent:
            raise InvalidValueError(f"h has zero energy in {silent} of {sums.energy.numel()} references; the NMSE is undefined")
    return sums.error / sums.energy


def _reduced_axes(dim: int | Sequence[int] | None, num_axes: int) -> tuple[int, ...]:
    if dim is None:
        return tuple(range(num_axes))
    axes = (dim,) if isinstance(dim, int) else tuple(dim)
    axes = tuple(check_int("dim", axis, minimum=-num_axes, maximum=num_axes - 1) % num_axes for axis in axes)
    if not axes or len(set(axes)) != len(axes):
        raise InvalidValueError(f"dim={dim!r} must name at least one axis, and none twice")
    return axes


def _sample_axes(sample_dims: int, h: torch.Tensor) -> tuple[int, ...]:
    check_int("sample_dims", sample_dims, minimum=1, maximum=h.dim())
    return tuple(range(h.dim() - sample_dims, h.dim()))


def _decibel(ratio: torch.Tensor) -> torch.Tensor:
    return 10 * torch.log10(ratio)


def nmse(h_hat: torch.Tensor, h: torch.Tensor, dim: int | Sequence[int] | None = None) -> torch.Tensor:
    r"""Normalised mean squared error as a ratio of sums, :math:`\sum|h - \hat h|^2 / \sum|h|^2`.

    Args:
        h_hat: estimate, real or complex, any shape.
        h: truth, same shape.
        dim: axes to sum over; ``None`` means all.

    Returns:
        float64, scalar, or the axes that ``dim`` leaves. Differentiable.

    Raises:
        ShapeError: unequal shapes.
        InvalidValueError: NaN or infinity, or a reference without energy.
    """
    _check_pair(h_hat, h)
    return _ratio(_sums(h_hat, h, _reduced_axes(dim, h.dim())))


def nmse_db(h_hat: torch.Tensor, h: torch.Tensor, dim: int | Sequence[int] | None = None) -> torch.Tensor:
    """Return `nmse` in dB; a perfect estimate gives minus infinity."""
    return _decibel(nmse(h_hat, h, dim))


def nmse_mean_of_ratios(h_hat: torch.Tensor, h: torch.Tensor, sample_dims: int = 4) -> torch.Tensor:
    r"""Mean over samples of each sample's own :math:`\sum|h - \hat h|^2 / \sum|h|^2`.

    Faded samples weigh as much as strong ones. Where errors do not depend on the channel it exceeds `nmse` (Jensen).

    Args:
        h_hat: estimate, real or complex, (\*batch, \*sample).
        h: truth, same shape.
        sample_dims: how many trailing axes belong to one sample; 4 for a channel (rx, tx, symbols, subcarriers).

    Returns:
        float64 scalar. Differentiable.

    Raises:
        ShapeError: unequal shapes.
        InvalidValueError: NaN or infinity, or a sample without energy.
    """
    _check_pair(h_hat, h)
    return _ratio(_sums(h_hat, h, _sample_axes(sample_dims, h))).mean()


def nmse_mean_of_ratios_db(h_hat: torch.Tensor, h: torch.Tensor, sample_dims: int = 4) -> torch.Tensor:
    """Return `nmse_mean_of_ratios` in dB (the dB value of the mean, not the mean of dB values)."""
    return _decibel(nmse_mean_of_ratios(h_hat, h, sample_dims))


def mse(h_hat: torch.Tensor, h: torch.Tensor, dim: int | Sequence[int] | None = None) -> torch.Tensor:
    r"""Mean squared error, the mean of :math:`|h - \hat h|^2` per complex element.

    Args:
        h_hat: estimate, real or complex, any shape.
        h: truth, same shape.
        dim: axes to average over; ``None`` means all.

    Returns:
        float64, scalar, or the axes that ``dim`` leaves. Differentiable.

    Raises:
        ShapeError: unequal shapes.
        InvalidValueError: NaN or infinity.
    """
    _check_pair(h_hat, h)
    axes = _reduced_axes(dim, h.dim())
    return _sums(h_hat, h, axes).error / math.prod(h.shape[axis] for axis in axes)


def error_and_energy(h_hat: torch.Tensor, h: torch.Tensor, sample_dims: int = 4) -> ErrorAndEnergy:
    r"""Per-sample sums of error and energy, from which both NMSEs and their bootstrap intervals follow.

    Args:
        h_hat: estimate, real or complex, (\*batch, \*sample).
        h: truth, same shape.
        sample_dims: how many trailing axes belong to one sample.

    Returns:
        `ErrorAndEnergy`, float64, each (\*batch).

    Raises:
        ShapeError: unequal shapes.
        InvalidValueError: NaN or infinity.
    """
    _check_pair(h_hat, h)
    return _sums(h_hat, h, _sample_axes(sample_dims, h))


def _check_err_var(err_var: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    check_tensor("err_var", err_var, kind="real")
    try:
        expanded = err_var.expand(h.shape)
    except RuntimeError:
        raise ShapeError(f"err_var has shape {tuple(err_var.shape)}; it must broadcast to {tuple(h.shape)} of h") from None
    check_finite("err_var", err_var)
    bad = int((err_var <= 0).sum())
    if bad:
        raise InvalidValueError(
            f"err_var holds {bad} of {err_var.numel()} values that are not above 0; calibration divides by it"
        )
    return expanded


@torch.no_grad()
def calibration(h_hat: torch.Tensor, err_var: torch.Tensor, h: torch.Tensor, num_bins: int = 10) -> Calibration:
    r"""Compare the claimed error variance with the real error, in bins of equal counts (deciles) of ``err_var``.

    For a calibrated estimator :math:`|h - \hat h|^2 / \mathrm{err\_var}` has mean 1 in every bin. If the error is complex
    Gaussian it is Exp(1), so a share p of the errors lies within :math:`|h - \hat h|^2 \le -\ln(1-p)\,\mathrm{err\_var}`.
    Equal values of ``err_var`` are dealt to bins in the order in which they lie in memory.

    Args:
        h_hat: estimate, complex, any shape.
        err_var: claimed variance, real and above 0, broadcasts to ``h``.
        h: truth, complex, same shape as ``h_hat``.
        num_bins: number of bins.

    Returns:
        `Calibration`, each field (num_bins,).

    Raises:
        ShapeError: shapes that do not fit.
        InvalidValueError: NaN or infinity, ``err_var`` not above 0, or fewer elements than bins.
    """
    _check_pair(h_hat, h, kind="complex")
    check_int("num_bins", num_bins, minimum=1, maximum=h.numel())
    variance = _check_err_var(err_var, h).to(torch.float64).flatten()
    squared = _squared(h_hat - h).sum(-1).flatten()
    if not math.isfinite(float(squared.sum())):
        check_finite("h", h)
        check_finite("h_hat", h_hat)
        raise InvalidValueError("the squared values of h_hat and h overflow; scale both down")
    variance, order = variance.sort(stable=True)
    squared = squared[order]
    normalized = squared / variance
    rows = []
    for claimed, ratio, made in zip(*(part.tensor_split(num_bins) for part in (variance, normalized, squared)), strict=True):
        inside = [(ratio <= -math.log1p(-share)).to(torch.float64).mean() for share in (0.5, 0.9)]
        rows.append(torch.stack([claimed.mean(), ratio.mean(), *inside, made.mean()]))
    table = torch.stack(rows)
    counts = torch.tensor([part.numel() for part in normalized.tensor_split(num_bins)], device=h.device)
    claimed, ratio, half, most, made = table.unbind(1)
    return Calibration(claimed, ratio, half, most, counts, made)
