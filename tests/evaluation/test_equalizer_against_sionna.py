"""The equaliser, its SINR and the constellation beside Sionna's, on the same grid, pilots, estimates and noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wichan.evaluation import QAM, lmmse_equalize, post_equalization_sinr
from wichan.random import complex_normal

try:
    from sionna.phy import mapping, mimo, ofdm
except ModuleNotFoundError:  # then these tests are deselected, and counted
    mapping = mimo = ofdm = None

pytestmark = pytest.mark.sionna

SYMBOLS, SUBCARRIERS, FRAMES = 4, 12, 3


def link(rx: int, tx: int):
    grid = ofdm.ResourceGrid(
        num_ofdm_symbols=SYMBOLS,
        fft_size=SUBCARRIERS,
        subcarrier_spacing=15e3,
        num_streams_per_tx=tx,
        pilot_pattern="kronecker",
        pilot_ofdm_symbol_indices=[1],
    )
    return grid, mimo.StreamManagement(np.ones([1, 1]), tx)


@pytest.mark.parametrize(("rx", "tx"), [(1, 1), (4, 1), (4, 3), (2, 4)])
def test_same_symbols_decisions_and_noise(rx: int, tx: int, generator: torch.Generator) -> None:
    grid, streams = link(rx, tx)
    qam = QAM("16qam")
    bits = qam.random_bits((FRAMES, tx, SYMBOLS, SUBCARRIERS), generator=generator)
    h = complex_normal((FRAMES, rx, tx, SYMBOLS, SUBCARRIERS), generator=generator)
    h_hat = h + complex_normal(h.shape, 0.02, generator=generator)
    err_var = 0.04 * torch.rand(h.shape, generator=generator)
    x = mapping.Mapper("qam", 4)(bits.float().flatten(-2)).reshape(FRAMES, tx, SYMBOLS, SUBCARRIERS)
    assert torch.equal(x, qam.map(bits)) or float((x - qam.map(bits)).abs().max()) < 1e-6  # the same labels
    y = (h * x[:, None]).sum(dim=2) + complex_normal((FRAMES, rx, SYMBOLS, SUBCARRIERS), 0.1, generator=generator)
    mine = lmmse_equalize(y, h_hat, err_var, 0.1)
    x_hat, no_eff = ofdm.LMMSEEqualizer(grid, streams)(
        y[:, None], h_hat[:, None, :, None], err_var[:, None, :, None], torch.tensor(0.1)
    )
    data = ~grid.pilot_pattern.mask[0, 0].bool()
    ours = [part[..., data] for part in mine]
    # Both in single precision at the end; Sionna whitens and factorises in it too, four streams on two antennas amplify that.
    torch.testing.assert_close(ours[0], x_hat[:, 0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours[1], no_eff[:, 0], rtol=1e-3, atol=1e-4)
    decided = mapping.Demapper("maxlog", "qam", 4, hard_out=True)(x_hat, no_eff)[:, 0].reshape(*ours[0].shape, 4)
    amplitude = torch.view_as_real(ours[0]) * 10**0.5
    sure = ((amplitude[..., None] - torch.tensor([-2.0, 0.0, 2.0])).abs().amin(dim=(-2, -1))) > 0.02
    assert float(sure.float().mean()) > 0.9  # all but symbols within rounding of a border
    assert torch.equal(qam.demap(ours[0])[sure], decided[sure].bool())


@pytest.mark.parametrize(("rx", "tx"), [(1, 1), (4, 3)])
def test_same_sinr_with_the_gain_known(rx: int, tx: int, generator: torch.Generator) -> None:
    """Sionna's sums for a filter made of h_hat; its own block puts h_hat in the place of the true channel there as well."""
    block = ofdm.LMMSEPostEqualizationSINR(*link(rx, tx))
    h = complex_normal((FRAMES, rx, tx, SYMBOLS, SUBCARRIERS), generator=generator)
    h_hat = h + complex_normal(h.shape, 0.02, generator=generator)
    true, others = block.get_per_rx_channels(h[:, None, :, None])
    estimated, _ = block.get_per_rx_channels(h_hat[:, None, :, None])
    no = torch.full(true.shape[:-1], 0.1)
    filters = mimo.lmmse_matrix(estimated, torch.diag_embed(no).to(h.dtype))
    theirs = block.compute_sinr(true, others, no, filters)[:, :, :, 0].movedim(-1, 1)
    mine = post_equalization_sinr(h, h_hat, None, 0.1, known_gain=True)
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)  # single precision
    exact = block(h[:, None, :, None], torch.tensor(0.1))[:, :, :, 0].movedim(-1, 1)
    torch.testing.assert_close(post_equalization_sinr(h, h, None, 0.1), exact, rtol=1e-3, atol=1e-3)
