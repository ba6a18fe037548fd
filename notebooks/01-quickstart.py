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
# # Quickstart: five lines to a figure
#
# Estimate 3GPP channels with LS and LMMSE over the SNR, all estimators on the same channels and the same noise, and draw
# the error with its confidence band.

# %%
import wichan as wc

snr_db = [0, 5, 10, 15, 20, 25]
estimators = ["ls", "lmmse-pooled", "lmmse-genie"]
result = wc.evaluation.evaluate("ofdm-siso", estimators, sweep="snr_db", points=snr_db, num_channels=300)
result

# %% [markdown]
# `lmmse-genie` is told the delay spread and the Doppler of every channel, so no estimator can do better on these Rayleigh
# channels. `lmmse-pooled` knows only how both are distributed. `ls` knows nothing: it interpolates the pilots.

# %%
print(result)

# %% [markdown]
# # A tour
#
# ## 1. A channel model draws rays, one kernel turns rays into channels
#
# A tapped delay line (TR 38.901 TDL-A): 100 ns of RMS delay spread, 300 Hz of Doppler. Randomness is an argument; the same
# generator state gives the same channels.

# %%
import torch

generator = torch.Generator().manual_seed(7)
grid = wc.OFDMGrid(num_ofdm_symbols=14, num_subcarriers=120, subcarrier_spacing=15e3)
model = wc.channels.TDL("A", delay_spread=100e-9, max_doppler=300.0)
h = model.frequency_response(grid, batch_size=256, generator=generator)
h.shape  # (batch, receive antennas, transmit antennas, OFDM symbols, subcarriers)

# %% [markdown]
# The covariance has a closed form. Its rank says how little there is to learn in a slot of 1680 resource elements:

# %%
covariance = model.covariance(grid)
covariance.factor().shape

# %%
import matplotlib.pyplot as plt
from scipy.special import j0

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
image = left.imshow(h[0, 0, 0].abs(), aspect="auto", origin="lower")
left.set(xlabel="subcarrier", ylabel="OFDM symbol", title="|h| of one channel")
fig.colorbar(image, ax=left)
lag = grid.times * 1e3
measured = (h[..., 0, 0].conj()[..., None] * h[..., 0]).mean(dim=(0, 1, 2)).real
right.plot(lag, j0((2 * torch.pi * 300.0 * grid.times).numpy()), label="theory: $J_0$")
right.plot(lag, measured, "o", label="mean of 256 channels")
right.set(xlabel="time lag [ms]", ylabel="correlation", title="Fading over the slot")
right.legend()
plt.show()

# %% [markdown]
# ## 2. An observation says what the receiver sees
#
# Pilots in OFDM symbols 2 and 11 on every third subcarrier. `no` is the noise variance of a complex sample; the SNR of this
# observation is the pilots' power over `no` (docs/snr.md lists every convention).

# %%
pilots = wc.observations.OFDMPilots(grid, symbols=(2, 11), subcarrier_step=3)
y = pilots.observe(h, no=0.01, generator=generator)
y.shape, pilots.num_pilots

# %% [markdown]
# ## 3. An estimator gives the channel back, with its uncertainty
#
# `err_var` is the expected squared error of every resource element. It should equal the error that is really made.

# %%
lmmse = wc.estimators.LMMSE(pilots, covariance=covariance)
h_hat, err_var = lmmse(y, no=0.01)
print(f"NMSE {float(wc.evaluation.nmse_db(h_hat, h)):.2f} dB")

fig, axis = plt.subplots(figsize=(6, 3), layout="constrained")
axis.plot((h_hat - h).abs().square().mean(dim=(0, 1, 2, 4)), "o", label="error made")
axis.plot(err_var[0, 0, 0].mean(-1), label="err_var")
axis.set(xlabel="OFDM symbol", ylabel="squared error", ylim=(0, None), title="LMMSE knows its error")
axis.legend()
plt.show()

# %% [markdown]
# ## 4. Antennas, clusters, motion
#
# A clustered delay line (CDL-C) seen by a cross-polarised 2 x 2 panel with the 3GPP element pattern. A CDL ties angles to
# delays, so its covariance is a sum of Kronecker products, one a cluster. Treating it as one product costs accuracy, and
# wichan says how much: `err_var` is the true error of the approximation.

# %%
panel = wc.channels.Panel(2, 2, polarization="cross", pattern="38.901")
cdl = wc.channels.CDL("C", delay_spread=300e-9, carrier_frequency=3.5e9, speed=10.0, rx_array=panel)
small = wc.OFDMGrid(num_ofdm_symbols=14, num_subcarriers=48, subcarrier_spacing=30e3)
comb = wc.observations.OFDMPilots(small, symbols=(2, 11), subcarrier_step=4)
h = cdl.frequency_response(small, 100, generator=generator)
y = comb.observe(h, no=0.01, generator=generator)
for structure in ("joint", "kronecker", "separable"):
    estimate = wc.estimators.LMMSE(comb, cdl.covariance(small), structure=structure)(y, 0.01)
    made = float((estimate.h_hat - h).abs().square().mean())
    print(f"{structure:10s} error {made:.5f}, reported {float(estimate.err_var.mean()):.5f}")

# %% [markdown]
# ## 5. Data: a stream, or files that can be checked
#
# A recipe feeds training directly; sample by sample it is what `wichan simulate` writes to disk for the same seed.

# %%
for batch in wc.simulate.stream("ofdm-siso", batch_size=256, num_batches=2):
    mean_snr = float(batch.snr_db.mean())
    print(tuple(batch.h.shape), tuple(batch.y.shape), f"mean SNR {mean_snr:.1f} dB, conditions {list(batch.conditions)}")

# %%
import tempfile

folder = tempfile.mkdtemp()
wc.simulate.run("ofdm-siso", folder + "/out", n=64, on_warning=print)
data = wc.store.open(folder + "/out", split="test")
len(data), {name: tuple(value.shape) for name, value in data[0].items()}

# %% [markdown]
# The folder holds a manifest with the resolved recipe, the seed, and a SHA-256 for every file.

# %%
wc.store.verify(folder + "/out").ok
