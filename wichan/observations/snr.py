"""SNR conventions by name, and the way from one to the other.

Every convention is a ratio ``power / no`` with its own idea of the power; converting means finding ``no``. The page
``docs/snr.md`` explains each with numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, check_choice, check_finite, check_real, check_tensor


@dataclass(frozen=True)
class SNRConvention:
    """One way to say how noisy an observation is.

    Args:
        name: the name that recipes and cards use.
        formula: what is divided by what.
        description: when it is used and what it hides.
    """

    name: str
    formula: str
    description: str


SNR_CONVENTIONS: dict[str, SNRConvention] = {
    item.name: item
    for item in (
        SNRConvention(
            "pilot",
            "E|sum_a p_a h_a|^2 / no",
            "Power of the pilot signal that arrives at a receive antenna's pilot element, over the noise there. Boost and the "
            "energy of all antennas that share the element count. The default of OFDM pilots.",
        ),
        SNRConvention(
            "grid-measured",
            "(num_pilots / num_resource_elements) E|sum_a p_a h_a|^2 / no",
            "Power measured over all resource elements of the grid, most of them empty: what MATLAB's awgn(.., 'measured') "
            "gives on a pilots-only grid. A pilot is better by 10 log10(num_resource_elements / num_pilots) dB.",
        ),
        SNRConvention(
            "dense",
            "E||A h||^2 / (M no)",
            "Mean power of a measurement of a dense linear observation with M rows, over its noise.",
        ),
        SNRConvention(
            "quantised",
            "E|h|^2 / no, which is 1 / no for unit-power antennas",
            "Power of the channel at a receive antenna before the quantiser; pilot energy does not count.",
        ),
        SNRConvention(
            "per-realisation",
            "mean over the sample |signal|^2 / no",
            "Like 'pilot' or 'dense', with the power of this realisation instead of its expectation: fading leaves the SNR, "
            "and weak channels get weak noise. Needs the channels h.",
        ),
        SNRConvention(
            "grid-measured-realised",
            "(num_pilots / num_resource_elements) mean over the sample |signal|^2 / no",
            "'grid-measured' with the power of this realisation: what scripts that call awgn(.., 'measured') slot by slot do.",
        ),
    )
}


def _realised_power(obs: Any, h: Any) -> torch.Tensor:
    """Power of each realisation's signal; axes after the batch (and the receive antennas of an OFDM grid) are averaged."""
    if h is None:
        raise InvalidValueError("h is missing; an SNR convention of each realisation needs the channels")
    signal = obs.project(check_finite("h", check_tensor("h", h, kind="complex")))
    return signal.abs().square().mean(dim=(-2, -1) if hasattr(obs, "grid") else -1)


def _reference_power(convention: str, obs: Any, mean_power: float, h: Any) -> Any:
    """The numerator of the SNR."""
    check_choice("convention", convention, SNR_CONVENTIONS)
    power = check_real("mean_power", mean_power, positive=True)
    if convention == "quantised":
        return power
    if obs is None or not hasattr(obs, "signal_power"):
        raise InvalidTypeError(f"obs must be a linear observation for SNR convention {convention!r}, got {type(obs).__name__}")
    share = 1.0
    if convention.startswith("grid-measured"):
        if not hasattr(obs, "grid"):
            raise InvalidValueError(f"the SNR convention {convention!r} needs pilots on a grid, got {type(obs).__name__}")
        share = obs.num_pilots / obs.grid.num_resource_elements
    if convention in ("per-realisation", "grid-measured-realised"):
        return share * _realised_power(obs, h)
    return share * power * obs.signal_power


def _check_snr(snr_db: Any) -> Any:
    if isinstance(snr_db, torch.Tensor):
        return check_finite("snr_db", check_tensor("snr_db", snr_db, kind="real"))
    return check_real("snr_db", snr_db)


def no_from_snr_db(snr_db: Any, convention: str = "pilot", obs: Any = None, *, mean_power: float = 1.0, h: Any = None) -> Any:
    """Noise variance that gives an SNR.

    Args:
        snr_db: a number, or a real tensor (for conventions of a realisation: one that fits the batch of ``h``).
        convention: a key of `SNR_CONVENTIONS`.
        obs: the observation (not needed for "quantised").
        mean_power: E|h|^2 of the channel model, greater than 0.
        h: channels, for "per-realisation" and "grid-measured-realised" only.

    Returns:
        A float for a number, a tensor for a tensor (and always for conventions of a realisation).

    Raises:
        UnknownNameError, InvalidValueError, InvalidTypeError: unknown name, missing ``obs`` or ``h``, SNR not finite.
    """
    power = _reference_power(convention, obs, mean_power, h)
    snr = _check_snr(snr_db)
    if isinstance(snr, float):
        return power / 10 ** (snr / 10)
    return power * torch.pow(10.0, -snr / 10)


def snr_db_from_no(no: Any, convention: str = "pilot", obs: Any = None, *, mean_power: float = 1.0, h: Any = None) -> Any:
    """SNR [dB] of a noise variance; the inverse of `no_from_snr_db` (``no = 0`` gives infinity)."""
    power = _reference_power(convention, obs, mean_power, h)
    if isinstance(no, torch.Tensor) or isinstance(power, torch.Tensor):
        variance = check_finite("no", check_tensor("no", torch.as_tensor(no, dtype=None), kind="any"))
        if variance.is_complex():
            raise InvalidTypeError(f"no has dtype {variance.dtype}; a noise variance is real")
        if variance.numel() and float(variance.min()) < 0:
            raise InvalidValueError(f"no={float(variance.min()):g} must be at least 0")
        return 10 * torch.log10(power / variance)
    number = check_real("no", no, minimum=0.0)
    return 10 * math.log10(power / number) if number else math.inf


def convert_snr_db(snr_db: Any, source: str, target: str, obs: Any = None, *, mean_power: float = 1.0, h: Any = None) -> Any:
    """The same noise, said in another convention.

    Args:
        snr_db: SNR under ``source`` [dB], a number or a tensor.
        source: a key of `SNR_CONVENTIONS`.
        target: a key of `SNR_CONVENTIONS`.
        obs, mean_power, h: as in `no_from_snr_db`.

    Returns:
        SNR under ``target`` [dB]; the difference depends on the observation only, except for conventions of a realisation.

    Example:
        >>> from wichan.observations import OFDMGrid, OFDMPilots
        >>> pilots = OFDMPilots(OFDMGrid(14, 120, 15e3), symbols=(2, 11), subcarrier_step=3)
        >>> round(convert_snr_db(10.0, "grid-measured", "pilot", pilots), 1)
        23.2
    """
    above = _reference_power(target, obs, mean_power, h)
    below = _reference_power(source, obs, mean_power, h)
    snr = _check_snr(snr_db)
    if isinstance(above, torch.Tensor) or isinstance(below, torch.Tensor):
        ratio = torch.as_tensor(above) / torch.as_tensor(below)
        return snr + 10 * torch.log10(ratio)
    return snr + 10 * math.log10(above / below)
