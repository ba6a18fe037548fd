"""The noise level of a history, from late delays."""

from __future__ import annotations

import pytest
import torch

import wichan as wc
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError
from wichan.prediction.noise_level import noise_variance
from wichan.random import complex_normal


@pytest.fixture(scope="module")
def histories() -> torch.Tensor:
    """Uplink histories of the cells with the shortest and the longest delays: (12, 32, 1, 16, 300)."""
    cells = ["cm_C_ds_030_ms_001", "cm_A_ds_300_ms_030", "cm_E_ds_400_ms_045"]
    streams = (wc.simulate.stream("csi-rrg", split="generalization", cell=cell, batch_size=4) for cell in cells)
    return torch.cat([next(iter(stream)).h_u_hist for stream in streams])


def power(h: torch.Tensor) -> torch.Tensor:
    return h.abs().square().mean((-4, -3, -2, -1))


@pytest.mark.parametrize("snr_db", [0, 10, 25])
def test_noise_is_found_within_five_percent(histories: torch.Tensor, generator: torch.Generator, snr_db: int) -> None:
    no = power(histories) * 10 ** (-snr_db / 10)
    y = histories + complex_normal(histories.shape, generator=generator) * no.sqrt()[:, None, None, None, None]
    # 32 taps of 512 rows: a standard deviation of 1 %, of which 5 % is five.
    assert torch.allclose(noise_variance(y), no, rtol=0.05)


def test_clean_histories_have_next_to_none(histories: torch.Tensor) -> None:
    # Side lobes of the window: -92 dB in amplitude of energy per tap, -100 dB is what single precision leaves.
    assert (noise_variance(histories) / power(histories)).max() < 1e-8


def test_slots_that_repeat_or_are_silent_change_nothing(histories: torch.Tensor, generator: torch.Generator) -> None:
    y = histories + complex_normal(histories.shape, variance=0.02, generator=generator)
    held, lost = y.clone(), y.clone()
    held[..., 5:9, :] = y[..., 4:5, :]
    lost[..., 5:9, :] = 0
    assert torch.allclose(noise_variance(held), torch.tensor(0.02), rtol=0.05)
    assert torch.allclose(noise_variance(lost), torch.tensor(0.02), rtol=0.05)


def test_a_burst_on_some_slots_does_not_count(histories: torch.Tensor, generator: torch.Generator) -> None:
    y = histories + complex_normal(histories.shape, variance=0.02, generator=generator)
    y[..., 3:8, :] += complex_normal(y[..., 3:8, :].shape, generator=generator)
    # The median moves to a higher quantile of the other slots, one standard deviation (4 % a slot) at most.
    assert torch.allclose(noise_variance(y), torch.tensor(0.02), rtol=0.08)


@pytest.mark.parametrize("subcarriers", [100, 48, 16])
def test_few_subcarriers(histories: torch.Tensor, generator: torch.Generator, subcarriers: int) -> None:
    y = (histories + complex_normal(histories.shape, variance=0.01, generator=generator))[..., :subcarriers]
    # Fewer taps (3 of 16), so more scatter: 512 rows of 3 taps leave 2.5 %, and a fifth more for the median over snapshots.
    assert torch.allclose(noise_variance(y), torch.tensor(0.01), rtol=0.12)


def test_batch_axes_and_precision(histories: torch.Tensor) -> None:
    y = histories.reshape(3, 4, *histories.shape[1:])
    assert noise_variance(y).shape == (3, 4)
    assert noise_variance(y.to(torch.complex128)).dtype == torch.float64
    assert noise_variance(torch.zeros_like(y)).abs().max() == 0


def test_white_noise_alone_on_one_antenna_is_unbiased(generator: torch.Generator) -> None:
    y = complex_normal((400, 1, 1, 16, 300), generator=generator)
    # 400 estimates; each scatters by about 8 % (median over 32 taps and 16 snapshots), so the mean is known to 0.4 %. What
    # remains is the asymmetry of a median of 32.
    assert float(noise_variance(y).mean()) == pytest.approx(1, abs=0.03)


def test_bad_input_is_refused() -> None:
    with pytest.raises(InvalidTypeError, match="history has dtype"):
        noise_variance(torch.ones(1, 1, 1, 16, 300))
    with pytest.raises(ShapeError, match="history has 3 subcarriers"):
        noise_variance(torch.ones(1, 1, 1, 16, 3, dtype=torch.complex64))
    with pytest.raises(ShapeError, match="history has shape"):
        noise_variance(torch.ones(16, 300, dtype=torch.complex64))
    with pytest.raises(InvalidValueError, match="NaN"):
        noise_variance(torch.full((1, 1, 1, 16, 300), torch.nan, dtype=torch.complex64))
