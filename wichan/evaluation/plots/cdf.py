"""Distribution of the fading power."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from wichan.analysis.distribution import empirical_cdf, fading_power_cdf
from wichan.analysis.rician import k_factor, specular_and_scattered
from wichan.channels.covariance_terms import KroneckerTerm
from wichan.errors import WichanError
from wichan.evaluation.figure import figure_canvas, png_bytes
from wichan.evaluation.plots.draw import DATA, THEORY, Picture, decibels, title
from wichan.evaluation.plots.view import ChannelView, Expected

_POINTS = 400


class Law(NamedTuple):
    """A Rician law of part of the elements: share, mean power, K."""

    weight: float
    mean_power: float
    k_factor: float


def cdf(view: ChannelView) -> Picture:
    """Power of single elements beside Rayleigh's or Rice's law, and mean power of whole samples."""
    power = view.h.abs().square()
    laws = _laws(view)
    x, p = empirical_cdf(power, num_points=_POINTS)
    of_sample, q = empirical_cdf(power.mean(dim=(1, 2, 3, 4)), num_points=_POINTS)
    with figure_canvas(8.6, 3.7, 2) as (figure, axes):
        axes[0].plot(decibels(x), p, **DATA)
        numbers: dict[str, float | None] = {
            "measured_mean_power": float(power.mean()),
            "measured_k_factor": float(k_factor(view.h)) if power.numel() > 1 else None,
            "sample_mean_power_db_10": _quantile(of_sample, q, 0.1),
            "sample_mean_power_db_90": _quantile(of_sample, q, 0.9),
        }
        if laws:
            numbers |= _draw_law(axes[0], laws, x, p)
        axes[0].set_yscale("log")
        axes[0].set_ylim(1e-3, 1.3)
        axes[0].set_xlim(float(decibels(x[(p >= 1e-3).nonzero()[0]])) - 3, float(decibels(x[-1])) + 2)
        axes[0].set_xlabel("$|h|^2$ of an element [dB]")
        axes[0].set_ylabel("share at or below")
        axes[0].set_title("fading of the elements")
        axes[0].legend(loc="lower right")
        axes[1].plot(decibels(of_sample), q, **DATA)
        axes[1].set_ylim(0, 1)
        axes[1].set_xlabel("mean power of a sample [dB]")
        axes[1].set_title(f"{view.h.shape[0]:,} samples")
        title(figure, view.title)
        return Picture(png_bytes(figure), numbers)


def _quantile(value: torch.Tensor, probability: torch.Tensor, level: float) -> float:
    return float(decibels(value[int((probability >= level).nonzero()[0])]))


def _draw_law(axis: object, laws: list[Law], x: torch.Tensor, p: torch.Tensor) -> dict[str, float | None]:
    low, high = float(decibels(x).clamp_min(-60).min()), float(decibels(x[-1])) + 3
    level = torch.linspace(low, high, _POINTS, dtype=torch.float64)
    axis.plot(level, _mixture(laws, 10 ** (level / 10)), **(THEORY | {"label": _name(laws)}))  # type: ignore[attr-defined]
    mean = sum(law.weight * law.mean_power for law in laws)
    scattered = sum(law.weight * law.mean_power / (1 + law.k_factor) for law in laws)
    return {
        "theory_mean_power": mean,
        "theory_k_factor": mean / scattered - 1 if scattered > 0 else math.inf,
        "largest_cdf_difference": float((_mixture(laws, x) - p).abs().max()),
    }


def _mixture(laws: list[Law], x: torch.Tensor) -> torch.Tensor:
    total = torch.zeros_like(x, dtype=torch.float64)
    for law in laws:
        total = total + law.weight * fading_power_cdf(x, mean_power=law.mean_power, k_factor=law.k_factor)
    return total


def _name(laws: list[Law]) -> str:
    largest = max(law.k_factor for law in laws)
    if largest == 0:
        return "Rayleigh"
    if len({round(law.k_factor, 6) for law in laws}) == 1:
        return f"Rice, K = {10 * math.log10(largest):.1f} dB"
    return "Rayleigh and Rice, mixed"


def _laws(view: ChannelView) -> list[Law]:
    """One law for each antenna pair of each model, equal ones merged."""
    laws: dict[tuple[float, float], float] = {}
    for part in view.theory:
        for power, k in _pairs(part):
            key = (round(power, 9), round(k, 9))
            laws[key] = laws.get(key, 0.0) + part.weight / (part.covariance.sizes[0])
    return [Law(weight, *key) for key, weight in laws.items() if key[0] > 0]


def _pairs(part: Expected) -> list[tuple[float, float]]:
    """Mean power and K of every antenna pair. Delay spread and Doppler change neither, so one condition tells all."""
    covariance = part.covariance[0] if part.covariance.batch_shape else part.covariance
    power = covariance.diagonal().flatten(0, 1).mean((-2, -1))
    specular = torch.zeros_like(power)
    last = covariance.terms[-1]
    if part.model is not None and isinstance(last, KroneckerTerm) and _has_specular(part):
        specular = last.diagonal().mean((-2, -1))  # a model lists its line of sight last
    k = specular / (power - specular).clamp_min(1e-300)
    return list(zip(power.tolist(), k.tolist(), strict=True))


def _has_specular(part: Expected) -> bool:
    try:
        return specular_and_scattered(part.model)[0] > 0
    except WichanError:
        return False
