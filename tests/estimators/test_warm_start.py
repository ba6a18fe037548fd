"""The closed-form first guess against NumPy's least squares, and what a network makes of it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from wichan.channels import TDL
from wichan.errors import InvalidValueError
from wichan.estimators import LEARNED, Linear
from wichan.estimators.learned import seeded
from wichan.estimators.warm_start import best_linear
from wichan.grid import OFDMGrid
from wichan.nn.convolution import ConvEnhancer
from wichan.observations import OFDMPilots
from wichan.training import make_loss

GRID = OFDMGrid(num_ofdm_symbols=4, num_subcarriers=12, subcarrier_spacing=30e3)
PILOTS = OFDMPilots(GRID, symbols=(1, 3), subcarrier_step=3)
SMALL = {"width": 8, "layers": 2, "heads": 2}
TOLD = {"delay_spread": 100e-9, "max_doppler": 400.0}


def frames(count: int, generator: torch.Generator, num_rx_ant: int = 1) -> SimpleNamespace:
    model = TDL("A", delay_spread=300e-9, max_doppler=500.0, num_rx_ant=num_rx_ant)
    h = model.frequency_response(GRID, count, generator=generator)
    return SimpleNamespace(h=h, y=PILOTS.observe(h, 0.05, generator=generator))


def stacked(batch: SimpleNamespace, scaled: bool) -> tuple[np.ndarray, np.ndarray]:
    """Real and imaginary parts of pilots and channels as rows of two matrices, float64, by plain loops."""
    rows_x, rows_h = [], []
    symbols = PILOTS.pilots[0].numpy().astype(complex)
    for y, h in zip(batch.y.flatten(0, 1).numpy().astype(complex), batch.h.flatten(0, 2).numpy().astype(complex), strict=True):
        x = np.array([y[t, k] / symbols[t, k] for k in range(0, 12, 3) for t in (1, 3)])
        level = np.sqrt(np.mean(np.abs(x) ** 2)) if scaled else 1.0
        for part in (np.real, np.imag):
            rows_x.append(part(x) / level)
            rows_h.append(part(h).T.ravel() / level)
    return np.array(rows_x), np.array(rows_h)


@pytest.mark.parametrize("scaled", [True, False])
def test_matrix_is_that_of_numpys_least_squares(scaled: bool, generator: torch.Generator) -> None:
    batch = frames(60, generator, num_rx_ant=2)
    est = Linear(PILOTS, scale_input=scaled)
    x, h = stacked(batch, scaled)
    ridge = 1e-6 * np.mean(np.sum(x**2, axis=0))
    plain = np.linalg.lstsq(x, h, rcond=None)[0].T
    loaded = np.linalg.lstsq(np.vstack([x, np.sqrt(ridge) * np.eye(8)]), np.vstack([h, np.zeros((8, 48))]), rcond=None)[0].T
    found = best_linear(est, [batch])
    assert found.dtype == torch.float64
    assert np.abs(found.numpy() - loaded).max() < 2e-6  # pilots and channels come in float32
    assert np.abs(found.numpy() - plain).max() < 1e-4  # the ridge is a millionth
    parts = [SimpleNamespace(h=batch.h[i : i + 25], y=batch.y[i : i + 25]) for i in (0, 25, 50)]
    assert torch.allclose(best_linear(est, iter(parts)), found, atol=1e-9)


def test_linear_estimator_takes_it_and_nothing_linear_does_better(generator: torch.Generator) -> None:
    batch = frames(200, generator)
    est = Linear(PILOTS, scale_input=False)
    assert est.warm_start([batch]) is True
    assert torch.equal(est.network.weight, best_linear(est, [batch]).float()) and not est.network.bias.any()
    best = make_loss("mse")(est(batch.y, 0.05), batch.h)
    best.backward()
    # At a minimum the gradient is rounding (and the ridge); a random matrix of unit rows has one of order 1.
    assert float(est.network.weight.grad.abs().max()) < 1e-6
    with torch.no_grad():
        est.network.weight.add_(0.01 * torch.randn(est.network.weight.shape, generator=generator))
        assert make_loss("mse")(est(batch.y, 0.05), batch.h) > best


def test_few_frames_and_none(generator: torch.Generator) -> None:
    est = Linear(PILOTS)
    assert bool(best_linear(est, [frames(1, generator)]).isfinite().all())  # two rows for eight unknowns: the ridge decides
    silent = SimpleNamespace(y=torch.zeros(2, 1, *GRID.shape, dtype=torch.complex64), h=torch.zeros(2, 1, 1, *GRID.shape) + 0j)
    assert bool(best_linear(est, [silent]).isfinite().all())
    with pytest.raises(InvalidValueError, match="^batches is empty; at least one is needed$"):
        est.warm_start([])
    assert LEARNED["cevit"](PILOTS, patch=(6, 4), width=8, heads=2).warm_start([frames(2, generator)]) is False


@pytest.mark.parametrize("kind", ["fortitran", "adafortitran"])
@pytest.mark.parametrize("scaled", [True, False])
def test_networks_begin_where_the_linear_estimator_ends(kind: str, scaled: bool, generator: torch.Generator) -> None:
    batch = frames(100, generator)
    linear, est = Linear(PILOTS, scale_input=scaled), LEARNED[kind](PILOTS, scale_input=scaled, **SMALL)
    fresh = est(batch.y, 0.05, **TOLD).h_hat
    assert est.warm_start([batch]) is True and linear.warm_start([batch]) is True
    want, got = linear(batch.y, 0.05).h_hat, est(batch.y, 0.05, **TOLD).h_hat
    # Every layer passes its input through; the convolutions add zeros, in another order of summation.
    assert float((got - want).detach().abs().max()) < 1e-5
    assert float((fresh - want).detach().abs().max()) > 0.1


@pytest.mark.parametrize("kind", ["fortitran", "adafortitran"])
def test_training_takes_every_layer_in(kind: str, generator: torch.Generator) -> None:
    batch = frames(32, generator)
    est = LEARNED[kind](PILOTS, **SMALL)
    est.warm_start([batch])
    before = {name: p.detach().clone() for name, p in est.network.named_parameters()}
    optimiser = torch.optim.Adam(est.network.parameters(), lr=1e-3)
    for _ in range(3):
        optimiser.zero_grad()
        make_loss("mse")(est(batch.y, 0.05, **TOLD), batch.h).backward()
        optimiser.step()
    # The correction starts at zero, so the first step moves the layer that ends it, and the next all those before.
    changed = {name for name, p in est.network.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(before)


def test_first_step_moves_the_end_of_the_correction(generator: torch.Generator) -> None:
    batch = frames(16, generator)
    est = LEARNED["fortitran"](PILOTS, **SMALL)
    est.warm_start([batch])
    make_loss("mse")(est(batch.y, 0.05), batch.h).backward()
    assert bool(est.network.projection.weight.grad.any())
    assert not est.network.embedding.weight.grad.any()


def test_convolutions_start_as_the_identity(generator: torch.Generator) -> None:
    with seeded(0):
        enhancer = ConvEnhancer()
    image = torch.randn(3, 7, 5, generator=generator)
    assert not torch.allclose(enhancer(image), image, atol=0.1)
    enhancer.start_as_identity()
    assert torch.allclose(enhancer(image), image, atol=1e-6)
