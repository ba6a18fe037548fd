"""The thrifty CSI-4CAST: its basis of delays, weights fitted to a history, the map between bands, and what it learns."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import wichan as wc
from wichan.prediction import CSI4CAST, Hold, WienerPredictor
from wichan.prediction.csi4cast_band import BandMap, delay_basis, path_responses
from wichan.prediction.csi4cast_weights import WeightNetwork, fitted_weights, invariants


def path(delay: float, bins: torch.Tensor, count: int) -> torch.Tensor:
    return torch.polar(torch.full((), count**-0.5, dtype=torch.float64), -2 * math.pi * delay / count * bins.double())


@pytest.mark.parametrize(("count", "taps"), [(300, 64), (64, 24), (12, 8), (16, 16), (1, 1)])
def test_basis_is_orthonormal_and_holds_the_paths_of_its_window(count: int, taps: int) -> None:
    basis = delay_basis(count, taps)
    assert (basis.mH @ basis - torch.eye(taps)).abs().max() < 1e-12
    window = taps - 10 if taps >= 20 and taps < count else taps / 2 if taps < count else taps
    bins = torch.arange(count)
    for share in (0.0, 0.37, 0.5, 1.0):
        vector = path(share * window, bins, count)
        lost = (vector - basis @ (basis.mH @ vector)).norm().square()
        # Ten dimensions beyond the window hold its ends to 1e-6 of the energy, few dimensions less.
        assert lost < (1e-6 if taps >= 20 or taps == count else 0.05)
    if taps >= 20:
        vector = path(window + 30, bins, count)
        assert (vector - basis @ (basis.mH @ vector)).norm().square() > 0.5


def test_basis_vectors_are_close_to_one_delay() -> None:
    basis = delay_basis(300, 64)
    energy = torch.stack([torch.fft.ifft(column).abs().square() * 300 for column in basis.T])
    place = energy.argmax(-1)
    assert (place[4:-4].diff() >= 0).all()
    near = torch.stack([row.roll(4 - int(at))[:9].sum() for row, at in zip(energy, place, strict=True)])
    assert near.median() > 0.9


def test_fitted_weights_continue_sums_of_rotations(generator: torch.Generator) -> None:
    # Three rotations are predicted without error by any eight snapshots, whatever their amplitudes on each antenna.
    times = torch.arange(20, dtype=torch.float64)
    shift = torch.tensor([0.31, -0.22, 0.05], dtype=torch.float64)
    waves = torch.polar(torch.ones(3, 20, dtype=torch.float64), 2 * math.pi * shift[:, None] * times)
    c = torch.randn(2, 5, 6, 3, generator=generator, dtype=torch.complex128) @ waves
    past, future = c[..., :16].mT, c[..., 16:].mT
    gram = past @ past.mH / 6
    weights = fitted_weights(gram, 8, 4, torch.full((2, 5), 1e-9, dtype=torch.float64))
    # The ridge of 1e-9 against eigenvalues of 0.01 and above.
    assert (weights @ past[..., 8:, :] - future).abs().max() < 1e-4
    heavy = fitted_weights(gram, 8, 4, torch.full((2, 5), 1e6, dtype=torch.float64))
    assert heavy.abs().max() < 1e-5


def test_invariants_ignore_scale_and_phase(generator: torch.Generator) -> None:
    c = torch.randn(2, 6, 8, 3, generator=generator, dtype=torch.complex128)
    c = c * torch.logspace(0, -4, 6).double()[:, None, None]
    seen = invariants(c @ c.mH)
    turned = 30j * c
    assert seen.shape == (2, 6, 15)
    assert (invariants(turned @ turned.mH) - seen).abs().max() < 1e-12
    rotation = torch.polar(torch.ones(8, dtype=torch.float64), 0.7 * torch.arange(8).double())[:, None]
    spun = rotation * torch.ones(6, 8, 3, dtype=torch.complex128)
    lag_one = invariants((spun @ spun.mH)[None])[0, :, 1:3]
    assert (lag_one - torch.tensor([math.cos(0.7), math.sin(0.7)])).abs().max() < 2e-6  # the floor of the power is 1e-6


def test_band_map_extrapolates_paths_of_a_known_delay(generator: torch.Generator) -> None:
    taps, fine, point = 24, 4, 41
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        band = BandMap(64, taps, fine, 96, 8).double()
    near, far = path_responses(64, taps, fine, 96)
    tokens = torch.zeros(1, taps, 8, dtype=torch.float64)
    with torch.no_grad():  # all power at one delay, hardly any load
        for value in band.parameters():
            value.zero_()
        band.kinds.bias[0] = 1
        band.templates[0] = -12
        band.templates[0, point] = 6
        band.load.bias.fill_(-12)
    matrix = band(near[:, point].abs().square()[None], tokens)[0]
    # The load and the power of other delays are 1e-5 to 1e-8 of the path's.
    assert (matrix @ near[:, point] - far[:, point]).norm() < 1e-2 * far[:, point].norm()
    # The same path in the far band by itself.
    bins = torch.arange(64) + 96
    delays = torch.linspace(-4.0, 18.0, taps, dtype=torch.float64)
    step = float(delays[1] - delays[0])
    delay = float(delays[point // fine]) + (point % fine - 1.5) * step / fine
    assert (far[:, point] - delay_basis(64, taps).mH @ path(delay, bins, 64)).abs().max() < 1e-9


def network(**options: int) -> WeightNetwork:
    settings = {"taps": 16, "order": 5, "maps": 3, "fine": 0, "offset": 0, "width": 16, "layers": 1, "heads": 2, "hidden": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = WeightNetwork(32, 10, 3, **(settings | options), dropout=0.0).double().eval()
        with torch.no_grad():
            for value in made.parameters():
                value.add_(0.1 * torch.randn_like(value))
    return made


@pytest.mark.parametrize("options", [{}, {"fine": 2, "offset": 40}, {"order": 0, "maps": 0}, {"order": 99}], ids=str)
def test_answers_turn_with_the_history_and_permute_with_antennas(generator: torch.Generator, options: dict[str, int]) -> None:
    made = network(**options)
    h = torch.randn(6, 10, 32, generator=generator, dtype=torch.complex128)

    def predict(h: torch.Tensor, group: int | None = 3) -> torch.Tensor:
        out = made(torch.view_as_real(h).flatten(-2), group)
        return torch.view_as_complex(out.unflatten(-1, (-1, 2)).contiguous())

    want = predict(h)
    assert want.shape == (6, 3, 32) and want.abs().mean() > 0.01
    turn = 3 * torch.polar(torch.ones(()).double(), torch.tensor(0.9).double())
    assert (predict(turn * h) - turn * want).abs().max() < 1e-10
    order = torch.tensor([2, 0, 1, 4, 5, 3])
    assert (predict(h[order]) - want[order]).abs().max() < 1e-11
    assert (predict(h[:3]) - want[:3]).abs().max() < 1e-11  # samples do not see each other
    assert (predict(h, None) - want).abs().max() > 1e-6  # antennas of a sample share their weights


def test_training_starts_above_hold_and_reaches_every_weight(generator: torch.Generator) -> None:
    predictor = CSI4CAST.preset("small", num_subcarriers=48, taps=24, duplex="fdd", offset=60, layers=1, width=16, hidden=16)
    times, bins = torch.arange(20).double(), torch.arange(48).double()
    shift = 0.4 * (2 * torch.rand(4, 1, 1, 3, 1, 1, generator=generator).double() - 1)
    delay = 8 * torch.rand(4, 1, 1, 3, 1, 1, generator=generator).double()
    gain = torch.randn(4, 8, 1, 3, 1, 1, generator=generator, dtype=torch.complex128)
    phase = 2 * math.pi * (shift * times[:, None] - delay / 48 * bins)
    h = (gain * torch.polar(torch.ones_like(phase), phase)).sum(3).to(torch.complex64)
    history, future = h[..., :16, :], h[..., 16:, :]
    same_band = CSI4CAST.preset("small", num_subcarriers=48, taps=24, maps=0, layers=1, width=16, hidden=16).eval()
    energy = future.abs().square().sum()
    hold = (history[..., -1:, :] - future).abs().square().sum() / energy
    fresh = (same_band(history).h_pred - future).abs().square().sum() / energy
    assert fresh < 0.2 < hold  # measured 0.02 and 1.5; no training at all
    (predictor(history).h_pred - future).abs().square().mean().backward()
    silent = [name for name, value in predictor.network.named_parameters() if value.grad is None]
    assert silent == []


CELL = "cm_D_ds_100_ms_010"


def one_cell(split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Histories and futures of a cell of the benchmark, every fifth subcarrier."""
    batches = wc.simulate.stream("csi-rrg", split=split, cell=CELL, batch_size=20)
    taken = list(itertools.islice(batches, count // 20))
    past, future = (torch.cat([batch[name][..., ::5] for batch in taken]) for name in ("h_u_hist", "h_u_pred"))
    return past, future


def noisy(history: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """20 dB of every sample's own power."""
    power = history.abs().square().mean((1, 2, 3, 4), keepdim=True)
    return history + (0.01 * power).sqrt() * torch.randn(history.shape, generator=generator, dtype=history.dtype)


def ratio(predicted: torch.Tensor, future: torch.Tensor) -> torch.Tensor:
    """The published NMSE: mean of ratios."""
    return ((predicted - future).abs().square().sum(-1) / future.abs().square().sum(-1)).mean()


@pytest.mark.slow
def test_a_minute_on_one_cell_beats_hold_and_wiener(generator: torch.Generator) -> None:
    past, future = one_cell("train", 60)
    seen, target = one_cell("regular", 20)
    seen = noisy(seen, generator)
    hold = ratio(Hold()(seen).h_pred, target)
    wiener = ratio(WienerPredictor().fit([(noisy(past, generator), future)])(seen).h_pred, target)
    predictor = CSI4CAST.preset("small", num_subcarriers=60, taps=24, maps=4)
    optimizer = torch.optim.Adam(predictor.network.parameters(), 3e-3)
    for _ in range(60):
        chosen = torch.randint(len(past), (8,), generator=generator)
        antennas = torch.randperm(32, generator=generator)[:8]
        loss = ratio(predictor(noisy(past[chosen][:, antennas], generator)).h_pred, future[chosen][:, antennas])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        learned = ratio(predictor.eval()(seen).h_pred, target)
    # The published nets of 22 M parameters reach 0.02 on this profile at this SNR.
    assert learned < 0.5 * wiener < hold, (learned, wiener, hold)
