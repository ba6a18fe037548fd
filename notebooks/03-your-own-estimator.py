# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own estimator
#
# Write one in ten lines, let wichan check it, see it in the table beside LS and LMMSE, and put it into a coded Sionna link.
# The last part needs Sionna (extra `sionna`); all others do not.
#
# ## 1. Ten lines
#
# An estimator is an `Estimator`: it takes the received grid `y` and the noise variance `no`, and returns the channel and the
# error variance that it expects. This one knows two things about a channel. Its impulse response is short, and each tap is a
# smooth curve over the slot. So it fits the pilots by taps, two for each delay that the band can tell apart, times a few
# cosines. That is ridge regression, and the ridge is the noise.

# %%
import torch

import wichan as wc


class TapFit(wc.estimators.Estimator):
    """Fit the pilots by a few taps of the impulse response, each of them a smooth curve over time."""

    basis = wc.nn.ComplexBuffer()

    def __init__(self, pilots, max_delay=3e-6, num_curves=4):
        super().__init__()
        self.ls, self.pilots, grid = wc.estimators.LS(pilots), pilots, pilots.grid
        delays = torch.arange(0, max_delay, 0.5 / grid.bandwidth, dtype=torch.float64)
        ramps = torch.exp(-2j * torch.pi * grid.frequencies[:, None] * delays)
        curves = torch.cos(torch.pi * grid.times[:, None] / grid.times[-1] * torch.arange(num_curves))
        self.basis = torch.kron(curves.to(ramps), ramps) / (num_curves * len(delays)) ** 0.5

    def forward(self, y, no, **conditions):
        h_ls, err_ls = (part.flatten(-2)[..., self.pilots.pilot_index] for part in self.ls(y, no))
        seen = self.basis[self.pilots.pilot_index]
        noise = err_ls.mean(-1).clamp(min=1e-5)[..., None, None]  # without noise, taps this close are one
        inverse = torch.linalg.inv(seen.mH @ seen + noise * torch.eye(seen.shape[1]))
        h_hat = self.basis @ (inverse @ (seen.mH @ h_ls.to(seen)[..., None]))
        err_var = noise[..., 0] * ((self.basis @ inverse) * self.basis.conj()).sum(-1).real
        shape = (*h_ls.shape[:-1], *y.shape[-2:])
        return wc.estimators.Estimate(h_hat.reshape(shape).to(y.dtype), err_var.reshape(shape).to(y.real.dtype))


# %% [markdown]
# ## 2. Does it keep the contract?
#
# `check_estimator` tries shapes, precisions, batches, noise at every level, gradients, saving, bad input. It raises with one
# line for each thing that is wrong; forget `ComplexBuffer` above, say, and it finds a tensor that would not move to a GPU.

# %%
link = wc.simulate.build_link(wc.simulate.load_recipe("ofdm-siso"))
mine = TapFit(link.observation)
print(wc.testing.check_estimator(mine, link.observation, generator=torch.Generator().manual_seed(1)))

# %% [markdown]
# ## 3. In the table
#
# All estimators see the same channels and the same noise. `lmmse-pooled` knows how delay spread and Doppler are distributed,
# and `lmmse-genie` what they are in each frame; yours knows only that nothing comes later than 3 µs.

# %%
estimators = {"ls": "ls", "tap-fit": mine, "lmmse-pooled": "lmmse-pooled"}
result = wc.evaluation.evaluate("ofdm-siso", estimators, points=[0, 5, 10, 15, 20, 25], num_channels=200)
print(result)
result

# %% [markdown]
# Much better than interpolated least squares, and it levels off at high SNR: the recipe's Doppler reaches 1.9 kHz, and what
# moves faster than four curves is left. Does `err_var` say so? It cannot. It is the error under the stated model, and that
# model has no fast motion. Calibration by decile shows where the promise holds and where it breaks:

# %%
frames = next(wc.simulate.stream("ofdm-siso", batch_size=200, num_batches=1, split="test"))
for name, low, high in (("below 300 Hz", 0, 300), ("above 1500 Hz", 1500, 1900)):
    some = (frames.max_doppler >= low) & (frames.max_doppler < high)
    h_hat, err_var = mine(frames.y[some], frames.no[some])
    ratio = wc.evaluation.calibration(h_hat, err_var, frames.h[some]).normalized_error
    print(f"{name}: error made / error claimed, by decile of the claim:", *(f"{float(r):.1f}" for r in ratio))

# %% [markdown]
# ## 4. In a Sionna link
#
# One transmitter, two receive antennas, 16-QAM, an LDPC code of rate 1/2. `as_channel_estimator` puts a wichan estimator
# where one of Sionna's stood; wichan's TDL feeds Sionna's channel. All receivers decode the same frames.

# %%
import numpy as np
from sionna.phy.channel import ApplyOFDMChannel
from sionna.phy.fec.ldpc import LDPC5GDecoder, LDPC5GEncoder
from sionna.phy.mapping import BinarySource, Demapper, Mapper
from sionna.phy.mimo import StreamManagement
from sionna.phy.ofdm import LMMSEEqualizer, LSChannelEstimator, ResourceGridMapper

from wichan.integrations.sionna import as_channel_estimator, isolated_rng, resource_grid_of

grid = wc.OFDMGrid(num_ofdm_symbols=14, num_subcarriers=48, subcarrier_spacing=30e3)
pilots = wc.observations.OFDMPilots(grid, symbols=(2, 11), subcarrier_step=4)
resource_grid = resource_grid_of(pilots)
model = wc.channels.TDL("C", delay_spread=200e-9, max_doppler=200.0, num_rx_ant=2)

receivers = {
    "Sionna LS": LSChannelEstimator(resource_grid, interpolation_type="lin"),
    "tap-fit": as_channel_estimator(TapFit(pilots, max_delay=2e-6, num_curves=2), resource_grid),
    "wichan LMMSE": as_channel_estimator(wc.estimators.LMMSE(pilots, model.covariance(grid)), resource_grid),
}

n = 4 * int(resource_grid.num_data_symbols)
encoder = LDPC5GEncoder(n // 2, n, num_bits_per_symbol=4)
decoder = LDPC5GDecoder(encoder, num_iter=8)
source, mapper, demapper = BinarySource(), Mapper("qam", 4), Demapper("app", "qam", 4)
to_grid, channel = ResourceGridMapper(resource_grid), ApplyOFDMChannel()
equalizer = LMMSEEqualizer(resource_grid, StreamManagement(np.ones([1, 1]), 1))


def count_errors(snr_db, num_frames):
    """Bit and block error rate of every receiver over the same frames."""
    no = torch.tensor(10 ** (-snr_db / 10))
    with torch.no_grad(), isolated_rng(seed=int(10 * snr_db)):
        h = model.frequency_response(grid, num_frames, generator=torch.Generator().manual_seed(8))[:, None, :, None]
        bits = source([num_frames, 1, 1, n // 2])
        y = channel(to_grid(mapper(encoder(bits))), h, no)
        found = {}
        for name, receiver in receivers.items():
            wrong = decoder(demapper(*equalizer(y, *receiver(y, no), no))) != bits
            found[name] = (float(wrong.double().mean()), float(wrong.any(-1).double().mean()))
    return found


# %%
snr_db = [4.0, 8.0, 12.0]
rates = [count_errors(snr, num_frames=128) for snr in snr_db]
print(f"{'':14s}" + "".join(f"{snr:>20g} dB" for snr in snr_db))
for name in receivers:
    print(f"{name:14s}" + "".join(f"   BER {ber:.4f} BLER {bler:.2f}" for ber, bler in (point[name] for point in rates)))

# %%
import matplotlib.pyplot as plt

from wichan.evaluation.figure import MARKERS, PALETTE

fig, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
for index, name in enumerate(receivers):
    bler = [max(point[name][1], 1 / 256) for point in rates]  # no error among 128 frames: drawn at half of one
    axis.semilogy(snr_db, bler, label=name, color=PALETTE[index], marker=MARKERS[index])
axis.set(xlabel="SNR [dB]", ylabel="block error rate", title="LDPC, 16-QAM, TDL-C, 1 x 2 antennas, 128 frames a point")
axis.grid(which="both", alpha=0.3)
axis.legend()
plt.show()

# %% [markdown]
# 128 frames show the order and no more; `sims/link_level.py` counts hundreds of block errors at every point, with intervals.
