"""A wichan estimator in Sionna's place: against Sionna's own, the dense formula, and a whole PUSCH receiver."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from wichan.channels import TDL
from wichan.estimators import LMMSE, LS
from wichan.grid import OFDMGrid
from wichan.integrations.sionna import as_channel_estimator, observation_of, resource_grid_of
from wichan.observations import OFDMPilots

pytestmark = pytest.mark.sionna

# A gather, a division and a few additions in single precision, on values of order 1.
SINGLE = {"rtol": 1e-4, "atol": 2e-5}


def kronecker_grid(fft_size: int = 32, *, precision: str = "single", num_symbols: int = 14, **options: Any) -> Any:
    from sionna.phy.ofdm import ResourceGrid

    symbols = [2, 11] if num_symbols == 14 else [0, num_symbols - 1]
    return ResourceGrid(
        num_symbols,
        fft_size,
        15e3,
        pilot_pattern="kronecker",
        pilot_ofdm_symbol_indices=symbols,
        precision=precision,
        **options,
    )


def comb_grid() -> Any:
    return resource_grid_of(OFDMPilots(OFDMGrid(14, 36, 15e3), symbols=(2, 11), subcarrier_step=3, boost_db=3.0))


def noise_like(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.complex64) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=generator)


def pilots_on_fft(rg: Any) -> torch.Tensor:
    """Pilots of every stream on the whole FFT, element by element from Sionna's own map of the grid."""
    kinds, pilots = rg.build_type_grid().cpu().numpy(), rg.pilot_pattern.pilots.cpu().numpy()
    full = np.zeros(kinds.shape, np.complex128)
    for tx, stream in np.ndindex(kinds.shape[:2]):
        places = [place for place in np.ndindex(kinds.shape[2:]) if kinds[tx, stream][place] == 1]
        for place, value in zip(places, pilots[tx, stream], strict=True):
            full[tx, stream][place] = value
    return torch.from_numpy(full).flatten(0, 1)


# -- Least squares against Sionna's. --


@pytest.mark.parametrize(("mine", "theirs"), [("nearest", "nn"), ("linear", "lin")])
@pytest.mark.parametrize("streams", [(1, 1), (2, 2), "comb"])
def test_ls_equals_sionnas(generator: torch.Generator, streams: Any, mine: str, theirs: str) -> None:
    from sionna.phy.ofdm import LSChannelEstimator

    rg = comb_grid() if streams == "comb" else kronecker_grid(num_tx=streams[0], num_streams_per_tx=streams[1])
    y = noise_like((3, 2, 2, 14, rg.fft_size), generator)
    h_hat, err_var = as_channel_estimator(lambda pilots: LS(pilots, mine), rg)(y, 0.1)
    want, noise_only = LSChannelEstimator(rg, interpolation_type=theirs)(y, 0.1)
    torch.testing.assert_close(h_hat, want, **SINGLE)
    # Sionna's variance is the noise's share; wichan adds the interpolation error to it. (At a pilot they agree.)
    assert err_var.shape == h_hat.shape
    if mine == "nearest":
        assert bool((err_var >= noise_only * (1 - 1e-4)).all())


def test_ls_with_guard_carriers_and_nulled_dc_interpolates_over_true_frequencies(generator: torch.Generator) -> None:
    from sionna.phy.ofdm import LSChannelEstimator

    rg = kronecker_grid(32, num_tx=3, num_guard_carriers=(3, 4), dc_null=True)
    y = noise_like((2, 1, 1, 14, 32), generator)
    h_hat, _ = as_channel_estimator(LS, rg)(y, 0.1)
    sionnas, _ = LSChannelEstimator(rg, interpolation_type="lin")(y, 0.1)
    used, full = rg.effective_subcarrier_ind, pilots_on_fft(rg)
    for stream in range(3):
        at = np.flatnonzero(full[stream, 2].numpy())
        points = (y[0, 0, 0, 2, at] / full[stream, 2, at]).numpy()
        step = np.clip(np.searchsorted(at, used, side="right") - 1, 0, len(at) - 2)
        left, right = at[step], at[step + 1]
        line = points[step] + (points[step + 1] - points[step]) * (used - left) / (right - left)
        np.testing.assert_allclose(h_hat[0, 0, 0, stream, 0, 2], line, rtol=1e-4, atol=2e-5)
        # Sionna's lines count effective subcarriers, which is the same except across the gap.
        away = torch.from_numpy((right < rg.dc_ind) | (left > rg.dc_ind))
        assert 0 < int(away.sum()) < len(used)
        torch.testing.assert_close(h_hat[:, :, :, stream][..., away], sionnas[:, :, :, stream][..., away], **SINGLE)
        assert not torch.allclose(h_hat[:, :, :, stream], sionnas[:, :, :, stream], **SINGLE)


def test_streams_come_back_in_sionnas_order(generator: torch.Generator) -> None:
    from sionna.phy.ofdm import ResourceGridMapper

    rg = kronecker_grid(num_tx=3, num_streams_per_tx=2, num_guard_carriers=(1, 1))
    x = ResourceGridMapper(rg)(noise_like((2, 3, 2, rg.num_data_symbols), generator))  # data on all other elements
    gain = noise_like((2, 2, 4, 3, 2), generator)
    y = torch.einsum("bratu,btunf->branf", gain, x)
    h_hat, err_var = as_channel_estimator(LS, rg)(y, 0.0)
    torch.testing.assert_close(h_hat, gain[..., None, None].expand(h_hat.shape), **SINGLE)
    assert h_hat.shape == (2, 2, 4, 3, 2, 14, 30) == err_var.shape


# -- LMMSE against the dense formula and against itself. --


def small_model(**options: Any) -> TDL:
    return TDL("B", delay_spread=300e-9, max_doppler=400.0, **options)


@pytest.mark.parametrize("num_rx_ant", [1, 2])
def test_lmmse_equals_the_dense_formula(generator: torch.Generator, num_rx_ant: int) -> None:
    """R P^H (P R P^H + no I)^-1 on the whole FFT lattice, guard carriers and DC included, from Sionna's own map.

    With one antenna in R the two of ``y`` are filtered one at a time; with two (correlated) jointly.
    """
    rg = kronecker_grid(
        20, num_symbols=4, num_tx=2, num_guard_carriers=(3, 2), dc_null=True, cyclic_prefix_length=3, precision="double"
    )
    root = torch.eye(1) if num_rx_ant == 1 else torch.tensor([[1.0, 0.8], [0.8, 1.0]])
    model = small_model(num_rx_ant=num_rx_ant, num_tx_ant=2, rx_correlation=root)
    adapter = as_channel_estimator(lambda pilots: LMMSE(pilots, model.covariance(pilots.grid)), rg)
    y = noise_like((3, 1, 2, 4, 20), generator, torch.complex128)
    no = 0.03
    h_hat, err_var = adapter(y, no)

    r = model.covariance(OFDMGrid(4, 20, 15e3, rg.ofdm_symbol_duration)).matrix()
    seen = pilots_on_fft(rg).flatten(1)
    places = (seen != 0).any(dim=0).nonzero().flatten()
    one = torch.zeros(len(places), 2, seen.shape[1], dtype=torch.complex128)
    one[torch.arange(len(places)), :, places] = seen[:, places].T
    p = torch.kron(torch.eye(num_rx_ant, dtype=torch.complex128), one.flatten(1))
    gain = r @ p.mH @ torch.linalg.inv(p @ r @ p.mH + no * torch.eye(len(p)))
    error = (r - gain @ p @ r).diagonal().real
    received = y[:, 0].flatten(-2)[..., places]  # (batch, antennas, pilots)
    received = received if num_rx_ant == 1 else received.flatten(1)[:, None]
    want = (received @ gain.T).reshape(3, 2, 2, 4, 20)[..., rg.effective_subcarrier_ind]
    # Double precision; the eigenmodes below 1e-14 of the largest are left out of the filter.
    torch.testing.assert_close(h_hat[:, 0, :, :, 0], want, rtol=1e-6, atol=1e-8)
    variance = error.reshape(num_rx_ant, 2, 4, 20)[..., rg.effective_subcarrier_ind].expand(3, 2, 2, 4, -1)
    torch.testing.assert_close(err_var[:, 0, :, :, 0], variance, rtol=1e-6, atol=1e-10)


def test_lmmse_equals_itself_without_sionna(generator: torch.Generator) -> None:
    pilots = OFDMPilots(OFDMGrid(14, 36, 15e3, (1 + 2 / 36) / 15e3), symbols=(2, 11), subcarrier_step=3)
    lmmse = LMMSE(pilots, small_model(num_rx_ant=4).covariance(pilots.grid))
    y = noise_like((5, 4, 14, 36), generator)
    no = torch.tensor([0.1, 0.2, 0.1, 0.3, 1.0])
    h_hat, err_var = as_channel_estimator(lmmse, resource_grid_of(pilots))(y[:, None], no)
    want = lmmse(y, no)
    torch.testing.assert_close(h_hat[:, 0, :, 0], want.h_hat, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(err_var[:, 0, :, 0], want.err_var, rtol=1e-6, atol=1e-6)


def test_antennas_filtered_together_gain_from_their_correlation(generator: torch.Generator) -> None:
    pilots = OFDMPilots(OFDMGrid(14, 36, 15e3, 1 / 15e3), symbols=(2, 11), subcarrier_step=3)
    rg = resource_grid_of(pilots)
    correlated = small_model(num_rx_ant=4, rx_correlation=0.95 ** (torch.arange(4)[:, None] - torch.arange(4)).abs().double())
    h = correlated.frequency_response(pilots.grid, 100, generator=generator)
    y = pilots.observe(h, 1.0, generator=generator)[:, None]
    joint = as_channel_estimator(LMMSE(pilots, correlated.covariance(pilots.grid)), rg)(y, 1.0)
    alone = as_channel_estimator(LMMSE(pilots, small_model().covariance(pilots.grid)), rg)(y, 1.0)
    errors = [float((h_hat[:, 0, :, 0] - h).abs().square().mean()) for h_hat, _ in (joint, alone)]
    # At 0 dB neighbours with correlation 0.95 are worth 2 dB (0.63); 100 channels of 4 antennas scatter by some 5 %.
    assert errors[0] < 0.75 * errors[1]
    for error, (_, err_var) in zip(errors, (joint, alone), strict=True):
        assert float(err_var.mean()) == pytest.approx(error, rel=0.15)


# -- What may be given for the noise, the precision, the estimator. --


@pytest.mark.parametrize("shape", [(), (1,), (3,), (3, 2), (3, 2, 4), (3, 1, 4), (1, 2, 1)])
def test_noise_of_every_shape(generator: torch.Generator, shape: tuple[int, ...]) -> None:
    rg = kronecker_grid(16, num_symbols=4)
    adapter = as_channel_estimator(lambda pilots: LMMSE(pilots, small_model().covariance(pilots.grid)), rg)
    y = noise_like((3, 2, 4, 4, 16), generator)
    no = torch.rand(shape, generator=generator) + 0.1
    h_hat, err_var = adapter(y, no)
    full = no.reshape(shape + (1,) * (3 - len(shape))).expand(3, 2, 4) if shape != (1,) else no.expand(3, 2, 4)
    for b, r, a in np.ndindex(3, 2, 4):
        one, variance = adapter(y[b, r, a][None, None, None], float(full[b, r, a]))
        torch.testing.assert_close(h_hat[b, r, a], one[0, 0, 0], **SINGLE)
        torch.testing.assert_close(err_var[b, r, a], variance[0, 0, 0], **SINGLE)


@pytest.mark.parametrize("no", [1, 1.0, np.float64(1.0), torch.tensor(1), torch.ones(2, dtype=torch.float64), np.ones(2)])
def test_noise_of_every_type(generator: torch.Generator, no: Any) -> None:
    adapter = as_channel_estimator(lambda pilots: LMMSE(pilots, small_model().covariance(pilots.grid)), kronecker_grid(16))
    y = noise_like((2, 1, 1, 14, 16), generator)
    for have, want in zip(adapter(y, no), adapter(y, 1.0), strict=True):
        torch.testing.assert_close(have, want)
        assert have.dtype == want.dtype


def test_ls_takes_a_noise_for_each_antenna(generator: torch.Generator) -> None:
    adapter = as_channel_estimator(LS, comb_grid())
    y, no = noise_like((2, 1, 3, 14, 36), generator), torch.tensor([0.1, 0.2, 0.4]).expand(2, 1, 3)
    h_hat, err_var = adapter(y, no)
    for antenna, one in enumerate((0.1, 0.2, 0.4)):
        part = adapter(y[:, :, antenna : antenna + 1], one)
        torch.testing.assert_close(h_hat[:, :, antenna], part[0][:, :, 0])
        torch.testing.assert_close(err_var[:, :, antenna], part[1][:, :, 0])


def test_precision_follows_the_input_unless_it_is_given(generator: torch.Generator) -> None:
    rg = kronecker_grid(16)
    y = noise_like((2, 1, 1, 14, 16), generator, torch.complex128)
    double, single = as_channel_estimator(LS, rg)(y, 0.1), as_channel_estimator(LS, rg, precision="single")(y, 0.1)
    assert [part.dtype for part in (*double, *single)] == [torch.complex128, torch.float64, torch.complex64, torch.float32]
    torch.testing.assert_close(double[0].to(torch.complex64), single[0], **SINGLE)
    assert as_channel_estimator(LS, rg, precision="double")(y.to(torch.complex64), 0.1)[0].dtype == torch.complex128


def test_any_function_or_module_can_be_the_estimator(generator: torch.Generator) -> None:
    class Ones(torch.nn.Module):
        def forward(self, y: torch.Tensor, no: Any) -> tuple[torch.Tensor, torch.Tensor]:
            one = torch.ones_like(y).unsqueeze(-3)
            return one, one.real

    rg = kronecker_grid(16)
    y = noise_like((2, 1, 3, 14, 16), generator)
    for estimator in (Ones(), lambda pilots: Ones().forward, lambda pilots: Ones()):
        h_hat, err_var = as_channel_estimator(estimator, rg)(y, 0.1)
        assert h_hat.shape == (2, 1, 3, 1, 1, 14, 16)
        assert bool((h_hat == 1).all() and (err_var == 1).all())
    calls = []
    one_at_a_time = as_channel_estimator(
        lambda pilots: lambda y, no: calls.append(y.shape) or Ones()(y, no), rg, antennas="separate"
    )
    assert one_at_a_time(y, 0.1)[0].shape == (2, 1, 3, 1, 1, 14, 16)
    assert calls == [(2, 1, 3, 1, 14, 16)]


def test_it_is_a_sionna_estimator_and_a_module() -> None:
    from sionna.phy.ofdm import BaseChannelEstimator

    rg = kronecker_grid(16, dc_null=True)
    first, second = (
        as_channel_estimator(lambda p, d=d: LMMSE(p, TDL("A", delay_spread=d, max_doppler=9.0).covariance(p.grid)), rg)
        for d in (1e-8, 9e-7)
    )
    assert isinstance(first, BaseChannelEstimator)
    assert isinstance(first.estimator, LMMSE)
    y = torch.ones(1, 1, 1, 14, 16, dtype=torch.complex64)
    assert not torch.allclose(first(y, 0.1)[0], second(y, 0.1)[0])
    first.load_state_dict(second.state_dict())
    torch.testing.assert_close(first(y, 0.1)[0], second(y, 0.1)[0])
    h_hat, _ = first(y.requires_grad_(), torch.tensor(0.1, requires_grad=True))
    h_hat.abs().sum().backward()
    assert bool((y.grad != 0).any())


def test_global_generators_are_left_alone(generator: torch.Generator) -> None:
    rg = kronecker_grid(16)
    y = noise_like((2, 1, 1, 14, 16), generator)
    state = torch.get_rng_state()
    pilots = observation_of(rg)
    as_channel_estimator(LS(pilots), rg)(y, 0.1)
    resource_grid_of(pilots)
    assert torch.equal(state, torch.get_rng_state())


# -- PUSCH: DMRS, code-division groups, precoding. --


def transmitter(
    layers: int, ports: list[int], *, double: bool = False, type_: int = 1, extra: int = 1, tpmi: Any = None
) -> Any:
    from sionna.phy.nr import PUSCHConfig, PUSCHTransmitter

    config = PUSCHConfig()
    config.carrier.n_size_grid = 4
    config.num_layers, config.num_antenna_ports = layers, layers
    config.dmrs.config_type, config.dmrs.length = type_, 2 if double else 1
    config.dmrs.additional_position = extra
    config.dmrs.num_cdm_groups_without_data = 2
    config.dmrs.dmrs_port_set = ports
    config.tb.mcs_index = 14
    if tpmi is not None:
        config.num_antenna_ports, config.precoding, config.tpmi = 4, "codebook", tpmi
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PUSCHTransmitter(config)


@pytest.mark.parametrize(
    ("ports", "options"),
    [
        ([0], {}),
        ([0, 1], {}),
        ([0, 2], {}),
        ([0, 1, 2, 3], {"type_": 2}),
        ([0, 4], {"double": True}),
        ([2, 3, 6, 7], {"double": True, "type_": 1}),
    ],
)
def test_dmrs_is_that_of_wichan_with_its_groups(ports: list[int], options: dict[str, Any]) -> None:
    """Two writings of TS 38.211: Sionna's pilots with groups found by search, and wichan's with groups from the tables."""
    rg = transmitter(len(ports), ports, **options).resource_grid
    have = observation_of(rg)
    double, config_type = options.get("double", False), options.get("type_", 1)
    want = OFDMPilots.dmrs(
        have.grid,
        ports=ports,
        config_type=config_type,
        num_front_symbols=2 if double else 1,
        additional_position=1,
        num_cdm_groups_without_data=2,
        identity=1,
    )
    torch.testing.assert_close(have.pilots, want.pilots, rtol=1e-5, atol=1e-6)
    if have.groups is None:  # nobody shares
        assert int((want.pilots != 0).sum(dim=0).max()) == 1
    else:
        assert partition(have.groups) == partition(want.groups)


def partition(labels: torch.Tensor) -> set[frozenset[int]]:
    flat = labels.flatten()
    return {frozenset((flat == label).nonzero().flatten().tolist()) for label in flat.unique().tolist() if label >= 0}


@pytest.mark.parametrize("layers", [1, 2])
def test_pusch_receiver_decodes_without_errors(layers: int) -> None:
    import sionna.phy
    from sionna.phy.channel import OFDMChannel
    from sionna.phy.channel.tr38901 import TDL as SionnaTDL
    from sionna.phy.nr import PUSCHReceiver

    sionna.phy.config.seed = 5
    tx = transmitter(layers, list(range(layers)))
    rg = tx.resource_grid
    model = TDL("A", delay_spread=100e-9, carrier_frequency=3.5e9, speed=3.0, num_rx_ant=4, num_tx_ant=layers)
    tdl = SionnaTDL("A", 100e-9, 3.5e9, min_speed=3.0, num_rx_ant=4, num_tx_ant=layers)
    channel = OFDMChannel(tdl, rg, return_channel=True)
    no = 1e-3  # 30 dB at each antenna: far above what 16-QAM of rate 0.54 needs
    (x, bits), power = tx(8), {}
    y, h = channel(x, no)
    ours = as_channel_estimator(lambda pilots: LMMSE(pilots, model.covariance(pilots.grid)), rg)
    for name, estimator in {"ls": as_channel_estimator(LS, rg), "lmmse": ours}.items():
        assert torch.equal(PUSCHReceiver(tx, channel_estimator=estimator)(y, no), bits)
        power[name] = float((estimator(y, no)[0] - h).abs().square().mean())
    theirs = PUSCHReceiver(tx)._channel_estimator(y, torch.tensor(no))[0]
    # Measured: -44 dB for LMMSE, -34 dB for both LS. A line through two noisy neighbours cannot be better than joint LMMSE.
    assert power["lmmse"] < 0.3 * min(power["ls"], float((theirs - h).abs().square().mean()))
    assert power["lmmse"] == pytest.approx(float(ours(y, no)[1].mean()), rel=0.3)  # it knows its error


def test_with_precoding_the_estimate_is_the_effective_channel(generator: torch.Generator) -> None:
    tx = transmitter(2, [0, 1], tpmi=5)
    x, _ = tx(3)  # (batch, tx, antenna ports, symbols, subcarriers), precoded
    h = noise_like((3, 2, 4), generator)  # flat: (batch, receive antennas, antenna ports)
    y = torch.einsum("bap,bpnf->banf", h, x[:, 0])[:, None]
    h_hat, _ = as_channel_estimator(LS, tx.resource_grid)(y, 0.0)
    effective = h @ tx._precoder._w[0].to(h.dtype)
    torch.testing.assert_close(h_hat[:, 0, :, 0], effective[..., None, None].expand(h_hat[:, 0, :, 0].shape), **SINGLE)


# -- Grids there and back. --


@pytest.mark.parametrize("kind", ["comb", "kronecker", "dmrs", "dmrs of three"])
def test_resource_grid_and_observation_hold_the_same_pilots(kind: str) -> None:
    grid = OFDMGrid(14, 48, 30e3)
    made = {
        "comb": lambda: OFDMPilots(grid, symbols=(2, 11), subcarrier_step=3, subcarrier_offset=1, boost_db=4.0),
        "kronecker": lambda: OFDMPilots(grid, symbols=(3, 7), num_tx_ant=4),
        "dmrs": lambda: OFDMPilots.dmrs(grid, ports=(0, 1, 2, 3)),
        "dmrs of three": lambda: OFDMPilots.dmrs(grid, ports=(0, 1, 4), num_front_symbols=2),
    }[kind]()
    num_tx = 2 if made.num_tx_ant % 2 == 0 else 1
    rg = resource_grid_of(made, num_tx=num_tx)
    back = observation_of(rg)
    assert torch.equal(back.pilots, made.pilots)
    assert (made.groups is None) == (back.groups is None)
    assert made.groups is None or partition(back.groups) == partition(made.groups)
    assert (rg.num_tx, rg.num_streams_per_tx) == (num_tx, made.num_tx_ant // num_tx)
    assert rg.num_effective_subcarriers == 48
    # Sionna counts the prefix in whole samples of 1/(48 * 30 kHz): at most half a sample is rounded away.
    assert abs(back.grid.symbol_duration - grid.symbol_duration) <= 0.5 / (48 * 30e3)
    assert as_channel_estimator(LS(made), rg) is not None  # which is no mismatch
