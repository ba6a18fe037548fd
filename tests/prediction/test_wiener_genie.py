"""Predictors with knowledge: against dense matrices, against their own error, and at the limits."""

from __future__ import annotations

import functools
import gc
import weakref

import pytest
import torch

from wichan.channels import CDL, ULA, Panel, Rays, frequency_response
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.grid import OFDMGrid
from wichan.prediction.wiener_genie import WienerGenie
from wichan.random import complex_normal, uniform
from wichan.testing import check_predictor

PERIOD = 2e-3
PAST, AHEAD, BINS = 5, 2, 14  # bins 0 to 5 go up, 8 to 13 down
GRID = OFDMGrid(PAST + AHEAD, BINS, 250e3, PERIOD)
UP, DOWN = GRID.frequencies[:6], GRID.frequencies[8:]
SHAPE = {"num_history": PAST, "num_horizon": AHEAD, "csi_period": PERIOD, "frequencies": UP}


@functools.cache
def cdl(profile: str, moving: str = "rx") -> CDL:
    """Uplink to a dual-polarised panel of 2 positions at 2.4 GHz and 4 m/s."""
    panel = Panel(1, 2, polarization="cross", pattern="38.901")
    return CDL(profile, delay_spread=2e-7, carrier_frequency=2.4e9, speed=4.0, rx_array=panel, moving=moving)


def genie(given: str, model: CDL | None, duplex: str = "tdd", **options: object) -> WienerGenie:
    target = DOWN if duplex == "fdd" else None
    return WienerGenie(given, model=model, target_frequencies=target, duplex=duplex, **SHAPE, **options)


def channels(rays: Rays, duplex: str = "tdd") -> tuple[torch.Tensor, torch.Tensor]:
    """History and future in double precision."""
    h = frequency_response(rays.double(), GRID.times, GRID.frequencies)
    band = slice(8, 14) if duplex == "fdd" else slice(0, 6)
    return h[..., :PAST, :6], h[..., PAST:, band]


def lmmse(cov: torch.Tensor, y: torch.Tensor, no: float, duplex: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Estimate and error from a dense covariance over (ants, times, bins), for y (samples, ants * PAST * 6)."""
    index = torch.arange(len(cov)).reshape(-1, PAST + AHEAD, BINS)
    seen = index[:, :PAST, :6].flatten()
    asked = index[:, PAST:, 8:14] if duplex == "fdd" else index[:, PAST:, :6]
    gain = cov[asked.flatten()][:, seen] @ torch.linalg.inv(cov[seen][:, seen] + no * torch.eye(len(seen)))
    error = cov.diagonal().real[asked.flatten()] - (gain * cov[asked.flatten()][:, seen].conj()).sum(1).real
    return (y @ gain.mT).unflatten(1, asked.shape), error.reshape(asked.shape)


@pytest.mark.parametrize("duplex", ["tdd", "fdd"])
@pytest.mark.parametrize(("profile", "moving"), [("D", "rx"), ("C", "tx")])
def test_cell_equals_the_dense_filter(generator: torch.Generator, profile: str, moving: str, duplex: str) -> None:
    model, no = cdl(profile, moving), 0.03
    history, _ = channels(model.sample(4, generator=generator), duplex)
    y = history + complex_normal(history.shape, variance=no, generator=generator, dtype=torch.complex128)
    cov = model.covariance(GRID).matrix()
    want, error = lmmse(cov, y.flatten(1), no, duplex)
    h_pred, err_var = genie("cell", model, duplex, rtol=1e-12)(y, no)
    # What the thin bases of space and time leave out is below 1e-9 of the energy; the noise divides by 0.03.
    assert torch.allclose(h_pred.squeeze(2), want, atol=1e-4)
    assert torch.allclose(err_var[0, :, 0, :, 0], error.mean(-1), rtol=1e-4)
    if profile == "D":  # the default leaves out 1e-5 of the energy or less
        assert torch.allclose(genie("cell", model, duplex)(y, no).err_var, err_var, rtol=0.01, atol=1e-5)


@pytest.mark.parametrize("duplex", ["tdd", "fdd"])
def test_geometry_equals_the_dense_filter(generator: torch.Generator, duplex: str) -> None:
    rays, no = cdl("D").sample(3, generator=generator), 0.02
    history, _ = channels(rays, duplex)
    y = history + complex_normal(history.shape, variance=no, generator=generator, dtype=torch.complex128)
    h_pred, err_var = genie("geometry", None, duplex)(y, no, rays=rays)
    wide = rays.double()
    turn = torch.exp(2j * torch.pi * wide.doppler[..., None] * GRID.times)
    delay = torch.exp(-2j * torch.pi * wide.delay[:, None] * GRID.frequencies)
    for sample in range(3):
        for pol in range(2):
            columns = torch.einsum("crn,crt,ck->ntkcr", wide.rx_response[sample], turn[sample], delay).flatten(3).flatten(0, 2)
            power = wide.gain[sample, ..., pol, 0].abs().square().flatten()
            cov = (columns * power) @ columns.mH
            own = y[sample, 2 * pol : 2 * pol + 2, 0].reshape(1, -1)
            want, error = lmmse(cov, own, no, duplex)
            # Double precision; the condition is 1e4.
            assert torch.allclose(h_pred[sample, 2 * pol : 2 * pol + 2, 0], want[0], atol=1e-8)
            assert torch.allclose(err_var[sample, 2 * pol, 0, :, 0], error.mean((0, 2)), rtol=1e-6)


@pytest.mark.parametrize("duplex", ["tdd", "fdd"])
def test_errors_are_what_was_promised_and_geometry_knows_more(generator: torch.Generator, duplex: str) -> None:
    model, no = cdl("D"), 0.05
    rays = model.sample(80, generator=generator)
    history, future = (part.to(torch.complex64) for part in channels(rays, duplex))
    y = history + complex_normal(history.shape, variance=no, generator=generator)
    found = {}
    for given, told in (("cell", {}), ("geometry", {"rays": rays})):
        h_pred, err_var = genie(given, model if given == "cell" else None, duplex)(y, no, **told)
        assert (h_pred.dtype, err_var.dtype) == (torch.complex64, torch.float32)
        error = (h_pred - future).abs().square().mean((1, 2, 3, 4))
        scatter = float(error.std() / error.mean() / len(error) ** 0.5)
        found[given] = float(error.mean())
        # The closed form is the trace; four deviations of the mean of 80 samples, about 8 % each.
        assert float(err_var.mean() / error.mean()) == pytest.approx(1, abs=4 * scatter)
        assert scatter < 0.15
    assert found["geometry"] < 0.8 * found["cell"]


def few_rays(generator: torch.Generator, batch: int = 3) -> Rays:
    """Two clusters of one ray, well apart, on four antennas."""
    place = torch.arange(4)
    angle = uniform((batch, 2, 1, 1), 0.3, 1.2, generator=generator) * torch.tensor([1.0, -1.0]).reshape(2, 1, 1)
    return Rays(
        gain=complex_normal((batch, 2, 1, 1, 1), generator=generator),
        delay=torch.tensor([0.0, 1e-6]),
        doppler=uniform((batch, 2, 1), -200, 200, generator=generator),
        rx_response=torch.polar(torch.ones(1), torch.pi * angle.sin() * place),
    )


def test_few_rays_without_noise_are_exact(generator: torch.Generator) -> None:
    rays = few_rays(generator)
    for duplex in ("tdd", "fdd"):
        history, future = channels(rays, duplex)
        h_pred, err_var = genie("geometry", None, duplex)(history, 0.0, rays=rays)
        # The floor of the noise is 1e-12 of the power, and rays come in single precision but are used as they are.
        assert (h_pred - future).abs().max() < 1e-5
        assert err_var.max() < 1e-9


@pytest.mark.parametrize("given", ["cell", "geometry"])
def test_endless_noise_predicts_nothing(generator: torch.Generator, given: str) -> None:
    rays = cdl("D").sample(2, generator=generator)
    history, _ = channels(rays)
    told = {"rays": rays} if given == "geometry" else {}
    h_pred, err_var = genie(given, cdl("D") if given == "cell" else None)(history, 1e12, **told)
    assert h_pred.abs().max() < 1e-6
    power = cdl("D").mean_power() if given == "cell" else float(rays.gain.abs().square().sum((1, 2, 3, 4)).mean() / 2)
    # What was never seen keeps its prior power (given the rays: that of each sample).
    assert float(err_var.mean()) == pytest.approx(power, rel=1e-3)


@pytest.mark.parametrize("given", ["cell", "geometry"])
def test_scale_restores_the_units_of_the_model(generator: torch.Generator, given: str) -> None:
    model = cdl("D")
    rays = model.sample(3, generator=generator)
    history, _ = channels(rays)
    filter_, told = genie(given, model if given == "cell" else None), {"rays": rays} if given == "geometry" else {}
    plain = filter_(history, 0.1, **told)
    scale = torch.tensor([0.5, 1.0, 2.0])
    factor = scale.double().reshape(3, 1, 1, 1, 1)
    scaled = filter_(history * factor, 0.1 * scale.square(), scale=scale, **told)
    assert torch.allclose(scaled.h_pred, plain.h_pred * factor, rtol=1e-6)
    assert torch.allclose(scaled.err_var, plain.err_var * factor.square(), rtol=1e-6)


def test_lost_snapshots_are_left_out(generator: torch.Generator) -> None:
    rays = cdl("D").sample(2, generator=generator)
    history, future = channels(rays)
    present = torch.tensor([[True] * 5, [True, False, True, True, False]])
    spoilt = torch.where(present[:, None, None, :, None], history, 99.0)
    filter_ = genie("geometry", None)
    assert filter_.takes_gaps
    assert not genie("cell", cdl("D")).takes_gaps
    h_pred, err_var = filter_(spoilt, 0.01, rays=rays, present=present)
    whole = filter_(history, 0.01, rays=rays)
    assert torch.allclose(h_pred[0], whole.h_pred[0], atol=1e-9)
    assert (err_var[1] > whole.err_var[1]).all()
    # Were the spoilt slots looked at, the error would be of the order of 99.
    assert (h_pred[1] - future[1]).abs().square().mean() < 20 * err_var[1].mean()


def test_shared_delays_batches_and_unknown_noise(generator: torch.Generator) -> None:
    rays = few_rays(generator, 5)
    history, _ = channels(rays)
    y = history + complex_normal(history.shape, variance=0.01, generator=generator, dtype=torch.complex128)
    filter_ = genie("geometry", None)
    whole = filter_(y, torch.full((5,), 0.01), rays=rays)
    part = filter_(y[1:3], 0.01, rays=rays[1:3])
    assert torch.allclose(whole.h_pred[1:3], part.h_pred, atol=1e-9)
    own = Rays(rays.gain, rays.delay.expand(5, 2), rays.doppler, rays.rx_response)
    assert torch.allclose(filter_(y, 0.01, rays=own).h_pred, whole.h_pred, atol=1e-9)
    assert torch.isfinite(filter_(y, rays=own).err_var).all()  # the noise is estimated
    model = cdl("D")
    nested = genie("cell", model)
    y = channels(model.sample(4, generator=generator))[0]
    flat = nested(y, 0.01)
    again = nested(y.reshape(2, 2, *y.shape[1:]), 0.01)
    assert torch.allclose(again.h_pred.flatten(0, 1), flat.h_pred)


def test_rank_limit_keeps_the_strongest(generator: torch.Generator) -> None:
    model = cdl("A")
    history, future = channels(model.sample(200, generator=generator))
    y = history + complex_normal(history.shape, variance=0.05, generator=generator, dtype=torch.complex128)
    full, short = genie("cell", model), genie("cell", model, max_rank=60)
    assert short.filter._modes.vectors.shape[0] <= 60 < full.filter._modes.vectors.shape[0]
    errors = []
    for filter_ in (full, short):
        h_pred, err_var = filter_(y, 0.05)
        errors.append(float((h_pred - future).abs().square().mean()))
        # Energy that is left out counts as error; as noise it is taken for white, which costs the claim a little.
        assert float(err_var.mean()) == pytest.approx(errors[-1], rel=0.25)
    assert errors[0] < errors[1]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="given='all'"):
        genie("all", None)
    with pytest.raises(InvalidValueError, match="model=NoneType does not fit given='cell'"):
        genie("cell", None)
    with pytest.raises(InvalidValueError, match="model=CDL does not fit given='geometry'"):
        genie("geometry", cdl("A"))
    with pytest.raises(InvalidTypeError, match="model must be a CDL"):
        genie("cell", 3)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="target_frequencies=None is missing"):
        WienerGenie("geometry", frequencies=UP, duplex="fdd")
    with pytest.raises(ShapeError, match="frequencies has shape"):
        WienerGenie("geometry", frequencies=UP.reshape(2, 3))


def test_bad_input_is_refused(generator: torch.Generator) -> None:
    rays = cdl("D").sample(2, generator=generator)
    history, _ = channels(rays)
    cell, geometry = genie("cell", cdl("D")), genie("geometry", None)
    with pytest.raises(InvalidValueError, match="rays must not be given"):
        cell(history, 0.1, rays=rays)
    with pytest.raises(InvalidTypeError, match="rays must be the samples' Rays"):
        geometry(history, 0.1)
    with pytest.raises(ShapeError, match="rays have batch axes"):
        geometry(history[:1], 0.1, rays=rays)
    with pytest.raises(ShapeError, match="history has 2 x 1 antennas; rays have 4 x 1"):
        geometry(history[:, :2], 0.1, rays=rays)
    with pytest.raises(ShapeError, match="history has 2 x 1 antennas; the model has 4 x 1"):
        cell(history[:, :2], 0.1)
    with pytest.raises(ShapeError, match="history has 5 subcarriers"):
        cell(history[..., :5], 0.1)
    with pytest.raises(ShapeError, match="history has 4 snapshots"):
        cell(history[..., :4, :], 0.1)
    with pytest.raises(InvalidValueError, match="scale=0 must be greater than 0"):
        cell(history, 0.1, scale=0.0)
    with pytest.raises(InvalidValueError, match="no=-1"):
        cell(history, -1.0)
    with pytest.raises(InvalidValueError, match="NaN"):
        geometry(history * torch.nan, 0.1, rays=rays)
    with pytest.raises(InvalidValueError, match="without power"):
        cell(history * 0, 0.1)


def test_the_genie_of_a_cell_keeps_the_contract_of_predictors(generator: torch.Generator) -> None:
    skip = {"scale": "the law of a cell has a power of its own"}
    report = check_predictor(genie("cell", cdl("D")), generator=generator, num_rx_ant=4, num_subcarriers=6, skip=skip)
    assert set(report.skipped) == {"scale"}


def test_a_point_array_at_the_station_works(generator: torch.Generator) -> None:
    model = CDL("C", delay_spread=1e-7, carrier_frequency=2.4e9, speed=2.0, rx_array=ULA(1), tx_array=ULA(2))
    rays = model.sample(3, generator=generator)
    history, future = channels(rays)
    for filter_, told in ((genie("cell", model), {}), (genie("geometry", None), {"rays": rays})):
        error = (filter_(history, 1e-4, **told).h_pred - future).abs().square().mean() / future.abs().square().mean()
        assert error < 0.2


def test_geometry_without_noise_in_single_precision() -> None:
    f, t = torch.arange(30) * 30e3, torch.arange(20) * 2.352e-3
    panel = Panel(2, 2, polarization="cross", pattern="38.901")
    model = CDL("A", delay_spread=3e-8, carrier_frequency=2.4e9, speed=30.0, rx_array=panel, direction="uplink", moving="rx")
    rays = model.sample(2, generator=torch.Generator().manual_seed(1))
    h = frequency_response(rays, t, f)
    h_pred, err_var = WienerGenie("geometry", frequencies=f)(h[..., :16, :], 0.0, rays=rays)
    error = (h_pred - h[..., 16:, :]).abs().square().mean()
    assert float(error) < 5 * float(err_var.mean())  # two samples of a few free directions; rounding once made it 1e8


def test_a_filter_goes_with_its_last_reference() -> None:
    made = genie("cell", cdl("D"))
    assert made.filter is not None
    made(torch.ones(1, 4, 1, PAST, 6, dtype=torch.complex64), 0.1)
    kept = weakref.ref(made.filter)
    gc.disable()  # hundreds of megabytes are not to wait for the collector
    try:
        del made
        assert kept() is None
    finally:
        gc.enable()
