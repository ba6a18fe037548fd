"""Tolerances of the contract checks, each with its reason."""

from __future__ import annotations

import torch

CALIBRATION_TOLERANCE = 0.07
"""Largest deviation from 1 of the mean normalised error in a decile of ``err_var`` (the design's definition of calibrated)."""

CALIBRATION_FRAMES = 4000
"""Frames for the calibration check: the mean of as many exponential variables has a standard error of 1.6 %, so 0.07 is over
four of them even if a whole decile fades together."""

MONOTONE_SLACK = 0.01
"""Relative drop of the mean ``err_var`` that is forgiven when the noise grows tenfold: one that is read off ``y`` scatters a
little where the noise hardly matters. Over the whole range of a thousandfold it must grow."""

_RELATIVE = {torch.complex64: 2e-4, torch.complex128: 1e-8}


def relative_tolerance(dtype: torch.dtype) -> float:
    """Largest difference, relative to the root mean square, between two ways to compute the same estimate.

    Batched kernels sum in another order than single ones. In single precision 1e-7 of rounding grows by the condition number
    that a regularised solve leaves (about 1e3 at 30 dB); in double precision 1e-16 grows alike, with a margin.
    """
    return _RELATIVE[dtype]
