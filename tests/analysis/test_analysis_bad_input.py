"""What is refused: one line with the argument, what came, and what is allowed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from wichan import OFDMGrid
from wichan import analysis as a
from wichan.channels import CDL, TDL, ULA, AntennaArray
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError

GRID = OFDMGrid(4, 8, 15e3)
H = torch.ones(2, 1, 1, 4, 8, dtype=torch.complex64)
CDL_A = CDL("A", delay_spread=1e-7, carrier_frequency=3e9, speed=1.0)
SCATTERED = AntennaArray(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 1.7, 0.0]]))
TRIANGLE = AntennaArray(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.5]]))

CASES: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: a.rms_delay_spread(H), InvalidValueError, "frequencies is missing"),
    (lambda: a.rms_delay_spread(torch.ones(3)), InvalidValueError, "delays is missing"),
    (lambda: a.rms_delay_spread(torch.ones(3), torch.zeros(4)), ShapeError, "must broadcast"),
    (lambda: a.rms_delay_spread(-torch.ones(3), torch.zeros(3)), InvalidValueError, "below 0"),
    (lambda: a.rms_delay_spread(torch.zeros(3), torch.zeros(3)), InvalidValueError, "all zero"),
    (lambda: a.rms_delay_spread("TDL-A"), InvalidTypeError, "got str"),
    (lambda: a.rms_delay_spread(H, grid=GRID, method="music"), UnknownNameError, "correlation, profile"),
    (lambda: a.rms_delay_spread(H, grid=OFDMGrid(4, 9, 15e3)), ShapeError, "(8,)"),
    (lambda: a.rms_delay_spread(H[..., :1], grid=OFDMGrid(4, 1, 15e3)), InvalidValueError, "at least 2"),
    (lambda: a.rms_delay_spread(H, frequencies=torch.tensor([0.0, 1, 2, 4, 5, 6, 7, 8])), InvalidValueError, "equal steps"),
    (lambda: a.rms_delay_spread(H, grid=GRID, batch_dims=5), InvalidValueError, "batch_dims=5"),
    (lambda: a.rms_delay_spread(H, grid=GRID, no=-1.0), InvalidValueError, "no=-1"),
    (lambda: a.frequency_correlation(H.real, grid=GRID), InvalidTypeError, "complex64"),
    (lambda: a.frequency_correlation(TDL("A", delay_spread=1e-7), grid=GRID), InvalidTypeError, "ChannelCovariance"),
    (lambda: a.coherence_bandwidth(H, grid=GRID, level=1.0), InvalidValueError, "between 0 and 1"),
    (lambda: a.coherence_time(H, grid=GRID, level=0.0), InvalidValueError, "between 0 and 1"),
    (lambda: a.coherence_time(H[..., :1, :], grid=OFDMGrid(1, 8, 15e3)), InvalidValueError, "at least 2"),
    (lambda: a.rms_doppler_spread(CDL_A), InvalidTypeError, "model.covariance(grid)"),
    (lambda: a.doppler_spectrum(H, grid=GRID, window="kaiser"), UnknownNameError, "hann"),
    (lambda: a.jakes_spectrum(torch.zeros(3), 0.0), InvalidValueError, "greater than 0"),
    (lambda: a.spatial_correlation(H, side="up"), UnknownNameError, "both"),
    (lambda: a.k_factor(H[:1], batch_dims=5), ShapeError, "at least 2 values"),
    (lambda: a.k_factor("D"), InvalidTypeError, "got str"),
    (lambda: a.to_delay_doppler(H), InvalidValueError, "times is missing"),
    (lambda: a.to_delay_doppler(H.real, GRID), InvalidTypeError, "complex64"),
    (lambda: a.to_angle_delay(H, ULA(4), GRID), ShapeError, "4 ports"),
    (lambda: a.to_angle_delay(H.expand(2, 3, 1, 4, 8), SCATTERED, GRID), InvalidValueError, "not evenly spaced"),
    (lambda: a.to_angle_delay(H.expand(2, 3, 1, 4, 8), TRIANGLE, GRID), InvalidValueError, "no regular lattice"),
    (lambda: a.to_angle_delay(H, 4, GRID), InvalidTypeError, "AntennaArray"),
    (lambda: a.effective_rank(torch.ones(3)), InvalidValueError, "axes"),
    (lambda: a.effective_rank(torch.full((2, 2), torch.nan)), InvalidValueError, "NaN"),
    (lambda: a.effective_rank(torch.ones(2, 2), axis="time"), InvalidValueError, "ChannelCovariance"),
    (lambda: a.angular_spread(CDL_A), InvalidValueError, "aod"),
    (lambda: a.angular_spread(CDL_A, angle="up"), UnknownNameError, "aod"),
    (lambda: a.angular_spread(torch.ones(2)), InvalidValueError, "angles is missing"),
    (lambda: a.empirical_cdf(torch.ones(2, dtype=torch.complex64)), InvalidTypeError, "real"),
    (lambda: a.empirical_cdf(torch.ones(0)), ShapeError, "empty"),
    (lambda: a.fading_power_cdf(torch.ones(2), mean_power=0.0), InvalidValueError, "mean_power"),
    (lambda: a.power_delay_profile(H, oversampling=0), InvalidValueError, "oversampling"),
]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_refused_in_one_line(case: tuple[Callable[[], object], type[Exception], str]) -> None:
    call, error, text = case
    with pytest.raises(error) as raised:
        call()
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)
