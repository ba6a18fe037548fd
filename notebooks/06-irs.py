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
# # Intelligent surfaces: sparse estimation of a cascade
#
# A terminal reaches its base station over a wall of hundreds of mirrors whose phases we may choose. To choose well one has to
# know the channel, to know it one has to send pilots, and there are thousands of unknowns. This notebook follows He and Joseph
# (arXiv 2307.14719): say that few paths exist and that their directions form a grid of three axes, and a few hundred samples
# are enough. All of it takes less than a minute on one core.
#
# ## 1. Five lines to a figure

# %%
import wichan as wc

estimators = ["omp", "kron-omp", "kron-sbl-am", "kron-sbl-svd", "oracle-ls"]
result = wc.evaluation.evaluate("irs-mimo", estimators, num_channels=16, metrics=["nmse", "srr", "time"])
result

# %% [markdown]
# 6 antennas at the terminal (MS), 256 elements on the surface, 16 antennas at the base station (BS); 18 pilot vectors, 288
# received numbers, 5832 candidates for a path. `omp` picks candidates one by one, `kron-omp` picks directions axis by axis,
# `kron-sbl-*` learn how strong each direction of each axis is, and `oracle-ls` was told where the paths are.

# %%
print(result, result.table("srr"), result.table("time"), sep="\n\n")

# %% [markdown]
# ## 2. What a surface does
#
# $G(\theta) = H_b\,\mathrm{diag}(\theta)\,H_a$: the signal travels to the surface ($H_a$), every element turns its phase
# ($\theta_l$), and it travels on ($H_b$). For a wave that comes in under cosine $u$ and leaves under $w$, element $l$ sees
# $e^{j\pi l (u + w)}$: only the *sum* matters, and it is what phases can focus on. Aligned phases add amplitudes, so the gain
# grows with $L^2$; random ones add powers.

# %%
import matplotlib.pyplot as plt
import torch

generator = torch.Generator().manual_seed(6)
fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.2), layout="constrained")

one_path = wc.channels.IRSCascade(1, 64, 1, num_paths=1)  # single antennas, line of sight
z = one_path.element_cascade(one_path.sample(1, generator=generator)) / 64
directions = torch.linspace(-1, 1, 1001)
waves = torch.exp(1j * torch.pi * directions[:, None] * torch.arange(64))
for name, bits in (("continuous", None), ("1 bit", 1)):
    theta = wc.beamforming.align_phases(z, num_bits=bits)[0]
    axes[0].plot(directions, 20 * (waves @ theta).abs().clamp_min(0.3).log10(), label=name, zorder=3 - (bits or 0))
blind = wc.beamforming.random_reflection(64, generator=generator)
axes[0].plot(directions, 20 * (waves @ blind).abs().clamp_min(0.3).log10(), color="tab:gray", linewidth=0.8, label="random")
axes[0].set(xlabel="sum of both cosines", ylabel="gain over one element [dB]", title="64 elements", ylim=(-11, 38))

sizes = [4, 8, 16, 32, 64, 128, 256]
gains = {"continuous": [], "1 bit": [], "random": []}
for size in sizes:
    surface = wc.channels.IRSCascade(1, size, 1, num_paths=1)
    z = surface.element_cascade(surface.sample(500, generator=generator))
    choices = [wc.beamforming.align_phases(z), wc.beamforming.align_phases(z, num_bits=1)]
    choices.append(wc.beamforming.random_reflection(size, (500,), generator=generator))
    for row, theta in zip(gains.values(), choices, strict=True):
        gain = wc.beamforming.reflect(z, theta).abs().square() / z[..., 0, :].abs().square()
        row.append(10 * float(gain.mean().log10()))
for name, row in gains.items():
    axes[1].semilogx(sizes, row, "o-", base=2, label=name, color="tab:gray" if name == "random" else None)
axes[1].set(xlabel="elements", ylabel="mean gain over one element [dB]", title="$L^2$, 3.9 dB less, and $L$")
for axis in axes:
    axis.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## 3. Training, and why it is short
#
# The surface shows a few patterns $\theta_k$, and under each of them the terminal sends a few pilot vectors. Without structure
# that would have to be 256 patterns of 6 pilots, 1536 uses of the channel. With three paths a hop the cascade is
#
# $$h = \sum_{v,u,w} x_{vuw}\; a_{irs}(v) \otimes a_{ms}(u) \otimes a_{bs}(w)$$
#
# with few nonzero $x$, and what is received is a product of three small matrices, one an axis. `KroneckerDictionary` keeps them
# apart. (Here the paths lie on the grid and come in blocks of neighbours, as in the published benchmark.)

# %%
irs = wc.channels.IRSCascade(6, 256, 16, 3, angles="block", grid_size=18)
obs = wc.observations.IRSTraining(irs, num_pilots=3, num_patterns=6)
dictionary = obs.dictionary(grid=18)
for name, factor, share in zip(dictionary.names, dictionary.factors, dictionary.synthesis, strict=True):
    print(f"{name:4s} seen through {tuple(factor.shape)}, makes channels by {tuple(share.shape)}")
numbers = sum(factor.numel() for factor in dictionary.factors)
print(f"{dictionary.num_measurements} measurements, {dictionary.num_coefficients} atoms: {numbers} numbers")
print(f"instead of {dictionary.num_measurements * dictionary.num_coefficients:,} in one matrix")

# %% [markdown]
# ## 4. Estimators that know the structure
#
# `KroneckerSBL` gives each direction of each axis a variance, $\gamma_v \gamma_u \gamma_w$ is that of $x_{vuw}$, and learns all
# of them from one observation; whatever the data do not need goes to zero. `couple` adds that paths come in blocks. The
# picture shows the energy over two of the three axes, true and estimated, for the channel that is hardest for OMP.

# %%
import time

draw = irs.sample(20, generator=generator)
h = obs.channel(draw)
no = (obs.noiseless(h).abs().square().mean(1) / 10).double()  # 10 dB for each channel
y = obs.observe(h, no, generator=generator)
candidates = {
    "OMP": wc.estimators.OMP(dictionary),
    "Kronecker-OMP": wc.estimators.KroneckerOMP(dictionary),
    "Kronecker-SBL, am": wc.estimators.KroneckerSBL(dictionary, m_step="am"),
    "Kronecker-SBL, svd": wc.estimators.KroneckerSBL(dictionary, m_step="svd"),
    "Kronecker-SBL, svd, coupled": wc.estimators.KroneckerSBL(dictionary, m_step="svd", couple=("irs", "bs")),
}
found, errors = {}, {}
for name, estimator in candidates.items():
    start = time.process_time()
    found[name] = estimator(y, no)
    seconds = time.process_time() - start
    errors[name] = error = (found[name].h_hat - h).abs().square().sum((1, 2, 3, 4)) / h.abs().square().sum((1, 2, 3, 4))
    line = f"{name:28s} NMSE: mean {float(error.mean()):.3f}, median {float(error.median()):.4f}"
    print(f"{line}; {1e3 * seconds / len(h):5.1f} ms a channel")

# %%
truth = wc.estimators.OracleLS(dictionary)(obs.noiseless(h), 1e-12, support=dictionary.mode_support(draw))
pictures = {"true": truth} | {name: found[name] for name in ("OMP", "Kronecker-SBL, svd")}
hard = int(errors["OMP"].argmax())
fig, axes = plt.subplots(1, 3, figsize=(9.5, 3.2), layout="constrained")
for axis, (name, estimate) in zip(axes, pictures.items(), strict=True):
    energy = estimate.coefficients[hard].abs().square().sum(1)  # over the directions at the terminal
    axis.imshow(10 * (energy / energy.max()).clamp_min(1e-4).log10(), cmap="magma", vmin=-30, origin="lower", aspect="auto")
    axis.set(title=name, xlabel="direction at the base station", ylabel="sum direction at the surface")
    axis.locator_params(integer=True)
plt.show()

# %% [markdown]
# ## 5. `err_var`, and a grain of salt
#
# A sparse estimator gives the variance of every entry of the channel, and takes for granted which candidates it chose or
# switched off. OMP promises far too much, Kronecker-SBL keeps its word on these channels; ask before you rely on it.
# `Calibrated` learns from simulated channels by how much an estimator is wrong, and corrects it.

# %%
greedy = candidates["OMP"]
train = obs.channel(irs.sample(100, generator=generator))
train_no = obs.noiseless(train).abs().square().mean(1).double() / 10 ** torch.linspace(0.4, 2, 100, dtype=torch.float64)
calibrated = wc.estimators.Calibrated(greedy, obs).fit(train, train_no, generator=generator)
test = obs.channel(irs.sample(100, generator=generator))
test_no = obs.noiseless(test).abs().square().mean(1).double() / 10 ** torch.linspace(0.4, 2, 100, dtype=torch.float64)
y_test = obs.observe(test, test_no, generator=generator)
for name, one in (("OMP", greedy), ("OMP, Calibrated", calibrated), ("Kronecker-SBL, svd", candidates["Kronecker-SBL, svd"])):
    estimate = one(y_test, test_no)
    ratio = (estimate.h_hat - test).abs().square().sum((1, 2, 3, 4)) / estimate.err_var.sum((1, 2, 3, 4))
    print(f"{name:18s} squared error over err_var: mean {float(ratio.mean()):5.2f}, median {float(ratio.median()):.2f}")

# %% [markdown]
# ## 6. From the estimate to phases, from phases to rates
#
# The coefficients give the cascade element by element, hence under *any* reflection. `irs_beams` finds phases and beams for it:
# dominant singular pair and alignment in turn, from a few good starts. What counts is the rate over the *true* channel, with
# pilots paid for: $(1 - \tau_p/\tau_c) \log_2(1 + P\,|u^H G v|^2 / no)$.

# %%
true_cascade = irs.element_cascade(draw)
perfect = wc.beamforming.irs_beams(true_cascade)
snr_db = [0, 4, 8, 12, 16]
rates = {name: [] for name in ("perfect CSI", "Kronecker-SBL, svd", "the same, 2 bits", "OMP", "random phases")}


def rate(beams, level):
    """Over the true channel, 18 pilots of 500 uses; the power of the data is that of the pilots."""
    channel = wc.beamforming.reflect(true_cascade, beams.reflection)
    return wc.beamforming.spectral_efficiency(channel, beams.combiner, beams.precoder, 1.0, level, 18, 500)


blind = wc.beamforming.random_reflection(256, (len(h),), generator=generator)
seen = wc.beamforming.irs_beams(wc.beamforming.reflect(true_cascade, blind)[..., None, :])
for value in snr_db:
    level = obs.noiseless(h).abs().square().mean(1).double() / 10 ** (value / 10)
    y = obs.observe(h, level, generator=generator)
    beams = {"perfect CSI": perfect, "random phases": seen._replace(reflection=blind)}
    for name in ("Kronecker-SBL, svd", "OMP"):
        estimate = candidates[name](y, level).coefficients
        beams[name] = wc.beamforming.irs_beams(dictionary.element_cascade(estimate))
        if "SBL" in name:
            beams["the same, 2 bits"] = wc.beamforming.irs_beams(dictionary.element_cascade(estimate), num_bits=2)
    for name, one in beams.items():
        rates[name].append(float(rate(one, level).mean()))

fig, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
for (name, row), style in zip(rates.items(), ("k--", "o-", "s-", "v-", "d-"), strict=True):
    axis.plot(snr_db, row, style, label=name)
    print(f"{name:20s}" + "".join(f"{value:7.2f}" for value in row))
axis.set(xlabel="SNR of the training [dB]", ylabel="bit/s/Hz", title="20 channels, 256 elements", ylim=(0, None))
axis.legend(fontsize=8)
plt.show()

# %% [markdown]
# OMP loses 2 bit/s/Hz, though its NMSE is a few percent and falls. The NMSE of the benchmark is that under the patterns of the
# *training*: a wrong direction at the surface may explain six patterns as well as the right one, but not the seventh, and the
# phases that we choose are a seventh. Ask for the error of the cascade element by element, or for the rate.

# %%
for name in ("OMP", "Kronecker-SBL, svd"):
    elements = dictionary.element_cascade(found[name].coefficients)
    missed = (elements - true_cascade).abs().square().sum((1, 2, 3, 4)) / true_cascade.abs().square().sum((1, 2, 3, 4))
    seen_error, error = float(errors[name].mean()), float(missed.mean())
    print(f"{name:18s} NMSE under the patterns of the training {seen_error:.3f}, of all elements {error:.3f}")

# %% [markdown]
# `maximise_rate` does the same as `irs_beams` for several streams, with water-filling. And everything is differentiable, so
# phases can be *learned*: here by a plain optimiser, through `reflect` and `spectral_efficiency`.

# %%
phases = torch.zeros(1, 256, requires_grad=True)
u, v = perfect.combiner[:1], perfect.precoder[:1]
optimiser = torch.optim.Adam([phases], lr=0.1)
for _ in range(200):
    optimiser.zero_grad()
    channel = wc.beamforming.reflect(true_cascade[:1], torch.exp(1j * phases))
    loss = -wc.beamforming.spectral_efficiency(channel, u, v, 1.0, 1.0).sum()
    loss.backward()
    optimiser.step()
closed = wc.beamforming.spectral_efficiency(wc.beamforming.reflect(true_cascade[:1], perfect.reflection[:1]), u, v, 1.0, 1.0)
print(f"learned {-loss.item():.4f}, in closed form {closed.item():.4f} bit/s/Hz")

# %% [markdown]
# ## 7. Your own estimator
#
# Anything that takes `(y, no)` and returns a channel can stand in the table. This one gives up structure along the base
# station's antennas: greedy on the other two axes, least squares there.


# %%
(surface, ms, _), (surface_channel, ms_channel, _) = dictionary.factors, dictionary.synthesis
seen, made = torch.kron(surface, ms), torch.kron(surface_channel, ms_channel)
nbs, nms, patterns, _ = dictionary.channel_shape


def two_axes(y, no, num_pairs=6):
    """Pick pairs (surface, terminal) of directions; every antenna of the base station has its own gain."""
    h_hat = []
    for one in y.to(seen).reshape(len(y), -1, nbs):
        chosen, rest = [], one
        for _ in range(num_pairs):
            match = (seen.mH @ rest).norm(dim=1) / seen.norm(dim=0)
            chosen.append(int(match.argmax()))
            gains = torch.linalg.lstsq(seen[:, chosen], one, driver="gelsd").solution
            rest = one - seen[:, chosen] @ gains
        h_hat.append((made[:, chosen] @ gains).reshape(patterns, nms, nbs).permute(2, 1, 0)[..., None])
    return torch.stack(h_hat).to(y)


mine = {"two-axes": two_axes, "kron-sbl-svd": "kron-sbl-svd"}
print(wc.evaluation.evaluate("irs-mimo", mine, num_channels=16, points=[8, 16]))

# %% [markdown]
# ## 8. Off the grid
#
# Real directions lie between grid points, and one path then looks like several. `OffGridKroneckerSBL` starts from the grid and
# moves the paths: matching pursuit with Newton steps on the directions, kept where the evidence says so.

# %%
between = wc.channels.IRSCascade(6, 32, 16, 1)  # uniform angles
obs_between = wc.observations.IRSTraining(between, num_pilots=6, num_patterns=6)
h = obs_between.channel(between.sample(10, generator=generator))
no = obs_between.noiseless(h).abs().square().mean(1).double() / 100
y = obs_between.observe(h, no, generator=generator)
for name, estimator in {
    "on the grid": wc.estimators.KroneckerSBL(obs_between.dictionary(18), "mm"),
    "off the grid": wc.estimators.OffGridKroneckerSBL(obs_between, 18),
}.items():
    error = (estimator(y, no).h_hat - h).abs().square().sum((1, 2, 3, 4)) / h.abs().square().sum((1, 2, 3, 4))
    print(f"{name:13s} NMSE {float(error.mean()):.5f}")

# %% [markdown]
# Where to go on: the guide's page on reflecting surfaces; `sims/irs_rate.py` for rates with absolute path gains, a direct
# link and pairs of patterns that separate it; `sims/kronecker_sbl_*.py` for the published comparison at full size.
