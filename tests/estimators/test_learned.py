"""What all learned estimators promise: shapes, conditions, scale, precision, weights, and one line for what does not fit."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from wichan.channels import TDL
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.estimators import LEARNED, Estimate, Estimator, LearnedEstimator, Linear
from wichan.estimators.learned import both_parts, published_pilots
from wichan.grid import OFDMGrid
from wichan.observations import OFDMPilots
from wichan.random import complex_normal
from wichan.testing import check_estimator
from wichan.training import make_loss

GRID = OFDMGrid(num_ofdm_symbols=6, num_subcarriers=24, subcarrier_spacing=30e3)
PILOTS = OFDMPilots(GRID, symbols=(1, 4), subcarrier_step=3)
MODEL = TDL("A", delay_spread=300e-9, max_doppler=500.0)
SMALL: dict[str, dict[str, Any]] = {
    "linear": {},
    "fortitran": {"width": 8, "layers": 2, "heads": 2},
    "adafortitran": {"width": 8, "layers": 2, "heads": 2},
    "cevit": {"patch": (6, 4), "width": 16, "heads": 2, "hidden": 24},
}
TOLD = {"delay_spread": 100e-9, "max_doppler": 400.0}
INFORMED = ("adafortitran", "cevit")


def make(kind: str, obs: OFDMPilots = PILOTS, **options: Any) -> LearnedEstimator:
    """A small estimator whose error head is not fresh, so that every number depends on every input."""
    est = LEARNED[kind](obs, **(SMALL[kind] | options))
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in est.error_head.layers[-1].parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=g))
    return est.eval()


def observed(
    generator: torch.Generator, *batch: int, num_rx_ant: int = 1, dtype: torch.dtype = torch.complex64
) -> torch.Tensor:
    h = complex_normal((*batch, num_rx_ant, 1, *GRID.shape), generator=generator, dtype=dtype)
    return PILOTS.observe(h, 0.05, generator=generator)


def close(a: Estimate, b: Estimate, rtol: float = 1e-5) -> bool:
    """Both parts agree; float32 sums of some hundred terms in another order differ by about 1e-6 of their size."""
    sizes = [float(part.detach().abs().max()) for part in b]
    return all(torch.allclose(x, y, rtol=rtol, atol=rtol * size) for x, y, size in zip(a, b, sizes, strict=True))


# -- Shapes and batches. --


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize("batch", [(), (0,), (3,), (2, 1, 2)], ids=str)
def test_any_number_of_batch_axes(kind: str, batch: tuple[int, ...], generator: torch.Generator) -> None:
    est, y = make(kind), observed(generator, *batch, num_rx_ant=2)
    result = est(y, 0.05, **TOLD)
    assert result.h_hat.shape == result.err_var.shape == (*batch, 2, 1, *GRID.shape)
    assert result.h_hat.dtype == torch.complex64 and result.err_var.dtype == torch.float32
    if y.numel():
        one_by_one = [est(frame, 0.05, **TOLD) for frame in y.reshape(-1, 1, *GRID.shape)]
        stacked = Estimate(*(torch.cat(part).reshape(result.h_hat.shape) for part in zip(*one_by_one, strict=True)))
        assert close(result, stacked)  # several receive antennas are a batch, and so are all batch axes


@pytest.mark.parametrize("kind", LEARNED)
def test_noise_and_conditions_as_numbers_and_tensors(kind: str, generator: torch.Generator) -> None:
    est, y = make(kind), observed(generator, 2, 3, num_rx_ant=2)
    want = est(y, 0.05, **TOLD)
    for shape in ((2,), (2, 3), (2, 3, 2)):
        told = {name: torch.full(shape, value) for name, value in TOLD.items()}
        assert close(est(y, torch.full(shape, 0.05), **told), want)
    no = torch.tensor([0.02, 0.3])
    split = [est(y[i], float(no[i]), **TOLD) for i in range(2)]
    assert close(est(y, no, **TOLD), Estimate(*(torch.stack(part) for part in zip(*split, strict=True))))


@pytest.mark.parametrize("kind", ["linear", "fortitran", "adafortitran"])
def test_one_pass_over_both_parts_equals_two(kind: str, generator: torch.Generator) -> None:
    est = make(kind, scale_input=False)
    pilots = complex_normal((3, PILOTS.num_pilots), generator=generator)
    conditions = [torch.rand(3, 3, generator=generator)] if kind == "adafortitran" else []
    real, imaginary = (est.network(part, *conditions) for part in (pilots.real, pilots.imag))
    joined = both_parts(est.network, pilots, *conditions)
    scale = float(joined.detach().abs().max())
    assert float((joined - torch.complex(real, imaginary)).detach().abs().max()) < 1e-6 * scale  # rounding of float32


# -- Scale, and what the network is told. --


@pytest.mark.parametrize("kind", LEARNED)
def test_estimate_follows_the_scale_of_its_input_only_when_asked(kind: str, generator: torch.Generator) -> None:
    y = observed(generator, 4)
    told = TOLD | {"snr_db": 13.0}
    for scale_input in (True, False):
        est = make(kind, scale_input=scale_input)
        before, after = est(y, 0.05, **told), est(1e-3 * y, 0.05e-6, **told)
        assert close(Estimate(1e3 * after.h_hat, 1e6 * after.err_var), before) is (scale_input)


@pytest.mark.parametrize("kind", INFORMED)
def test_snr_follows_from_the_noise_unless_it_is_told(kind: str, generator: torch.Generator) -> None:
    obs = OFDMPilots(GRID, symbols=(1, 4), subcarrier_step=3, boost_db=3.0)
    est, y = make(kind, obs), observed(generator, 4)
    assert est.told == ("delay_spread", "max_doppler")
    no = torch.tensor([0.01, 0.1, 0.5, 2.0])
    want = est(y, no, **TOLD)
    assert close(est(y, no, snr_db=obs.snr_db_from_no(no), **TOLD), want, rtol=1e-4)  # the head sees the ratio's logarithm
    assert not close(est(y, no, snr_db=30.0, **TOLD), want)
    # Unit mean power is assumed: ten times the power with ten times the noise is told as 10 dB less.
    snr_db = obs.snr_db_from_no(no)
    louder = est(10**0.5 * y, 10 * no, **TOLD)
    assert close(louder, est(10**0.5 * y, 10 * no, snr_db=snr_db - 10, **TOLD), rtol=1e-4)
    assert not close(louder, est(10**0.5 * y, 10 * no, snr_db=snr_db, **TOLD), rtol=1e-4)
    assert close(est(y, 0.0, **TOLD), est(y, 0.0, snr_db=60.0, **TOLD))  # no noise counts as 60 dB
    assert close(est(y, no, nothing_known=1.0, **TOLD), want)


@pytest.mark.parametrize("kind", INFORMED)
def test_every_condition_changes_the_estimate(kind: str, generator: torch.Generator) -> None:
    est, y = make(kind), observed(generator, 2)
    want = est(y, 0.05, **TOLD)
    for name in TOLD:
        other = est(y, 0.05, **(TOLD | {name: 1.5 * TOLD[name]}))
        assert not torch.equal(other.h_hat, want.h_hat) and not torch.equal(other.err_var, want.err_var)


def test_conditions_are_mapped_to_their_ranges() -> None:
    ranges = {"snr_db": (0.0, 20.0), "delay_spread": (0.0, 200e-9), "max_doppler": (100.0, 300.0)}
    est = make("adafortitran", condition_ranges=ranges)
    given = {"snr_db": 20.0, "delay_spread": 100e-9, "max_doppler": 100.0}
    seen = est._conditions(given, torch.ones(2), torch.Size([2]))
    assert torch.allclose(seen, torch.tensor([1.0, 0.0, -1.0]).expand(2, 3), atol=1e-6)
    raw = make("adafortitran", condition_ranges=None)._conditions(given, torch.ones(2), torch.Size([2]))
    assert torch.allclose(raw, torch.tensor([20.0, 100.0, 100.0]).expand(2, 3))


@pytest.mark.parametrize("kind", INFORMED)
def test_missing_conditions_are_named_in_one_line(kind: str, generator: torch.Generator) -> None:
    y = observed(generator, 2)
    with pytest.raises(
        InvalidValueError, match=r"^delay_spread and max_doppler are missing: .*WithEstimatedConditions"
    ) as caught:
        make(kind)(y, 0.05)
    assert "\n" not in str(caught.value)
    with pytest.raises(InvalidValueError, match=r"^max_doppler is missing"):
        make(kind)(y, 0.05, delay_spread=1e-7)
    raw = make(kind, condition_ranges=None)
    assert raw.told == ("snr_db", "delay_spread", "max_doppler")
    with pytest.raises(InvalidValueError, match=r"^snr_db is missing"):
        raw(y, 0.05, **TOLD)
    assert torch.isfinite(raw(y, 0.05, snr_db=13.0, **TOLD).err_var).all()


@pytest.mark.parametrize(
    ("value", "kind", "line"),
    [
        ("fast", InvalidTypeError, "max_doppler must be a number or a real tensor, got str"),
        (1j, InvalidTypeError, "max_doppler must be a number or a real tensor"),
        (torch.ones(4, dtype=torch.complex64), InvalidTypeError, "max_doppler must be a number or a real tensor"),
        (float("nan"), InvalidValueError, "max_doppler holds 1 NaN"),
        (torch.ones(3), ShapeError, r"max_doppler has shape \(3,\); it must fit the batch \(4, 1\)"),
    ],
)
def test_conditions_that_are_none(value: Any, kind: type[Exception], line: str, generator: torch.Generator) -> None:
    with pytest.raises(kind, match=line):
        make("adafortitran")(observed(generator, 4), 0.05, delay_spread=1e-7, max_doppler=value)


# -- What is refused. --


@pytest.mark.parametrize("kind", LEARNED)
def test_nan_on_a_pilot_is_refused_and_elsewhere_ignored(kind: str, generator: torch.Generator) -> None:
    est, y = make(kind), observed(generator, 2)
    want = est(y, 0.05, **TOLD)
    elsewhere = y.clone()
    elsewhere[..., ~PILOTS.mask] = float("nan")
    got = est(elsewhere, 0.05, **TOLD)
    assert torch.equal(got.h_hat, want.h_hat) and torch.equal(got.err_var, want.err_var)
    y[1, 0, 4, 3] = float("nan")
    with pytest.raises(InvalidValueError, match=r"^y holds 1 NaN or infinite of 32 values"):
        est(y, 0.05, **TOLD)


@pytest.mark.parametrize("kind", LEARNED)
def test_another_grid_is_refused(kind: str, generator: torch.Generator) -> None:
    y = observed(generator, 2)
    for wrong in (y[..., :-1], y[..., :-1, :], torch.cat([y, y], -1)):
        with pytest.raises(ShapeError, match=r"^y has shape .*; the last axes must be \(\*, 6, 24\)$"):
            make(kind)(wrong, 0.05, **TOLD)


def test_precision_is_that_of_the_weights(generator: torch.Generator) -> None:
    est, y = make("linear"), observed(generator, 2, dtype=torch.complex128)
    with pytest.raises(InvalidTypeError, match=r"^y has dtype torch.complex128, the weights torch.float32; convert one"):
        est(y, 0.05)
    with pytest.raises(InvalidTypeError, match=r"the weights torch.float64"):
        copy.deepcopy(est).double()(y.to(torch.complex64), 0.05)


@pytest.mark.parametrize("kind", LEARNED)
def test_double_precision_agrees_with_single(kind: str, generator: torch.Generator) -> None:
    est, y = make(kind), observed(generator, 2, dtype=torch.complex128)
    single = est(y.to(torch.complex64), 0.05, **TOLD)
    double = copy.deepcopy(est).double()(y, 0.05, **TOLD)
    assert double.h_hat.dtype == torch.complex128 and double.err_var.dtype == torch.float64
    assert close(Estimate(double.h_hat.to(torch.complex64), double.err_var.float()), single, rtol=1e-4)


@pytest.mark.parametrize("kind", ["fortitran", "adafortitran", "cevit"])
def test_patch_that_does_not_divide_the_grid(kind: str) -> None:
    with pytest.raises(InvalidValueError, match=r"^patch=\(5, 2\) does not divide the grid of 24 x (6|12) elements") as caught:
        make(kind, patch=(5, 2))
    assert "\n" not in str(caught.value)
    with pytest.raises(InvalidValueError, match="is not divisible by heads=3"):
        make(kind, heads=3)


def test_observations_that_are_none() -> None:
    with pytest.raises(InvalidTypeError, match="^obs must be OFDMPilots, got OFDMGrid$"):
        Linear(GRID)
    with pytest.raises(InvalidValueError, match="^obs has 2 transmit antennas; linear is made for one$"):
        Linear(OFDMPilots(GRID, symbols=(1,), subcarrier_step=1, num_tx_ant=2))


@pytest.mark.parametrize(
    ("ranges", "line"),
    [
        ({"snr_db": (0, 1)}, r"condition_ranges names \['snr_db'\]; it must name \['delay_spread', 'max_doppler', 'snr_db'\]"),
        (
            {"snr_db": (0, 1), "delay_spread": (2e-7, 1e-7), "max_doppler": (0, 1)},
            r"condition_ranges\['delay_spread'\]=.* must be two finite numbers, the lower first",
        ),
    ],
)
def test_condition_ranges_that_are_none(ranges: dict[str, Any], line: str) -> None:
    with pytest.raises(InvalidValueError, match=line):
        make("adafortitran", condition_ranges=ranges)


# -- Weights and settings. --


@pytest.mark.parametrize("kind", LEARNED)
def test_config_goes_through_json_and_state_dict_brings_the_weights(kind: str, generator: torch.Generator) -> None:
    est, y = make(kind, scale_input=False, seed=5), observed(generator, 2)
    other = LEARNED[kind].from_config(json.loads(json.dumps(est.config())), PILOTS).eval()
    assert other.config() == est.config()
    assert not torch.equal(other(y, 0.05, **TOLD).h_hat, est(y, 0.05, **TOLD).h_hat)  # the seed is no hyper-parameter
    other.load_state_dict(est.state_dict())
    got, want = other(y, 0.05, **TOLD), est(y, 0.05, **TOLD)
    assert torch.equal(got.h_hat, want.h_hat) and torch.equal(got.err_var, want.err_var)
    assert not any(value.is_complex() for value in est.state_dict().values())
    with pytest.raises(InvalidValueError, match=f"^config of {kind} does not fit: .*colour"):
        LEARNED[kind].from_config(est.config() | {"colour": 1}, PILOTS)


@pytest.mark.parametrize("kind", LEARNED)
def test_seed_decides_the_weights(kind: str) -> None:
    before = torch.get_rng_state()
    first, same, other = make(kind), make(kind), make(kind, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    pairs = [(first.state_dict()[name], same.state_dict()[name], other.state_dict()[name]) for name in first.state_dict()]
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize("name", ["paper", "default"])
def test_presets(kind: str, name: str) -> None:
    est = LEARNED[kind].preset(name, **({} if kind == "linear" else {"layers": 1}))
    assert est.obs.grid == OFDMGrid(14, 120, 15e3)
    assert est.obs.pilot_symbols.tolist() == ([2, 11] if name == "paper" else [2, 5, 8, 11])
    assert est.scale_input is (name == "default")
    told = tuple(TOLD) if kind in INFORMED else ()
    assert est.told == (("snr_db", *told) if told and name == "paper" else told)
    assert LEARNED[kind].preset(name, PILOTS, **SMALL[kind]).obs is PILOTS
    with pytest.raises(UnknownNameError, match="preset='papr' is unknown; did you mean 'paper'"):
        LEARNED[kind].preset("papr")


@pytest.mark.parametrize("kind", LEARNED)
def test_other_pilot_symbols_on_the_same_positions(kind: str, generator: torch.Generator) -> None:
    values = complex_normal((2, 8), generator=generator)
    other = OFDMPilots(GRID, symbols=(1, 4), subcarrier_step=3, values=2 * values / values.abs())
    est = make(kind)
    fitted = est.for_observation(other)
    h = complex_normal((3, 1, 1, *GRID.shape), generator=generator)
    want = est(PILOTS.noiseless(h), 0.05, **TOLD)
    # Pilots of four times the power see a quarter of the noise.
    assert close(fitted(other.noiseless(h), 0.2, **TOLD), want)
    assert fitted.obs is other and est.obs is PILOTS
    with torch.no_grad():
        next(est.network.parameters()).mul_(2)
    shared = fitted(other.noiseless(h), 0.2, **TOLD)
    assert not torch.equal(shared.h_hat, want.h_hat) and close(shared, est(PILOTS.noiseless(h), 0.05, **TOLD))
    assert [a is b for a, b in zip(est.parameters(), fitted.parameters(), strict=True)].count(False) == 0


@pytest.mark.parametrize(
    ("obs", "line"),
    [
        (OFDMPilots(OFDMGrid(6, 24, 15e3), symbols=(1, 4), subcarrier_step=3), "linear was made for OFDMGrid.*30000.*15000"),
        (OFDMPilots(OFDMGrid(7, 24, 30e3), symbols=(1, 4), subcarrier_step=3), "linear was made for OFDMGrid"),
        (
            OFDMPilots(GRID, symbols=(1, 5), subcarrier_step=3),
            r"16 pilots in symbols \[1, 4\], subcarriers 0 to 21, not for 16 pilots in symbols \[1, 5\]",
        ),
        (OFDMPilots(GRID, symbols=(1, 4), subcarrier_step=3, subcarrier_offset=1), "subcarriers 0 to 21, not for .* 1 to 22$"),
        (OFDMPilots(GRID, symbols=(1, 4), subcarrier_step=3, num_tx_ant=2), "linear was made for"),
    ],
)
def test_other_positions_are_refused_in_one_line(obs: OFDMPilots, line: str) -> None:
    est = make("linear")
    for ask in (est.check_observation, est.for_observation):
        with pytest.raises(InvalidValueError, match=line) as caught:
            ask(obs)
        assert "\n" not in str(caught.value)


def test_a_prefix_counted_in_whole_samples_is_the_same_grid() -> None:
    rounded = OFDMGrid(6, 24, 30e3, symbol_duration=GRID.symbol_duration + 0.49 / GRID.bandwidth)
    make("linear").check_observation(OFDMPilots(rounded, symbols=(1, 4), subcarrier_step=3))
    longer = OFDMGrid(6, 24, 30e3, symbol_duration=GRID.symbol_duration + 0.6 / GRID.bandwidth)
    with pytest.raises(InvalidValueError, match="linear was made for OFDMGrid"):
        make("linear").check_observation(OFDMPilots(longer, symbols=(1, 4), subcarrier_step=3))


# -- Training. --


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize("ranges", ["default", None], ids=str)
def test_gradient_reaches_every_weight(kind: str, ranges: Any, generator: torch.Generator) -> None:
    est = make(kind, condition_ranges=ranges).train()
    h = complex_normal((8, 1, 1, *GRID.shape), generator=generator)
    y = PILOTS.observe(h, 0.05, generator=generator)
    conditions = {name: value * (0.5 + torch.rand(8, generator=generator)) for name, value in TOLD.items()}
    make_loss("mse")(est(y, 0.05, snr_db=13.0, **conditions), h).backward()
    assert [name for name, p in est.network.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert [p.grad for p in est.error_head.parameters()] == [None] * 6  # a mean squared error says nothing about err_var
    est.zero_grad()
    make_loss("mse+nll")(est(y, 0.05, snr_db=13.0, **conditions), h).backward()
    assert [name for name, p in est.error_head.named_parameters() if p.grad is None or not p.grad.any()] == []
    kept = [p.grad.clone() for p in est.network.parameters()]
    est.zero_grad()
    make_loss("mse")(est(y, 0.05, snr_db=13.0, **conditions), h).backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(kept, est.network.parameters(), strict=True))


@pytest.mark.parametrize("kind", LEARNED)
def test_half_precision_inside_leaves_single_precision_outside(kind: str, generator: torch.Generator) -> None:
    est, y = make(kind), observed(generator, 4)
    want = est(y, 0.05, **TOLD)
    with torch.autocast("cpu", torch.bfloat16):
        got = est(y, 0.05, **TOLD)
    assert got.h_hat.dtype == torch.complex64 and got.err_var.dtype == torch.float32
    error = float(((got.h_hat - want.h_hat).abs().square().mean() / want.h_hat.abs().square().mean()).detach())
    assert 0 < error < 1e-3  # bfloat16 has 8 bits: 0.4 % an operation, some ten in a row


@pytest.mark.parametrize("kind", ["linear", *INFORMED])
def test_compiled_in_one_graph(kind: str, generator: torch.Generator) -> None:
    est, y = make(kind, **({} if kind == "linear" else {"layers": 1})), observed(generator, 3)
    torch.compiler.reset()
    got = torch.compile(est, backend="eager", fullgraph=True)(y, torch.full((3,), 0.05), **TOLD)
    assert close(got, est(y, 0.05, **TOLD))


def fit_briefly(est: LearnedEstimator, generator: torch.Generator, steps: int = 40) -> None:
    """Until much more noise means more uncertainty."""
    est.warm_start([frames(512, generator)[1]])
    optimiser = torch.optim.Adam(est.parameters(), lr=5e-3)
    for _ in range(steps):
        no, batch = frames(32, generator)
        optimiser.zero_grad()
        make_loss("mse+nll")(est(batch.y, no, **TOLD), batch.h).backward()
        optimiser.step()


def frames(count: int, generator: torch.Generator) -> tuple[torch.Tensor, SimpleNamespace]:
    h, no = draw(count, generator), 10 ** (0.5 - 4 * torch.rand(count, generator=generator))
    return no, SimpleNamespace(h=h, y=PILOTS.observe(h, no, generator=generator))


def draw(count: int, generator: torch.Generator) -> torch.Tensor:
    return MODEL.frequency_response(GRID, count, generator=generator)


class EitherPrecision(Estimator):
    """An estimator in single and double precision, asked in that of the input: the contract wants both of one object."""

    def __init__(self, est: LearnedEstimator) -> None:
        super().__init__()
        self.single, self.double_ = est, copy.deepcopy(est).double()

    def forward(self, y: torch.Tensor, no: Any, **conditions: Any) -> Estimate:
        double = isinstance(y, torch.Tensor) and y.dtype == torch.complex128
        return (self.double_ if double else self.single)(y, no, **conditions)


@pytest.mark.parametrize("kind", LEARNED)
def test_contract_of_estimators(kind: str, generator: torch.Generator) -> None:
    est = LEARNED[kind](PILOTS, **SMALL[kind])
    fit_briefly(est, generator)

    def conditions(batch: tuple[int, ...]) -> dict[str, torch.Tensor]:
        return {name: torch.full(batch, value) for name, value in TOLD.items()}

    report = check_estimator(
        EitherPrecision(est),
        PILOTS,
        generator=generator,
        channel=draw,
        calibrated=False,
        conditions=conditions,
        skip={"noise_monotone": "a head knows it only where it was trained to; below"},
    )
    assert set(report.skipped) == {"linear", "calibration", "compile", "noise_monotone"}
    h = draw(64, generator)
    with torch.no_grad():
        low, high = (float(est(PILOTS.observe(h, no, generator=generator), no, **TOLD).err_var.mean()) for no in (0.03, 1.0))
    assert high > 1.5 * low


# -- Layout. --


def test_pilots_are_read_subcarrier_by_subcarrier(generator: torch.Generator) -> None:
    est = Linear(PILOTS)
    y = observed(generator, 2)
    x = est.least_squares(y)
    want = torch.stack([y[:, 0, t, k] / PILOTS.pilots[0, t, k] for k in range(0, 24, 3) for t in (1, 4)], dim=-1)
    assert torch.equal(x, want)


def test_published_pilots() -> None:
    obs = published_pilots(symbols=(2, 11), subcarrier_step=3)
    assert obs.num_pilots == 80 and obs.grid.shape == (14, 120) and obs.pilot_subcarriers[-1] == 117


def test_base_says_that_it_has_no_first_guess() -> None:
    class Constant(LearnedEstimator):
        kind = "constant"

        def _build(self) -> nn.Module:
            return nn.Identity()

        def _mean(self, pilots: torch.Tensor, conditions: torch.Tensor | None) -> torch.Tensor:
            return pilots.mean(-1)[:, None, None].expand(-1, 24, 6)

    est = Constant(PILOTS)
    assert est.warm_start([]) is False
    y = torch.ones(1, *GRID.shape, dtype=torch.complex64) * PILOTS.pilots[0]
    assert torch.allclose(est(y, 0.1).h_hat, torch.ones((), dtype=torch.complex64), atol=1e-6)
