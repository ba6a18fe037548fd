"""A learned estimator where one of Sionna's stood."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import wichan as wc
from wichan.errors import InvalidTypeError, InvalidValueError
from wichan.estimators import LS, AdaFortiTran, Estimate, Estimator, FortiTran, LearnedEstimator, Linear
from wichan.integrations.sionna import as_channel_estimator, observation_of, resource_grid_of
from wichan.observations import OFDMPilots
from wichan.random import complex_normal
from wichan.training import save_weights

pytestmark = pytest.mark.sionna

NETWORK = {"width": 8, "layers": 1, "heads": 2}
SINGLE = {"rtol": 1e-4, "atol": 2e-5}  # the same sums in another order, single precision
KINDS = {"linear": lambda obs: Linear(obs), "fortitran": lambda obs: FortiTran(obs, **NETWORK)}


def sionna_grid(**options: Any) -> Any:
    from sionna.phy.ofdm import ResourceGrid

    return ResourceGrid(14, 24, 15e3, pilot_pattern="kronecker", pilot_ofdm_symbol_indices=[2, 11], **options)


def received(generator: torch.Generator, dtype: torch.dtype = torch.complex64) -> torch.Tensor:
    return complex_normal((3, 2, 4, 14, 24), generator=generator, dtype=dtype)


class Guessing(Estimator):
    """Stands for the wrapper that estimates conditions: it tells a network the same for every frame."""

    told = ()

    def __init__(self, estimator: LearnedEstimator, obs: OFDMPilots) -> None:
        super().__init__()
        self.estimator, self.obs = estimator, obs

    def forward(self, y: torch.Tensor, no: Any, **conditions: Any) -> Estimate:
        return self.estimator(y, no, delay_spread=1e-7, max_doppler=200.0)


@pytest.mark.parametrize("kind", ["linear", "fortitran", "adafortitran"])
@pytest.mark.parametrize("shape", [(), (3,), (3, 2), (3, 2, 4), (3, 1, 4)])
def test_antennas_and_noise_are_a_batch(generator: torch.Generator, kind: str, shape: tuple[int, ...]) -> None:
    """Every receive antenna gets what the estimator gives for it alone, with its own noise variance."""
    rg = sionna_grid()
    pilots = observation_of(rg)
    est = Guessing(AdaFortiTran(pilots, **NETWORK), pilots) if kind == "adafortitran" else KINDS[kind](pilots)
    est.eval()
    y, no = received(generator), torch.rand(shape, generator=generator) + 0.1
    h_hat, err_var = as_channel_estimator(est, rg)(y, no)
    assert h_hat.shape == err_var.shape == (3, 2, 4, 1, 1, 14, 24)
    full = no.reshape(shape + (1,) * (3 - len(shape))).expand(3, 2, 4).flatten()
    want = est(y.flatten(0, 2)[:, None], full)
    torch.testing.assert_close(h_hat.flatten(0, 2)[:, 0], want.h_hat[:, 0], **SINGLE)
    torch.testing.assert_close(err_var.flatten(0, 2)[:, 0], want.err_var[:, 0], **SINGLE)
    assert not torch.allclose(h_hat[:, :, 0], h_hat[:, :, 1])


def test_weights_of_a_file_in_a_link(tmp_path: Path, generator: torch.Generator) -> None:
    """Trained on wichan's grid, used on Sionna's, whose cyclic prefix counts whole samples and whose pilots differ."""
    grid = wc.OFDMGrid(14, 24, 15e3)
    mine = OFDMPilots(grid, (2, 11), 3)
    path = save_weights(FortiTran(mine, **NETWORK), tmp_path / "best.safetensors")
    rg = resource_grid_of(OFDMPilots(grid, (2, 11), 3, values=-1j))
    theirs = observation_of(rg)
    assert 0 < abs(theirs.grid.symbol_duration - grid.symbol_duration) <= 0.5 / (24 * 15e3)
    adapter = as_channel_estimator(lambda pilots: wc.load(path, obs=pilots), rg)
    y = received(generator)
    h_hat, _ = adapter(y, 0.1)
    ratio = torch.where(theirs.mask, theirs.pilots[0], torch.ones(())) / torch.where(
        theirs.mask, mine.pilots[0], torch.ones(())
    )
    want, _ = wc.load(path)(y / ratio, 0.1)  # what the pilots that it was trained with would have brought
    torch.testing.assert_close(h_hat.flatten(3, 4), want, **SINGLE)


def test_a_trained_matrix_receives_a_pusch_like_link(generator: torch.Generator) -> None:
    """The learned linear estimator with the weights of least squares is Sionna's own estimator, end to end."""
    from sionna.phy.ofdm import LSChannelEstimator

    rg = resource_grid_of(OFDMPilots(wc.OFDMGrid(14, 24, 15e3), (2, 11), 3))
    obs = observation_of(rg)
    est = Linear(obs, scale_input=False)
    unit = torch.zeros(obs.num_pilots, obs.grid.num_resource_elements, dtype=torch.complex64)
    unit[torch.arange(obs.num_pilots), est.pilot_order] = obs.pilots.flatten()[est.pilot_order]
    h_hat, _ = LS(obs)(unit.unflatten(-1, obs.grid.shape)[:, None], 0.0)
    with torch.no_grad():
        est.network.weight.copy_(h_hat[:, 0, 0].real.mT.flatten(-2).T)
        est.network.bias.zero_()
    y = received(generator)
    have, _ = as_channel_estimator(est, rg)(y, 0.1)
    want, _ = LSChannelEstimator(rg, interpolation_type="lin")(y, 0.1)
    torch.testing.assert_close(have, want, **SINGLE)


def test_precision_and_gradient(generator: torch.Generator) -> None:
    rg = sionna_grid()
    est = FortiTran(observation_of(rg), **NETWORK).eval()
    with pytest.raises(InvalidTypeError, match=r"y has dtype torch.complex128, the weights torch.float32"):
        as_channel_estimator(est, rg)(received(generator, torch.complex128), 0.1)
    y = received(generator)
    h_hat, err_var = as_channel_estimator(est, rg, precision="single")(y.to(torch.complex128), 0.1)
    assert (h_hat.dtype, err_var.dtype) == (torch.complex64, torch.float32)
    h_hat.abs().square().mean().backward()  # a receiver may be trained through the link
    assert bool((est.network.upsampler.weight.grad != 0).any())


def test_nobody_tells_the_conditions() -> None:
    rg = sionna_grid()
    with pytest.raises(InvalidValueError, match=r"must be told delay_spread, max_doppler, .*WithEstimatedConditions") as caught:
        as_channel_estimator(lambda pilots: AdaFortiTran(pilots, **NETWORK), rg)
    assert "\n" not in str(caught.value)


def test_a_network_for_other_positions() -> None:
    rg = sionna_grid()
    other = OFDMPilots(observation_of(rg).grid, (2, 11), 2)
    with pytest.raises(InvalidValueError, match="pilots at other elements"):
        as_channel_estimator(FortiTran(other, **NETWORK), rg)
