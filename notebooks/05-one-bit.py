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
# # One bit: coarse converters and learned priors
#
# A large array with a pair of one-bit converters behind every antenna keeps two signs of every received sample. How much of
# the channel is left, what a learned prior adds, and which numbers deserve suspicion. The setting is that of Fesl, Turan, Böck
# and Utschick (IEEE Trans. Signal Processing 72, 2024). All of it takes less than a minute on one core.
#
# ## 1. Five lines to a figure

# %%
import wichan as wc

estimators = ["bls", "blmmse", "bussgang-gmm", "bussgang-genie"]
small = {"num_rx_ant": 32, "num_components": 32, "num_train": 10_000}
result = wc.evaluation.evaluate("quantized-simo", estimators, overrides=small, num_channels=400)
result

# %% [markdown]
# 32 antennas, one pilot, one bit. `bls` knows the mean power. `blmmse` knows the covariance over all channels, which is all
# that a linear estimator can use. `bussgang-gmm` has learned a mixture of 32 Gaussians from 10,000 channels, while you waited.
# `bussgang-genie` is told the angle of every single channel.

# %%
print(result)

# %% [markdown]
# ## 2. What a coarse converter does
#
# It maps real and imaginary part, each by itself, to one of $2^B$ labels. A gain control sets its step for the mean power of
# what comes in (the steps are those of Max, 1960). With one bit nothing of the amplitude is left. Yet noise brings some of it
# back: averaged over noise, the output is a smooth function of the input (middle). So there is a best SNR, and more of it
# harms (right): about 4 dB for one bit, 14 dB for two, 26 dB for three. Without converters the error falls for ever.

# %%
import matplotlib.pyplot as plt
import torch

generator = torch.Generator().manual_seed(5)
model = wc.channels.SpatialGaussian(32)  # one cluster of 2 degrees at a random angle
identity = torch.eye(32, dtype=torch.complex128)  # one pilot of value 1: y = h + n
pilots = {bits: wc.observations.QuantizedPilots(identity, bits) for bits in (1, 2, 3, float("inf"))}

fig, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
x = torch.linspace(-2.5, 2.5, 501)
for bits in (3, 2, 1):
    axes[0].plot(x, wc.observations.Quantizer(bits)(x), label=f"{bits} bit" + "s" * (bits > 1))
axes[0].set(xlabel="real part in (standard deviations)", ylabel="real part out", title="Quantizer")
for no in (0.02, 0.3, 1.0):
    noise = (no / 2) ** 0.5 * torch.randn(4000, 1, generator=generator)
    axes[1].plot(x, wc.observations.Quantizer(1)(x + noise).mean(0), label=f"no = {no}")
axes[1].set(xlabel="real part in", ylabel="mean output, one bit", title="Noise lets amplitude through")
snr_db = torch.arange(-10.0, 30.1, 2.0)
angles = ((torch.arange(64) + 0.5) / 64 * 180 - 90).deg2rad()[:, None]  # every direction counts alike
told = model.conditional_covariance(angles)[:, None].expand(-1, len(snr_db), -1, -1).flatten(0, 1)
no = pilots[1].no_from_snr_db(snr_db).repeat(len(angles))
for bits, obs in pilots.items():
    blank = torch.zeros(len(no), 32, dtype=torch.complex64)  # what a linear estimator expects needs no data
    expected = wc.estimators.BussgangGenie(obs)(blank, no, covariance=told).err_var
    error = expected.reshape(len(angles), len(snr_db), -1).mean(dim=(0, 2))
    name = f"{bits} bit" + "s" * (bits > 1) if bits < 4 else "no converter"
    style = {"marker": "o", "markevery": [int(error.argmin())]} if bits < 4 else {}
    axes[2].plot(snr_db, 10 * error.log10(), label=name, **style)
axes[2].set(xlabel="SNR [dB]", ylabel="NMSE [dB]", title="bussgang-genie, 32 antennas")
for axis in axes:
    axis.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## 3. Bussgang in three formulas
#
# The samples are $r = Q(y)$ with $y = A h + n$. For Gaussian $y$ of covariance $C_y$, with variances $c_m$ on its diagonal, the
# output splits into a scaled input and a distortion that is uncorrelated with it (Bussgang, 1952). With one bit:
#
# $$r = B y + q,\qquad B = \mathrm{diag}\,\sqrt{\frac{2}{\pi c_m}}$$
#
# $$[C_r]_{mn} = \frac2\pi\Bigl(\arcsin \mathrm{Re}\,x_{mn} + j \arcsin \mathrm{Im}\,x_{mn}\Bigr),\qquad
#   x_{mn} = \frac{[C_y]_{mn}}{\sqrt{c_m c_n}}$$
#
# $$\hat h = C A^{\mathsf H} B\, C_r^{-1}\, r$$
#
# The second one is the arcsine law (Van Vleck and Middleton, 1966), the third the linear MMSE estimate (Li et al., 2017). In
# PyTorch that is a handful of lines; `BussgangLMMSE` does the same for any resolution, caches the filter and reports
# `err_var`.

# %%
obs, no = pilots[1], 0.1
C = model.conditional_covariance(torch.tensor([0.4]))
C_y = C + no * identity
c = C_y.diagonal().real
B = (2 / (torch.pi * c)).sqrt()
x = C_y / (c[:, None] * c).sqrt()
C_r = 2 / torch.pi * torch.complex(x.real.clamp(-1, 1).asin(), x.imag.clamp(-1, 1).asin())
W = C * B @ torch.linalg.inv(C_r)

h = model.sample(50_000, generator=generator, angles=torch.tensor([0.4])).double().h[..., 0]
r = obs.observe(h, no, generator=generator)
blmmse = wc.estimators.BussgangLMMSE(obs, C)
estimate = blmmse(r, no)
print(f"two real arcsines against 50,000 draws: {float((r.mT @ r.conj() / len(r) - C_r).abs().max()):.4f} at most")
print(f"B C               against 50,000 draws: {float((r.mT @ h.conj() / len(r) - B[:, None] * C).abs().max()):.4f} at most")
print(f"W r against BussgangLMMSE:              {float((r @ W.mT - estimate.h_hat).abs().max()):.1e} at most")
print(f"error made {float((estimate.h_hat - h).abs().square().mean()):.4f}, err_var {float(estimate.err_var.mean()):.4f}")

# %% [markdown]
# (`torch.asin` of a complex number is another function. It is two *real* arcsines.)
#
# ## 4. A prior in seconds
#
# Nobody tells a receiver the angle. But channels of one site have been seen before, and a mixture
# $p(h) = \sum_k \pi_k\, \mathcal{CN}(h; 0, C_k)$ can learn what they look like. Given pilots, each component gets its Bussgang
# filter and a weight that says how well it explains the signs. `structure` says what form the $C_k$ have:

# %%
import time

train, test = model.sample(10_000, generator=generator), model.sample(2000, generator=generator)
h_train, h = train.h[..., 0], test.h[..., 0]
r = obs.observe(h, no, generator=generator)


def mse(estimate):
    return float((estimate.h_hat - h).abs().square().mean())


genie = wc.estimators.BussgangGenie(obs, model)
priors = {}
for structure in ("full", "toeplitz", "circulant"):
    start = time.process_time()
    priors[structure] = prior = wc.priors.GMM(32, structure, max_iter=60).fit(h_train)
    seconds = time.process_time() - start
    error = mse(wc.estimators.BussgangGMM(prior, obs)(r, no))
    print(f"{structure:10s} {prior.num_parameters:6d} numbers, {seconds:3.1f} s on one core: error {error:.4f}")
print(f"linear, one covariance for all:               {mse(wc.estimators.BussgangLMMSE.from_samples(obs, h_train)(r, no)):.4f}")
print(f"told the angle:                               {mse(genie(r, no, **test.columns)):.4f}")

# %% [markdown]
# Equal antennas in equal distances make every covariance Toeplitz, and saying so saves 94 % of the numbers. Circulant needs
# half of these again and is the fastest, but it takes the ends of the array for neighbours. `GMM("auto")` chooses the number
# of components by the likelihood of channels that are held out; `MFA` is low rank plus noise.
#
# What has been learned? Directions:

# %%
spectra = priors["circulant"].spectra()  # eigenvalues over the DFT: power over spatial frequency
order = spectra.argmax(1).argsort()
fig, axis = plt.subplots(figsize=(6, 3), layout="constrained")
image = axis.imshow(10 * spectra[order].log10(), aspect="auto", vmin=-30, vmax=15, cmap="viridis")
axis.set(xlabel="spatial frequency", ylabel="component, sorted", title="Spectra of 32 components")
fig.colorbar(image, ax=axis, label="dB")
plt.show()

# %% [markdown]
# ## 5. No channel has ever been seen
#
# Where would clean channels come from? `fit_observations` learns from quantised pilots alone: it recovers a covariance from
# the signs of each component, subtracts the noise, and iterates. One bit never shows a scale; it is taken from the gain
# control, which assumes $\mathbb E|h|^2 = 1$.

# %%
r_train = obs.observe(h_train, no, generator=generator)  # 10,000 observations of 64 bits each, and nothing else
for structure in ("full", "toeplitz"):
    blind = wc.priors.GMM(32, structure, max_iter=30).fit_observations(obs, r_train, no)
    priors[f"{structure}, from signs"] = blind
    print(f"{structure:10s} learned from signs at 10 dB: error {mse(wc.estimators.BussgangGMM(blind, obs)(r, no)):.4f}")

# %%
snr_db = [-10, -5, 0, 5, 10, 15, 20]
levels = [obs.no_from_snr_db(value) for value in snr_db]
received = [obs.observe(h, level, generator=generator) for level in levels]
shown = {"linear": "-x", "circulant": "-v", "full, from signs": "--s", "full": "-o", "told the angle": "k:"}
candidates = {name: wc.estimators.BussgangGMM(prior, obs) for name, prior in priors.items()}
candidates |= {"linear": wc.estimators.BussgangLMMSE.from_samples(obs, h_train), "told the angle": genie}
fig, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
for name, style in shown.items():
    told = test.columns if name == "told the angle" else {}
    errors = [candidates[name](y, level, **told).h_hat - h for y, level in zip(received, levels, strict=True)]
    axis.plot(snr_db, [float(10 * e.abs().square().mean().log10()) for e in errors], style, label=name)
axis.set(xlabel="SNR [dB]", ylabel="NMSE [dB]", title="One bit, one pilot, 32 antennas")
axis.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## 6. Does it know how wrong it is?
#
# `err_var` is the variance of the posterior mixture, for every antenna of every observation. 7000 observations of random SNR,
# sorted by what they promise and cut into ten parts: the error that was made should lie on the diagonal.

# %%
fresh = model.sample(7000, generator=generator).h[..., 0]
no_each = torch.tensor(levels)[torch.randint(7, (7000,), generator=generator)]  # `no` may be a number for each observation
signs = obs.observe(fresh, no_each, generator=generator)
fig, axis = plt.subplots(figsize=(4.6, 3.6), layout="constrained")
for name, marker in {"toeplitz": "o", "full": "^", "full, from signs": "s"}.items():
    estimate = candidates[name](signs, no_each)
    claimed = estimate.err_var.mean(1)
    made = (estimate.h_hat - fresh).abs().square().mean(1)
    deciles = claimed.argsort().reshape(10, -1)
    axis.plot(10 * claimed[deciles].mean(1).log10(), 10 * made[deciles].mean(1).log10(), marker, label=name)
    print(f"{name:17s} claims {float(claimed.mean()):.3f} on average, makes {float(made.mean()):.3f}")
axis.plot([-9, 0], [-9, 0], "k:", linewidth=1)
axis.set(xlabel="err_var, mean of a tenth [dB]", ylabel="error made [dB]", title="Calibration, -10 to 20 dB")
axis.legend()
plt.show()

# %% [markdown]
# Priors learned from channels keep their word within a decibel in every tenth, and on average to a few percent. The one learned
# from signs promises a decibel and more too much where pilots say most (lower left): `err_var` holds what a prior believes, and
# that the prior itself is an estimate is not in it.
#
# ## 7. One bit, two, three, all of them
#
# A prior is one of *channels*: the same one serves any resolution, any pilots, any SNR. Sweeping `num_bits` builds the link
# anew at every point and fits nothing twice. `metrics` adds the achievable rate of a data phase through the same converters.

# %%
sweep = {"sweep": "num_bits", "points": [1, 2, 3, float("inf")], "metrics": ["nmse", "rate"]}
bits = wc.evaluation.evaluate("quantized-simo", estimators, overrides=small | {"snr_db": 10}, num_channels=400, **sweep)
print(bits)
print()
print(bits.table("rate"))

# %% [markdown]
# ## 8. Rates, and one that is none
#
# `rate_uatf` is a rate that a decoder reaches who knows no more than the mean of the combined channel. Its gain and
# distortion are those *given each channel*. Code that was published with these estimators takes them from the average
# covariance instead, as if distortion did not line up with the channel. wichan has that as `rate_legacy`, to compare with
# published curves. Sending symbols says who is right:

# %%
from wichan.evaluation import rate_legacy, rate_uatf
from wichan.random import complex_normal


def simulated_rate(h_hat, no, num_symbols=50):
    """Send symbols through the converters, combine with the estimate, and count what arrives."""
    combiner = h_hat / h_hat.abs().square().sum(1, keepdim=True).clamp_min(0.1)
    symbols = complex_normal((len(h), num_symbols, 1), generator=generator)
    combined = (obs.observe(h[:, None] * symbols, no, generator=generator) * combiner.conj()[:, None]).sum(-1)
    gain, power = (combined * symbols[..., 0].conj()).mean(), combined.abs().square().mean()
    return float(torch.log2(1 + gain.abs() ** 2 / (power - gain.abs() ** 2)))


fig, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
for color, name in (("tab:blue", "estimate"), ("tab:gray", "true channel"), ("tab:green", "true channel, unit norm")):
    rows = []
    for y, level in zip(received, levels, strict=True):
        h_hat = candidates["toeplitz"](y, level).h_hat if name == "estimate" else h
        h_hat = h_hat / h_hat.norm(dim=1, keepdim=True) if "unit" in name else h_hat
        rates = rate_uatf(h, h_hat, level, obs), rate_legacy(h, h_hat, level, obs)
        rows.append([simulated_rate(h_hat, level), *map(float, rates)])
    simulated, uatf, legacy = zip(*rows, strict=True)
    axis.plot(snr_db, uatf, color=color, label=f"{name}: rate_uatf")
    axis.plot(snr_db, simulated, "o", color=color, label="simulated link")
    if "unit" not in name:
        axis.plot(snr_db, legacy, "--", color=color, label="rate_legacy")
axis.set(xlabel="SNR [dB]", ylabel="bit/s/Hz", title="One-bit data phase, combined with the estimate")
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
plt.show()

# %% [markdown]
# At high SNR the true channel, combined the same way, is *worse* than the estimate. That is no error: $\hat h/\|\hat h\|^2$
# undoes an amplitude which the converters have taken away already. With $h$ it brings all of the fading back into the gain,
# with an estimate from signs hardly any; a combiner of unit norm does not (green). So "known channel" in wichan's tables is a
# combiner and no upper bound, and with few antennas a smaller error may even cost rate.
#
# ## 9. The genie is a reference, not a bound
#
# Given the angle the channel is Gaussian, but its conditional mean is not linear in the signs. `CMEGibbs` draws it by Markov
# chains, which say how well they have mixed. It is slow, so 16 antennas and 150 channels:

# %%
generator = torch.Generator().manual_seed(9)
few = wc.channels.SpatialGaussian(16)
draw = few.sample(150, generator=generator)
few_obs = wc.observations.QuantizedPilots(torch.eye(16, dtype=torch.complex128), num_bits=1)
bussgang = wc.estimators.BussgangGenie(few_obs, few)
gibbs = wc.estimators.CMEGibbs(few_obs, model=few, num_samples=40, burn_in=10)
for snr in (0, 10, 20):
    level = few_obs.no_from_snr_db(snr)
    y = few_obs.observe(draw.h[..., 0], level, generator=generator)
    conditional_mean, chains = gibbs.diagnose(y, level, **draw.columns)
    estimates = {"bussgang-genie": bussgang(y, level, **draw.columns), "cme-gibbs": conditional_mean}
    errors = [f"{name} {float((e.h_hat - draw.h[..., 0]).abs().square().mean()):.3f}" for name, e in estimates.items()]
    print(f"{snr:2d} dB: {', '.join(errors)}; R-hat at most {float(chains.r_hat.max()):.2f}")

# %% [markdown]
# About a decibel at 10 and 20 dB, less at 0 dB. So a learned estimator that beats `bussgang-genie` is no miracle and no
# mistake. The released variational autoencoder (`wc.load("vae")`, 64 antennas) does: it is told nothing, but the covariance
# that it chooses is a function of the signs, and its filter therefore not linear.

# %%
print(wc.evaluation.evaluate("quantized-simo", ["bussgang-gmm", "bussgang-vae"], points=[5, 10, 20], num_channels=300))

# %% [markdown]
# ## 10. Your own channels
#
# Anything complex of shape `(samples, *axes)` can be learned from. Here a "measurement": CDL-C channels of TR 38.901, 8
# antennas by 16 subcarriers, from 40 bearings around a base station, in a `.npz` file of no particular format.

# %%
import tempfile
from pathlib import Path

import numpy as np

grid = wc.OFDMGrid(num_ofdm_symbols=1, num_subcarriers=16, subcarrier_spacing=120e3)
array = wc.channels.ULA(8)
bearings = torch.linspace(-60, 60, 40).deg2rad().tolist()
drawn = []
for bearing in bearings:
    cdl = wc.channels.CDL(
        "C", delay_spread=100e-9, carrier_frequency=28e9, speed=1.0, rx_array=array, rx_orientation=(bearing, 0, 0)
    )
    drawn.append(cdl.frequency_response(grid, 150, generator=generator))
measured = torch.cat(drawn)[torch.randperm(6000, generator=generator)]

folder = Path(tempfile.mkdtemp())
np.savez(folder / "measured.npz", csi=measured.numpy())
axes = {"h": ("num_rx_ant", "num_tx_ant", "num_ofdm_symbols", "num_subcarriers")}
manifest = wc.store.import_file(folder / "measured.npz", folder / "set", columns={"h": "csi"}, axes=axes)

# %% [markdown]
# From the data set on: `wichan train gmm --data set` at the command line, or here in Python. The receiver is OFDM, so a
# converter sees *time samples*, into which all subcarriers go (`quantized_ofdm`). It assumes unit power: scale the channels.

# %%
channels = wc.store.open(folder / "set")[:]["h"]
channels = channels / channels.abs().square().mean().sqrt()
seen, h = channels[:5000], channels[5000:]
ofdm_pilots = wc.observations.OFDMPilots(grid, symbols=(0,), subcarrier_step=2)
wideband = wc.priors.GMM(16, "full", max_iter=30).fit(seen)
mixed = [3, 1, 1, 1, 1, 1, 1, 1]  # one good antenna among eight
for name, num_bits in {"1 bit": 1, "3 bits, 7 x 1 bit": mixed, "3 bits": 3}.items():
    link = wc.observations.quantized_ofdm(ofdm_pilots, num_bits, num_rx_ant=8)
    y = link.observe(h, 0.05, generator=generator)
    linear = wc.estimators.BussgangLMMSE.from_samples(link, seen)(y, 0.05)
    learned = wc.estimators.BussgangGMM(wideband, link)(y, 0.05)
    print(f"{name:18s} linear {mse(linear):.4f}, learned {mse(learned):.4f}, err_var {float(learned.err_var.mean()):.4f}")

# %% [markdown]
# One bearing alone would have one covariance, a mixture could learn nothing more, and the two columns would agree: a prior
# pays where a site holds channels of different kinds. Ask `wc.priors.choose_num_components` whether yours does.
#
# Where to go on: the guide's page on low resolution has command lines, dither, several users and pitfalls;
# `sims/quantized_mse.py` and `sims/quantized_rate.py` draw all curves at full size; `wichan train gmm`, `mfa` and `vae` make
# priors, and `wichan models` lists the released ones.
