"""Prediction in delay, angle and Doppler: exact on plane waves, sane elsewhere, and aware of its error."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.prediction import PAD, DelayAngleDoppler, Hold
from wichan.prediction.dad_spectrum import AngleDopplerModel
from wichan.random import complex_normal
from wichan.testing import check_predictor


def waves(
    generator: torch.Generator, rays: int, batch: int = 4, *, bins: int = 64, steps: int = 20, side: int = 2, turn: float = 0.3
) -> torch.Tensor:
    """Rays on a dual-polarised panel (row fastest) with random angles, delays in 0 ... 0.1 of the window, and Doppler."""
    draw = {
        name: torch.rand(batch, rays, generator=generator, dtype=torch.float64) for name in ("row", "column", "delay", "turn")
    }

    def tone(count: int, cycles: torch.Tensor) -> torch.Tensor:
        phase = 2 * math.pi * torch.arange(count)[:, None] * cycles[:, None]
        return torch.polar(torch.ones_like(phase), phase)

    gains = complex_normal((batch, 2, rays), 1 / rays, generator=generator, dtype=torch.complex128)
    column, row = tone(side, draw["column"]), tone(side, draw["row"])
    panel = torch.einsum("bpl,bcl,brl->bpcrl", gains, column, row).flatten(1, 3)
    h = torch.einsum("bal,btl,bkl->batk", panel, tone(steps, turn * (2 * draw["turn"] - 1)), tone(bins, -0.1 * draw["delay"]))
    return h.unsqueeze(2).to(torch.complex64)


def noisy(h: torch.Tensor, generator: torch.Generator, no: float = 0.01) -> torch.Tensor:
    return h + complex_normal(h.shape, no, generator=generator)


def nmse(made: torch.Tensor, h: torch.Tensor) -> float:
    return float((made - h).abs().square().sum() / h.abs().square().sum())


@pytest.mark.parametrize("doppler", [0.0, 0.125, -0.377, 0.1303], ids=["still", "on grid", "fast", "off grid"])
@pytest.mark.parametrize("antennas", [1, 8, 32])
def test_a_plane_wave_is_continued(doppler: float, antennas: int) -> None:
    t, k, a = torch.arange(20.0)[:, None], torch.arange(100.0), torch.arange(antennas)[:, None, None, None]
    phase = 2 * math.pi * (doppler * t - 0.0437 * k + 0.21 * (a % 4))
    h = torch.polar(torch.ones_like(phase), phase)
    made = DelayAngleDoppler()(h[..., :16, :])
    assert nmse(made.h_pred, h[..., 16:, :]) < 1e-4  # a noise floor of -60 dB and grids four times finer than the resolution


def test_one_static_cell_gives_the_closed_form(generator: torch.Generator) -> None:
    # One grid point of power p at Doppler 0 under noise no: mean = p / (T p + no) sum y, variance = p no / (T p + no).
    model = AngleDopplerModel(1, 8, 3, 1, 16)
    p = torch.zeros(1, 1, 1, 16, dtype=torch.float64)
    p[..., 0] = 2.0
    y = complex_normal((1, 1, 1, 8, 5), generator=generator, dtype=torch.complex128)
    made = model.predict(p, y, torch.full((1, 8), 0.5))
    torch.testing.assert_close(made.mean, (2 / 16.5 * y.sum(3, keepdim=True)).expand(-1, -1, -1, 3, -1))
    torch.testing.assert_close(made.variance, torch.full((1, 1, 1, 3), 1 / 16.5, dtype=torch.float64))


@pytest.mark.parametrize("lost", [(), (3, 7)])
def test_the_filter_is_that_of_the_dense_covariance(generator: torch.Generator, lost: tuple[int, ...]) -> None:
    model = AngleDopplerModel(3, 8, 2, 6, 16)
    p = torch.rand(1, 1, 6, 16, generator=generator, dtype=torch.float64)
    noise = 0.1 + torch.rand(1, 8, generator=generator, dtype=torch.float64)
    noise[:, list(lost)] = math.inf
    y = complex_normal((1, 1, 3, 8, 2), generator=generator, dtype=torch.complex128) * noise.isfinite()[:, None, None, :, None]
    angle = 2 * math.pi / 6 * torch.arange(3, dtype=torch.float64)[:, None] * torch.arange(6)
    turn = 2 * math.pi / 16 * torch.arange(10, dtype=torch.float64)[:, None] * torch.arange(16)
    atoms = torch.einsum("na,tg->ntag", torch.polar(torch.ones_like(angle), angle), torch.exp(1j * turn))
    past, future = atoms[:, noise[0].isfinite().nonzero()[:, 0]].flatten(0, 1).flatten(1), atoms[:, 8:].flatten(0, 1).flatten(1)
    power = p.flatten().to(past.dtype)
    level = noise[0][noise[0].isfinite()].repeat(3)
    gain = (future * power) @ past.mH @ torch.linalg.inv((past * power) @ past.mH + torch.diag(level))
    made = model.predict(p, y, noise)
    kept = y[0, 0][:, noise[0].isfinite()].flatten(0, 1)
    torch.testing.assert_close(made.mean[0, 0].flatten(0, 1), gain @ kept)  # two routes in double precision
    left = (future * power @ future.mH - gain @ past * power @ future.mH).diagonal().real
    torch.testing.assert_close(made.variance[0, 0].flatten(), left)


def test_the_fit_increases_the_likelihood(generator: torch.Generator) -> None:
    model = AngleDopplerModel(2, 8, 2, 4, 32)
    turn = torch.polar(torch.ones(8), 2 * math.pi * 0.21 * torch.arange(8.0))
    y = complex_normal((1, 1, 2, 1, 3), generator=generator) * turn[:, None]
    y, noise = noisy(y, generator, 0.05), torch.full((1, 8), 0.05)

    def likelihood(p: torch.Tensor) -> float:
        inverse = model._inverse(p, noise.double())[0, 0]
        flat = y[0, 0].flatten(0, 1).to(inverse.dtype)
        return float(torch.linalg.slogdet(inverse).logabsdet * 3 - (flat.conj() * (inverse @ flat)).sum().real)

    values = [likelihood(model.fit(y, noise, steps, 0.0)) for steps in (1, 2, 4, 8)]
    assert values == sorted(values)
    assert values[-1] > values[0] + 1


def test_it_beats_what_uses_no_angles(generator: torch.Generator) -> None:
    h = waves(generator, rays=12)
    y = noisy(h[..., :16, :], generator)
    error = {type(m).__name__: nmse(m(y).h_pred, h[..., 16:, :]) for m in (DelayAngleDoppler(), PAD(), Hold())}
    # Twelve rays on 2 x 2 antennas and 8 delays: factors of 4 and more, far outside the scatter of 4 samples.
    assert error["DelayAngleDoppler"] < 0.5 * error["PAD"]
    assert error["DelayAngleDoppler"] < 0.1 * error["Hold"]


def test_a_common_factor_goes_through(generator: torch.Generator) -> None:
    y = noisy(waves(generator, 5, batch=2)[..., :16, :], generator)
    made, factor = DelayAngleDoppler()(y), 1e-3 * complex(math.cos(1.3), math.sin(1.3))
    scaled = DelayAngleDoppler()(y * factor)
    torch.testing.assert_close(scaled.h_pred, made.h_pred * factor, rtol=1e-3, atol=1e-6)  # single precision in, double inside
    torch.testing.assert_close(scaled.err_var, made.err_var * 1e-6, rtol=1e-3, atol=0)


def test_a_sample_does_not_see_its_batch(generator: torch.Generator) -> None:
    y = noisy(waves(generator, 5, batch=18, bins=24)[..., :16, :], generator)  # more than are worked on at once
    dad = DelayAngleDoppler(num_cells=4)
    made = dad(y).h_pred
    for i in (0, 16, 17):
        torch.testing.assert_close(dad(y[i]).h_pred, made[i], rtol=1e-4, atol=1e-5)  # products may sum in another order


def test_two_lost_snapshots_cost_little(generator: torch.Generator) -> None:
    h = waves(generator, rays=6, batch=8, turn=0.1)
    y, dad = noisy(h[..., :16, :], generator), DelayAngleDoppler()
    present = torch.ones(8, 16, dtype=torch.bool)
    present[:, [4, 11]] = False
    spoilt = torch.where(present[:, None, None, :, None], y, 100.0)  # what a lost slot holds does not matter
    whole, gaps = nmse(dad(y).h_pred, h[..., 16:, :]), nmse(dad(spoilt, present=present).h_pred, h[..., 16:, :])
    silent = dad(y * present[:, None, None, :, None]).h_pred
    torch.testing.assert_close(silent, dad(spoilt, present=present).h_pred)
    assert gaps < 3 * whole  # 14 of 16 equations; a slot taken for zero or held costs a factor of ten and more
    assert nmse(dad(spoilt).h_pred, h[..., 16:, :]) > 10 * whole


def test_a_noisy_slot_counts_less(generator: torch.Generator) -> None:
    h = waves(generator, rays=6, batch=8, turn=0.1)
    y = noisy(h[..., :16, :], generator)
    y[..., 12, :] += complex_normal(y[..., 12, :].shape, 1.0, generator=generator)
    dad = DelayAngleDoppler()
    seen, told = nmse(dad(y).h_pred, h[..., 16:, :]), nmse(dad(y, 0.01 + 1 / 16).h_pred, h[..., 16:, :])
    assert seen < told  # the same mean level, but not known to lie in one slot


def test_the_claimed_error_is_the_actual_one(generator: torch.Generator) -> None:
    ratios = []
    for turn in (0.02, 0.2):
        h = waves(generator, rays=30, batch=16, turn=turn)
        made = DelayAngleDoppler()(noisy(h[..., :16, :], generator))
        error = (made.h_pred - h[..., 16:, :]).abs().square().mean((0, 1, 2, 4))
        assert bool((made.err_var.mean((0, 1, 2, 4)).diff() > 0).all())  # later is harder
        ratios.append(float(error.sum() / made.err_var.mean((0, 1, 2, 4)).sum()))
    # Fitted on other channels (CDL) at 4 x 4 antennas and 300 bins: the right size, not the right digit.
    assert all(1 / 3 < ratio < 3 for ratio in ratios), ratios


@pytest.mark.parametrize(
    ("rx", "tx", "bins", "options"),
    [
        (1, 1, 1, {}),
        (1, 1, 12, {}),
        (5, 1, 9, {}),
        (1, 8, 30, {}),
        (8, 2, 30, {}),
        (12, 1, 30, {"panel": (1, 12, 1), "num_cells": 3}),
        (32, 1, 30, {"panel": (1, 16, 2), "num_cells": 5}),
        (6, 1, 300, {"max_delay": 1.0, "panel": [3, 1, 2]}),
    ],
)
def test_any_array_and_grid(generator: torch.Generator, rx: int, tx: int, bins: int, options: dict[str, Any]) -> None:
    t, k = torch.arange(20.0)[:, None], torch.arange(float(bins))
    tone = torch.polar(torch.ones(20, bins), 2 * math.pi * (0.06 * t - 0.013 * k))
    h = complex_normal((2, rx, tx, 1, 1), generator=generator) * tone
    made = DelayAngleDoppler(**options)(noisy(h[..., :16, :], generator, 1e-3))
    assert made.h_pred.shape == made.err_var.shape == (2, rx, tx, 4, bins)
    # A single antenna and bin has 16 noisy numbers at 30 dB to find a frequency; all others have far more.
    assert nmse(made.h_pred, h[..., 16:, :]) < 0.05
    assert bool((made.err_var >= 0).all())
    assert bool(made.err_var.isfinite().all())


def test_one_snapshot_or_pure_noise_is_no_ground_for_a_forecast(generator: torch.Generator) -> None:
    y = complex_normal((2, 8, 1, 16, 64), generator=generator)
    made = DelayAngleDoppler()(y)
    # Of unit power; the delays of the window hold a quarter of it, and little of that is continued.
    assert float(made.h_pred.abs().square().mean()) < 0.1
    present = torch.zeros(2, 16, dtype=torch.bool)
    present[:, 9] = True
    assert bool(DelayAngleDoppler()(y, present=present).h_pred.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_it_keeps_the_contract(generator: torch.Generator, dtype: torch.dtype) -> None:
    report = check_predictor(DelayAngleDoppler(num_cells=4), generator=generator, num_rx_ant=8, num_subcarriers=24, dtype=dtype)
    assert not report.skipped


class Counter(TorchDispatchMode):
    """FLOP of products, factorisations and FFTs of complex tensors."""

    total = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        if name in ("mm", "bmm"):
            self.total += 8 * args[0].numel() * args[1].shape[-1] * (1 if args[0].is_complex() else 0.25)
        elif name in ("linalg_cholesky_ex", "cholesky_inverse"):
            self.total += (4 / 3 if name == "linalg_cholesky_ex" else 8 / 3) * args[0].numel() * args[0].shape[-1]
        elif name in ("_fft_c2c", "_fft_r2c"):
            points = math.prod(out.shape[d] for d in args[1])
            self.total += 5 * out.numel() * math.log2(max(points, 2))
        return out


def test_the_cost_is_the_documented_one(generator: torch.Generator) -> None:
    dad = DelayAngleDoppler()
    y = complex_normal((2, 32, 1, 16, 300), generator=generator)
    dad(y)  # fills the cache of bases
    with Counter() as counter:
        dad(y)
    # The formula leaves out the reduction to a root, row eigenvectors and the FFTs of real spectra: within a fifth.
    assert counter.total / 2 == pytest.approx(dad.flops(32, 1, 300), rel=0.2)
    assert dad.flops(32, 1, 300) < 0.71e9  # a hundredth of the published network


def test_bad_input_is_refused(generator: torch.Generator) -> None:
    y = complex_normal((2, 8, 1, 16, 12), generator=generator)
    with pytest.raises(InvalidValueError, match="duplex='fdd' is not possible for DelayAngleDoppler"):
        DelayAngleDoppler(duplex="fdd")
    with pytest.raises(UnknownNameError, match="duplex='tdm' is unknown"):
        DelayAngleDoppler(duplex="tdm")
    for name, value in (("max_delay", 0.0), ("max_delay", 1.5), ("num_cells", 0), ("num_doppler", 19), ("iterations", 0)):
        with pytest.raises(InvalidValueError, match=f"{name}="):
            DelayAngleDoppler(**{name: value})
    for name, value in (("smoothing", -0.1), ("inflation", 0.0), ("panel", (4, 4))):
        with pytest.raises(InvalidValueError, match=f"{name}="):
            DelayAngleDoppler(**{name: value})
    with pytest.raises(InvalidValueError, match="has 32 antennas; the channel has 8"):
        DelayAngleDoppler(panel=(4, 4, 2))(y)
    with pytest.raises(ShapeError, match="history has 15 snapshots"):
        DelayAngleDoppler()(y[..., 1:, :])
    with pytest.raises(InvalidValueError, match="NaN"):
        DelayAngleDoppler()(y * math.nan)
    with pytest.raises(InvalidValueError, match="no=-1 must be at least 0"):
        DelayAngleDoppler()(y, -1.0)
    with pytest.raises(InvalidTypeError, match="present must be a bool tensor"):
        DelayAngleDoppler()(y, present=torch.ones(2, 16))
    y[0, ..., 3:, :] = 0
    present = torch.arange(16).expand(2, 16) > 2
    with pytest.raises(InvalidValueError, match="present leaves 1 samples without power"):
        DelayAngleDoppler()(y, present=present)
