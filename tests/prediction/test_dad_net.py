"""DADNet: symmetries, gaps, sizes, files, bad input, and that it learns."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

import wichan as wc
from wichan.errors import WichanError
from wichan.prediction import DADNet, Hold
from wichan.random import complex_normal

SMALL = {
    "panel": (2, 2, 2),
    "num_subcarriers": 40,
    "num_cells": 16,
    "num_dopplers": 32,
    "width": 4,
    "stages": 2,
}


@pytest.fixture
def net() -> DADNet:
    """A small one whose spectra are not those it begins with."""
    made = DADNet(**SMALL).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in made.network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return made


@pytest.fixture
def history(generator: torch.Generator) -> torch.Tensor:
    """Six samples of a few paths in noise, (6, 8, 1, 16, 40)."""
    return paths(6, 20, generator)[:, :, :, :16] + 0.1 * complex_normal((6, 8, 1, 16, 40), generator=generator)


def paths(samples: int, snapshots: int, generator: torch.Generator, *, doppler: float = 0.3) -> torch.Tensor:
    """Channels of three paths, each with an angle pair, a delay and a Doppler shift of its own; unit mean power."""
    u, v, w, t = torch.rand(4, samples, 3, generator=generator, dtype=torch.float64).unbind(0)
    gain = complex_normal((2, samples, 3), generator=generator, dtype=torch.complex128)

    def line(rate: torch.Tensor, count: int) -> torch.Tensor:
        return torch.polar(torch.ones((), dtype=torch.float64), 2 * math.pi * rate[..., None] * torch.arange(count))

    parts = (line(u, 2), line(v, 2), line((2 * w - 1) * doppler, snapshots), line(-0.1 * t, 40))
    h = torch.einsum("qbp,bpc,bpr,bpt,bpf->bqcrtf", gain, *parts).flatten(1, 3) / math.sqrt(3)
    return h.unsqueeze(2).to(torch.complex64)


def predicted(net: DADNet, history: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net(history, **given).h_pred


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).detach().norm() / other.detach().norm())


# The transforms and the network run in single precision, a few hundred roundings of 6e-8 each; measured 7e-7 or less.
CLOSE = 1e-5


@pytest.mark.parametrize("factor", [1e-12, 3.0 + 0j, 1e12j], ids=["tiny", "real", "large-turned"])
def test_prediction_follows_scale_and_phase(net: DADNet, history: torch.Tensor, factor: complex) -> None:
    """A complex factor on the history is one on the prediction."""
    assert distance(predicted(net, history * factor), predicted(net, history) * factor) < CLOSE


def test_prediction_follows_a_doppler_shift(net: DADNet, history: torch.Tensor) -> None:
    """A shift by one line of the grid turns snapshot t by g t / G, in the history and in the prediction."""
    angle = 2 * math.pi * 5 / 32 * torch.arange(20, dtype=torch.float64)[:, None]
    turn = torch.polar(torch.ones_like(angle), angle).to(history.dtype)
    assert distance(predicted(net, history * turn[:16]), predicted(net, history) * turn[16:]) < CLOSE


def test_a_sample_does_not_see_its_batch(net: DADNet, history: torch.Tensor) -> None:
    """One at a time gives the same as all together; leading axes are free."""
    whole = net(history)
    for index in (0, 5):
        alone = net(history[index])
        assert alone.h_pred.shape == (8, 1, 4, 40)
        assert distance(alone.h_pred, whole.h_pred[index]) < CLOSE
        torch.testing.assert_close(alone.err_var, whole.err_var[index], rtol=CLOSE, atol=0)
    folded = net(history.reshape(2, 3, *history.shape[1:]))
    assert distance(folded.h_pred.flatten(0, 1), whole.h_pred) < CLOSE


def test_transform_keeps_channels_of_the_window(net: DADNet, generator: torch.Generator) -> None:
    """Beams and delays and back: exact on what the basis spans, and channels within the window lose nearly nothing."""
    transform = net.network.transform
    inside = complex_normal((2, 2, 2, 2, 4, transform.num_delays), generator=generator, dtype=torch.complex128)
    # An isometry in double precision.
    torch.testing.assert_close(transform.analyse(transform.synthesise(inside)), inside, rtol=0, atol=1e-12)
    h = paths(4, 4, generator).to(torch.complex128)
    # Delays up to 0.1, a window that ends at 0.15, 40 subcarriers: about 2e-4 of the energy falls outside (measured 1.8e-4).
    assert distance(transform.synthesise(transform.analyse(h)), h) < 2e-2


def test_every_cell_can_be_predicted(generator: torch.Generator) -> None:
    """Asked for more cells than there are, it takes all; a still, clean channel is then repeated to the noise floor."""
    net = DADNet(**SMALL | {"num_cells": 10**6})
    still = paths(3, 1, generator).expand(-1, -1, -1, 16, -1)
    error = distance(predicted(net.eval(), still), still[:, :, :, :4])
    # Untrained: a line is blurred over its neighbours, which shrinks what lies further ahead. Measured 0.016.
    assert error < 0.04


def test_lost_snapshots_are_left_out(net: DADNet, history: torch.Tensor) -> None:
    """What a lost snapshot holds does not matter, and zeros count as lost."""
    present = torch.ones(6, 16, dtype=torch.bool)
    present[:, [0, 7, 15]] = False
    spoilt = torch.where(present[:, None, None, :, None], history, 1e3)
    zeroed = torch.where(present[:, None, None, :, None], history, 0)
    reference = predicted(net, spoilt, present=present)
    assert torch.equal(predicted(net, zeroed), reference)
    assert torch.equal(predicted(net, history, present=torch.ones(6, 16, dtype=torch.bool)), predicted(net, history))
    assert distance(reference, predicted(net, history)) > 1e-3
    alone = torch.zeros(6, 16, dtype=torch.bool)
    alone[:, 4] = True
    assert predicted(net, history, present=alone).isfinite().all()


def test_a_burst_hurts_less_than_unseen(generator: torch.Generator) -> None:
    """Noise is measured snapshot by snapshot: a burst on the last ones costs little; Hold, which repeats them, loses much."""
    net = DADNet(**SMALL).eval()
    truth = paths(32, 20, generator, doppler=0.02)
    h, future = truth[:, :, :, :16], truth[:, :, :, 16:]
    h = h + 0.05 * complex_normal(h.shape, generator=generator)
    hit = h.clone()
    hit[:, :, :, 13:] += 2 * complex_normal(hit[:, :, :, 13:].shape, generator=generator)
    clean, burst = (float((predicted(net, x) - future).abs().square().mean()) for x in (h, hit))
    held = float((Hold()(hit).h_pred - future).abs().square().mean())
    # Hold is off by the noise's 4. Without the last three snapshots seven steps are extrapolated: measured 0.023 and 0.12.
    assert held > 3.5
    assert clean < burst < 0.2 * held


def test_sizes() -> None:
    """The released preset: weights by hand, FLOP within the budget and near the dense part that torch counts."""
    from torch.utils.flop_counter import FlopCounterMode

    net = DADNet.preset("small").eval()
    # Of a stage: 6 features to 12 channels to 1, kernels of 3 x 5, two biases, gain and blur.
    assert sum(p.numel() for p in net.network.parameters()) == 3 * (6 * 12 * 15 + 12 + 12 * 15 + 1 + 2)
    assert net.flops() < 0.55e9
    with FlopCounterMode(display=False) as counter:
        predicted(net, torch.ones(1, 32, 1, 16, 300, dtype=torch.complex64))
    # torch counts complex products as if they were real, and neither Fourier transforms nor the factorisations.
    assert 0.1 < counter.get_total_flops() / net.flops() < 1


def test_gradient_reaches_every_weight(history: torch.Tensor, generator: torch.Generator) -> None:
    """From the prediction to the convolutions of all stages, finite."""
    net = DADNet(**SMALL).train()
    with torch.no_grad():
        for weight in net.network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        net(history).h_pred.abs().square().mean().backward()
    for name, weight in net.network.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.abs().max() > 0, name


def test_double_precision(net: DADNet, generator: torch.Generator) -> None:
    """Double precision goes through, and agrees with single."""
    h = paths(2, 16, generator) + 0.1 * complex_normal((2, 8, 1, 16, 40), generator=generator)
    wide = DADNet.from_config(net.config()).double().eval()
    wide.load_state_dict(net.double().state_dict())
    answer = wide(h.to(torch.complex128))
    assert answer.h_pred.dtype == torch.complex128 and answer.err_var.dtype == torch.float64
    assert distance(predicted(net.float(), h), answer.h_pred.to(torch.complex64)) < CLOSE


def test_config_and_weights_rebuild_it(net: DADNet, history: torch.Tensor) -> None:
    """What a weights file holds is all that there is."""
    again = DADNet.from_config(net.config()).eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(predicted(again, history), predicted(net, history))
    assert again.config() == net.config()
    assert DADNet.preset("tiny", stages=3).config() == DADNet.preset("tiny").config() | {"stages": 3}


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: DADNet(duplex="fdd"), "duplex='fdd'"),
        (lambda: DADNet(panel=(4, 4)), "panel"),
        (lambda: DADNet(panel=(4, 0, 2)), r"panel\[1\]"),
        (lambda: DADNet(max_delay=0.0), "max_delay"),
        (lambda: DADNet(max_delay=1.5), "max_delay"),
        (lambda: DADNet(num_cells=0), "num_cells"),
        (lambda: DADNet(num_dopplers=19), "num_dopplers=19 .* 20"),
        (lambda: DADNet(stages=0), "stages"),
        (lambda: DADNet(slot_loss=2), "slot_loss"),
        (lambda: DADNet.preset("large"), "large"),
        (lambda: DADNet.from_config({"hidden": 3}), "hidden"),
    ],
    ids=[
        "fdd",
        "panel-length",
        "panel-zero",
        "no-delay",
        "delay-beyond",
        "no-cells",
        "few-lines",
        "no-stage",
        "loss",
        "preset",
        "setting",
    ],
)
def test_bad_settings(build: Callable[[], DADNet], says: str) -> None:
    with pytest.raises(WichanError, match=says):
        build()


def test_bad_histories(net: DADNet, history: torch.Tensor) -> None:
    """Another array, length or grid, NaN, silence, nothing present: one line each."""
    cases = {
        "8": history[:, :4],
        "16": history[:, :, :, 1:],
        "40": history[..., 1:],
        "NaN|finite": history * float("nan"),
        "power": history * 0,
    }
    for says, bad in cases.items():
        with pytest.raises(WichanError, match=says) as caught:
            net(bad)
        assert "\n" not in str(caught.value)
    with pytest.raises(WichanError, match="present"):
        net(history, present=torch.zeros(6, 16, dtype=torch.bool))


@pytest.mark.slow
def test_learns_one_cell() -> None:
    """CDL-D, 30 ns, 10 m/s at 20 dB: 25 steps of four samples on a single stage, scored on twelve fresh ones."""
    cell, generator = "cm_D_ds_030_ms_010", torch.Generator().manual_seed(2)
    net = DADNet.preset("tiny", stages=1, num_cells=12, slot_loss=0.0)

    def ratio(h: torch.Tensor, future: torch.Tensor) -> torch.Tensor:
        noisy = h + 0.1 * complex_normal(h.shape, generator=generator)
        return ((net(noisy).h_pred - future).abs().square().sum(-1) / future.abs().square().sum(-1)).mean()

    def score() -> float:
        batch = next(iter(wc.simulate.stream("csi-rrg", split="regular", cell=cell, batch_size=20)))
        with torch.no_grad():
            return float(ratio(batch.h_u_hist[:12], batch.h_u_pred[:12]))

    before = score()
    optimiser = torch.optim.Adam(net.network.parameters(), lr=2e-2)
    for step, batch in enumerate(wc.simulate.stream("csi-rrg", split="train", cell=cell, batch_size=4)):
        if step == 25:
            break
        optimiser.zero_grad()
        ratio(batch.h_u_hist, batch.h_u_pred).backward()
        optimiser.step()
    # Measured: 0.21 before, 0.14 after; repeating the last snapshot gives 1.2.
    assert score() < 0.8 * before < 0.4
