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
# # CSI prediction: what the past says about the next ten milliseconds
#
# A base station learns a channel from pilots and uses it a little later, when the terminal has moved on. A predictor turns 16
# past snapshots into the 4 that follow, and says how wrong it expects to be. This notebook takes the benchmark of CSI-4CAST
# (arXiv 2510.12996) apart: the data, the damage, the predictors, the scores. All of it takes about a minute on one core, so
# samples are few: orders of magnitude can be trusted, close ranks cannot.
#
# ## 1. Five lines to a figure

# %%
from IPython.display import Image

import wichan as wc

cells = ["cm_A_ds_100_ms_001", "cm_A_ds_100_ms_010", "cm_A_ds_100_ms_030"]
benchmark = wc.evaluation.CSIRRGBenchmark(
    "tdd", cells=cells, categories=["regular"], noises={"awgn": [0, 10, 20]}, num_samples=3
)
result = benchmark.run(["hold", "pad", "dad", "csi4cast", "dadnet"])
Image(result.figure("lines.png"))

# %% [markdown]
# A *cell* is a CDL profile of 3GPP, a delay spread (ns) and a speed (m/s). `hold` repeats the last snapshot, `pad` is Prony's
# method, `dad` learns delays, angles and Doppler shifts of the sample at hand, `csi4cast` and `dadnet` are networks with
# released weights. An NMSE of 1 is what a prediction of zeros gets. Bands are 95 % intervals, and wide with 3 samples.

# %%
print(result)

# %% [markdown]
# ## 2. What the data are
#
# 32 ports at the base station (4 x 4, two polarisations), one antenna at the terminal, 300 subcarriers of 30 kHz, a snapshot
# every 2.352 ms. The sampler gives channels; the same key draws the rays behind them once more, which no receiver knows.

# %%
import matplotlib.pyplot as plt
import torch

from wichan.simulate.csi_rrg import CSIRRGSampler


def channels(cell, count=20, **settings):
    """Samples of a cell of the split `regular`, and their rays."""
    recipe = wc.simulate.load_recipe("csi-rrg", {"split": "regular", "cell": cell} | settings)
    sampler = CSIRRGSampler(recipe)
    key = sampler.key(0, "regular", cell, 0)
    model = sampler.model(recipe.scenario("regular", cell))
    rays = model.sample(sampler.block_size, generator=key.generator("rays"))
    return {name: column[:count] for name, column in sampler.sample(key).items()}, rays[:count]


def decibel(power, floor=1e-9):
    return 10 * power.clamp_min(floor).log10()


period = 2.352e-3  # s
times = torch.arange(20) * period * 1e3  # ms
frequencies = (torch.arange(300) - 375) * 30e3  # Hz from the carrier: the uplink is the lowest 300 of 750 bins
data, rays = channels("cm_A_ds_100_ms_010")
for name, column in data.items():
    print(f"{name:13s} {tuple(column.shape)!s:22s} {column.dtype}")

# %%
from wichan.channels import Panel

panel = Panel(4, 4, polarization="cross", pattern="38.901")
view = wc.analysis.angle_delay_power(data["h_u_hist"][0], panel, frequencies=frequencies, oversampling=4)
power = view.value[:16]  # one polarisation, mean over the snapshots: (beams, delays)

fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.3), layout="constrained")
for speed in (1, 10, 30):
    some, _ = channels(f"cm_A_ds_100_ms_{speed:03d}", 1)
    h = torch.cat([some["h_u_hist"], some["h_u_pred"]], -2)[0]
    beams = wc.analysis.to_angle_delay(h, panel, frequencies=frequencies).value[:16, 0]
    strongest = beams.abs().square().sum(1).flatten().argmax()  # over beams and delays
    axes[0].plot(times, beams.abs()[strongest // 300, :, strongest % 300], "o-", markersize=3, label=f"{speed} m/s")
axes[0].axvspan(times[15] + 1.2, times[19] + 1.2, color="0.9", label="to be predicted")
axes[0].set(xlabel="time [ms]", ylabel="|h| of the strongest beam and delay", ylim=(0, 85), title="CDL-A, 100 ns")
axes[0].legend(fontsize=8, loc="upper center", ncols=2)

shown = view.delay * 1e6
last = int((shown < 1).sum())
image = axes[1].imshow(
    decibel(power / power.max())[:, :last],
    extent=(-shown[1] / 2, shown[last - 1] + shown[1] / 2, 15.5, -0.5),
    aspect="auto", vmin=-30, cmap="magma", interpolation="nearest",
)  # fmt: skip
axes[1].set(
    xlabel="delay [µs]", ylabel="beam (4 columns x 4 rows)", title="10 m/s: mean power of one sample", yticks=[0, 4, 8, 12]
)
fig.colorbar(image, ax=axes[1], label="power [dB]")
plt.show()

# %% [markdown]
# In angle and delay a channel is sparse, and that is half of every good predictor. The other half is Doppler: a ray turns its
# phase by $2\pi\nu$ times 2.352 ms a snapshot, and shifts beyond $\pm 1/(2 \cdot 2.352\,\mathrm{ms}) = \pm 212.6$ Hz look
# like others. At 2.4 GHz that is 26.6 m/s: of the speeds of training, 30 m/s is beyond.

# %%
nyquist = 0.5 / period
fig, axes = plt.subplots(1, 3, figsize=(9.5, 2.9), layout="constrained", sharey=True)
for axis, speed in zip(axes, (1, 10, 30), strict=True):
    some, paths = channels(f"cm_A_ds_100_ms_{speed:03d}")
    strength = paths.gain.abs().square().sum((-1, -2))
    beyond = (strength * (paths.doppler.abs() > nyquist)).sum((1, 2)) / strength.sum((1, 2))
    one = int(beyond.argmax())  # the first sample, unless some alias
    history = some["h_u_hist"][one, :, 0]
    taper = torch.hann_window(18, periodic=False)[1:-1, None]
    spectrum = torch.fft.fft(history * taper, 256, dim=1).abs().square().sum((0, 2))
    shifts = torch.fft.fftfreq(256, period)
    order = shifts.argsort()
    axis.plot(shifts[order], decibel(spectrum / spectrum.max())[order], color="tab:blue", label="16 snapshots, Hann window")
    level = strength[one].flatten() / strength[one].max()
    axis.scatter(paths.doppler[one].flatten(), decibel(level), s=5, color="tab:orange", label="rays (truth)")
    for edge in (-nyquist, nyquist):
        axis.axvline(edge, color="0.6", linestyle=":")
    title = f"{speed} m/s" + (f": {float(beyond[one]):.0%} of the power aliases" if speed == 30 else "")
    axis.set(xlabel="Doppler shift [Hz]", title=title, ylim=(-35, 3), xlim=(-260, 260))
axes[0].set_ylabel("power [dB]")
axes[0].legend(fontsize=7, loc="lower right")
plt.show()

# %% [markdown]
# 16 snapshots are 38 ms, a resolution of 27 Hz: at 1 m/s (8 Hz) all rays are one line. At 30 m/s the right picture is a
# sample whose fast rays come back at the other end. Aliasing by itself does not hinder prediction in steps of the same
# period; what hinders is that more shifts have to be told apart by equally few snapshots.
#
# ## 3. What happens to a history
#
# The benchmark damages histories in four ways. White noise is equally strong everywhere and phase noise in proportion to the
# channel; lost snapshots (zeros) and bursts of interference hit a few. Every impairment returns the damaged history and
# `present`: which snapshots arrived.

# %%
clean = data["h_u_hist"]
damages = {
    "AWGN(10)": wc.observations.AWGN(10.0),
    "PhaseNoise, 10 dB": wc.observations.PhaseNoise.preset(10),
    "PacketDrop(0.2)": wc.observations.PacketDrop(0.2),
    "Burst, 10 dB": wc.observations.Burst.preset(10),
}
generator = torch.Generator().manual_seed(7)
fig, axes = plt.subplots(2, 4, figsize=(9.5, 4.2), layout="constrained", sharex=True, sharey="row")
for column, (name, damage) in zip(axes.T, damages.items(), strict=True):
    damaged, present = damage(clean, generator=generator)
    added = (damaged - clean).abs().square().mean((1, 2, 4))  # (samples, snapshots)
    one = int(added.max(1).values.argmax())  # the sample that is hit hardest
    column[0].plot(times[:16], clean[one, 0, 0, :, 150].real, "k-", linewidth=1, label="true")
    column[0].plot(times[:16], damaged[one, 0, 0, :, 150].real, ".", color="tab:red", label="seen")
    lost = ~present[one]
    column[0].plot(
        times[:16][lost], torch.zeros(int(lost.sum())), "x", color="k", label="`present` is False" if lost.any() else None
    )
    column[1].plot(times[:16], decibel(added[one] / clean[one].abs().square().mean((0, 1, 3)), 1e-4), ".-", color="tab:red")
    column[0].set(title=name)
    column[1].set(xlabel="time [ms]", ylim=(-42, 8))
axes[0, 0].set_ylabel("Re h, one port and bin")
axes[1, 0].set_ylabel("error over power [dB]")
axes[0, 0].legend(fontsize=7)
axes[0, 2].legend(fontsize=7)
plt.show()

# %% [markdown]
# Most predictors want a history without gaps: `impute` fills them. A predictor with `takes_gaps` gets `present` instead and
# leaves the lost snapshots out of its equations, which is better than anything one could fill in:

# %%
noisy, _ = wc.observations.AWGN(20.0)(clean, generator=generator)
lossy, present = wc.observations.PacketDrop(0.2)(noisy, generator=generator)
pad, dad = wc.prediction.PAD(), wc.prediction.DelayAngleDoppler()
future = data["h_u_pred"]
print(f"{int((~present).sum())} of {present.numel()} snapshots lost; NMSE [dB] of 20 samples at 20 dB")
print(f"{'filled by':22s}     pad     dad")
for method in ("hold", "linear"):
    filled = wc.observations.impute(lossy, present, method=method)
    print(f"{method:22s}" + "".join(f"{wc.evaluation.nmse_db(one(filled).h_pred, future):8.1f}" for one in (pad, dad)))
print(f"{'nothing, `present`':22s}       -{wc.evaluation.nmse_db(dad(lossy, present=present).h_pred, future):8.1f}")
print(f"{'nothing was lost':22s}" + "".join(f"{wc.evaluation.nmse_db(one(noisy).h_pred, future):8.1f}" for one in (pad, dad)))

# %% [markdown]
# ## 4. Predictors side by side
#
# One cell, 20 samples, 15 dB. `WienerPredictor` is the best linear map from 512 past to 128 future numbers, fitted here to a
# short stream of 60 channels (all subcarriers teach the same map). The genie knows every ray of the sample but its phase: no
# receiver does, and it shows how much there is to gain by knowing rays.

# %%
letters = [f"cm_{letter}_ds_100_ms_010" for letter in "ACD"]


def pairs(num_batches):
    """Noisy histories and their futures, fresh channels of the training split."""
    noise = torch.Generator().manual_seed(1)
    for batch in wc.simulate.stream("csi-rrg", cells=letters, batch_size=20, num_batches=num_batches):
        yield wc.observations.AWGN((0.0, 25.0))(batch.h_u_hist, generator=noise)[0], batch.h_u_pred


wiener = wc.prediction.WienerPredictor().fit(pairs(3))
genie = wc.prediction.WienerGenie("geometry", frequencies=frequencies)
awgn = wc.observations.AWGN(15.0)
history, _ = awgn(clean, generator=generator)
predictions = {
    "hold": wc.prediction.Hold()(history),
    "pad": pad(history),
    "wiener": wiener(history),
    "dad": dad(history),
    "genie: rays known": genie(history, awgn.no(clean), scale=data["scale"], rays=rays),
}
fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.5), layout="constrained")
for name, (h_pred, err_var) in predictions.items():
    error = (h_pred - future).abs().square()
    by_step = error.sum((0, 1, 2, 4)) / future.abs().square().sum((0, 1, 2, 4))
    axes[0].plot(torch.arange(1, 5) * period * 1e3, decibel(by_step), "o-", label=name)
    axes[1].loglog(err_var.mean((1, 2, 4)).flatten(), error.mean((1, 2, 4)).flatten(), ".", markersize=4)
    ratio = float(error.sum() / err_var.sum())
    print(f"{name:18s} NMSE {wc.evaluation.nmse_db(h_pred, future):6.1f} dB; real over claimed error {ratio:.2f}")
axes[0].set(
    xlabel="time after the last snapshot [ms]", ylabel="NMSE [dB]", title="CDL-A, 100 ns, 10 m/s, 15 dB", ylim=(-46, 18)
)
axes[0].legend(fontsize=8, loc="upper center", ncols=3)
limits = [5e-5, 10]
axes[1].plot(limits, limits, "k-", linewidth=0.8)
axes[1].set(
    xlabel="claimed: mean err_var",
    ylabel="real: mean squared error",
    title="each sample and step a point",
    xlim=limits,
    ylim=limits,
)
plt.show()

# %% [markdown]
# `hold` is worse than a prediction of zeros, because the channel has turned. One linear map for all directions of travel
# (`wiener`) is hardly better after 60 channels. `dad` is told nothing and trained on nothing. Points on the line keep their
# word; `CalibratedPredictor(predictor).fit(batches)` corrects `err_var` of any predictor from data and leaves its prediction
# alone.
#
# ## 5. Why `dad` works
#
# In one delay, `dad` sees 4 columns at 16 instants: a small picture of angle and Doppler. It learns the power in that picture
# from the sample alone (a covariance that explains what was seen, type-II maximum likelihood) and predicts by the conditional
# mean. Here is what it learns in the strongest cell of a sample, beside the true rays, and the same for
# `doppler_angles=departure`.
#
# That setting deserves a word. The terminal moves, so a ray's Doppler shift should follow the angle at which it *leaves the
# terminal*. The published data were made by a simulator that takes the angle at which it *arrives at the base station*. This
# recipe keeps that, so that numbers compare; `departure` is the physical one.

# %%
from wichan.prediction.dad_spectrum import AngleDopplerModel
from wichan.prediction.dad_transform import DelayAngle

transform = DelayAngle(32, 1, 300)
model = AngleDopplerModel(num_antennas=4, num_history=16, num_horizon=4, num_angles=8, num_doppler=64)
offsets = torch.arange(300, dtype=torch.float64) * 30e3
fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.7), layout="constrained", sharey=True)
for axis, ends in zip(axes, ("arrival", "departure"), strict=True):
    some, paths = channels("cm_A_ds_100_ms_010", 1, doppler_angles=ends)
    seen, _ = wc.observations.AWGN(20.0)(some["h_u_hist"], generator=generator)
    x = torch.fft.ifft(transform.analyse(seen), dim=2, norm="ortho")[0]  # (polarisations, columns, row beams, T, delays)
    row, delay = divmod(int(x.abs().square().sum((0, 1, 3)).argmax()), x.shape[-1])
    y = x[:, :, row, :, delay].movedim(0, -1)[None, None]
    p = model.fit(y, torch.full((1, 16), 0.01), iterations=5, smoothing=0.2)[0, 0].roll((4, 32), (0, 1))
    edges = (-0.5 / period - 3.3, 0.5 / period - 3.3, -0.5625, 0.4375)
    image = axis.imshow(decibel(p / p.max()), origin="lower", aspect="auto", extent=edges, vmin=-25, cmap="viridis")

    # The true rays, each by what it leaves in this delay and row beam.
    turns = torch.exp(-2j * torch.pi * paths.delay.reshape(-1, 1).double() * offsets)
    in_delay = (turns @ transform.basis[:, delay].conj()).abs().square()  # (clusters,)
    in_row = torch.fft.fft(paths.rx_response[0, ..., :4], dim=-1)[..., row].abs().square()
    strength = paths.gain[0].abs().square().sum((-1, -2)) * in_row * in_delay[:, None]
    phase = (paths.rx_response[0, ..., 4] / paths.rx_response[0, ..., 0]).angle() / (2 * torch.pi)  # column to column
    angle = torch.remainder(phase + 0.5625, 1) - 0.5625
    size = (strength / strength.max()).flatten()
    keep = size > 1e-2
    axis.scatter(
        paths.doppler[0].flatten()[keep], angle.flatten()[keep], s=60 * size[keep].sqrt(), facecolors="none", edgecolors="w"
    )
    middle = float((size * paths.doppler[0].flatten()).sum() / size.sum())
    axis.set(xlabel="Doppler shift [Hz]", title=f"doppler_angles={ends}", xlim=(middle - 50, middle + 50), ylim=(-0.4, 0.4))
axes[0].set_ylabel("angle [cycles a column]")
fig.colorbar(image, ax=axes, label="learned power [dB]")
plt.show()

# %% [markdown]
# Left, the rays (circles) line up: angle tells Doppler. Right, within this cluster, it does not. 4 columns and 16 snapshots
# blur both, and `dad` assumes neither. What angles are worth shows when they are taken away: `panel=(1, 1, 32)` says
# that the order of the antennas means nothing.

# %%
contenders = {"pad": pad, "dad": dad, "dad without angles": wc.prediction.DelayAngleDoppler(panel=(1, 1, 32)), "genie": genie}
print(f"{'NMSE [dB], 15 dB':28s}" + "".join(f"{name:>20s}" for name in contenders))
for speed in (10, 30):
    for ends in ("arrival", "departure"):
        some, paths = channels(f"cm_A_ds_100_ms_{speed:03d}", doppler_angles=ends)
        seen, _ = awgn(some["h_u_hist"], generator=generator)
        line = f"{speed} m/s, {ends}"
        row = []
        for one in contenders.values():
            told = {"no": awgn.no(some["h_u_hist"]), "scale": some["scale"], "rays": paths} if one is genie else {}
            row.append(float(wc.evaluation.nmse_db(one(seen, **told).h_pred, some["h_u_pred"])))
        print(f"{line:28s}" + "".join(f"{value:20.1f}" for value in row))

# %% [markdown]
# With `departure` the task is harder for everybody in these cells, the genie included. Angles are worth a few decibels either
# way: `dad` gains from the tie in the published data, and does not live on it. Networks are trained on that tie; what they
# owe to it is an experiment (exercise 3).
#
# ## 6. Two definitions of NMSE, and a rate
#
# Published tables average ratios: $\|h_a - \hat h_a\|^2 / \|h_a\|^2$ over antennas a and samples. The other definition
# divides sums. Antennas that are weak in a sample weigh as much as strong ones in the first, and next to nothing in the
# second. The spectral efficiency (SE) of beamforming with the prediction looks at neither: a common factor does not change a
# beam.

# %%
from wichan.evaluation.benchmarks.metrics import step_scores, target_sums

noisy, _ = wc.observations.AWGN(5.0)(clean, generator=generator)
held, steady = wc.prediction.Hold()(noisy).h_pred, dad(noisy).h_pred
guesses = {"zeros": 0 * held, "hold": held, "hold / 4": held / 4, "pad": pad(noisy).h_pred, "dad": steady}
best = target_sums(future)
print(
    f"{'':10s}{'mean of ratios':>16s}{'ratio of sums':>16s}{'SE [bit/s/Hz]':>16s}   (true channel: {float(best.se.mean()):.3f})"
)
for name, guess in guesses.items():
    ratio, error, se, _ = step_scores(guess, future).unbind(-1)
    print(f"{name:10s}{float(ratio.mean()):16.4f}{float(error.sum() / best.energy.sum()):16.4f}{float(se.mean()):16.3f}")

energy = future.abs().square().mean((2, 3, 4)).flatten()
fig, axis = plt.subplots(figsize=(6, 3.3), layout="constrained")
for name in ("hold", "pad", "dad"):
    ratio = (guesses[name] - future).abs().square().mean((2, 3, 4)).flatten() / energy
    axis.plot(decibel(energy), decibel(ratio), ".", markersize=3, label=name)
axis.set(
    xlabel="power of an antenna in a sample [dB]",
    ylabel="its ratio $\\|h_a - \\hat{h}_a\\|^2 / \\|h_a\\|^2$ [dB]",
    title="20 samples x 32 antennas, 5 dB",
)
axis.legend(fontsize=8, markerscale=3)
plt.show()

# %% [markdown]
# Zeros beat `hold` in the published score and are worth nothing as a beam. A quarter of `hold` is exactly as good a beam as
# `hold`, and comes before zeros or after them depending on the definition. From `pad` to `dad` the error falls about tenfold
# and the rate rises by 2 %: with 32 antennas the logarithm has seen most of the gain by then. The picture shows why the mean
# of ratios is the larger number: weak antennas, at the left, have the large ratios, and each of them counts as much as a
# strong one. Choose the score by what the prediction is for, and show more than one.
#
# ## 7. Your own model
#
# Anything that maps histories (n, 32, 1, 16, 300) to predictions (n, 32, 1, 4, 300) can stand in the table. This one knows
# that delays end somewhere (300 subcarriers, 57 dimensions), and takes away the noise elsewhere before `pad` looks at it.


# %%
def mine(history):
    """Prony's method on what is left after everything but the delays that can occur was taken away."""
    basis = transform.basis.to(history)
    return pad(history @ basis.conj() @ basis.mT).h_pred


test = wc.evaluation.CSIRRGBenchmark("tdd", cells=cells, categories=["regular"], noises={"awgn": [0, 10, 20]}, num_samples=3)
mean = test.run({"mine": mine, "pad": "pad"}).mean("nmse")
for name, value, low, high in zip(("mine", "pad"), *mean, strict=True):
    print(f"{name}: NMSE {value:.3f} [{low:.3f}, {high:.3f}]")

# %% [markdown]
# Three lines, and the error falls. (`test.run` also takes an `out=` folder, and then goes on from where it was stopped.)
#
# ## 8. Trained weights
#
# `wc.load` finds released weights by name, and reads your own by path; nothing in the file is executed. They know the 27
# training cells: CDL-A, C and D with 30, 100 and 300 ns at 1, 10 and 30 m/s. The first two rows of the table are of that
# kind, with fresh channels; the other three are not.

# %%
networks = {name: wc.load(name) for name in ("csi4cast-tdd", "dadnet-tdd")}
for name, network in networks.items():
    print(f"{name}: {sum(parameter.numel() for parameter in network.parameters()):,} parameters")


def unseen(cell, count):
    """Samples of a cell of the generalization split."""
    return next(wc.simulate.stream("csi-rrg", split="generalization", cells=cell, batch_size=count))


print(f"\n{'NMSE [dB], 15 dB, 6 samples':30s}" + "".join(f"{name:>14s}" for name in (*networks, "dad", "pad")))
for cell in ("cm_A_ds_100_ms_010", "cm_D_ds_300_ms_010", "cm_B_ds_100_ms_010", "cm_E_ds_400_ms_010", "cm_A_ds_100_ms_021"):
    batch = unseen(cell, 6)
    seen, _ = awgn(batch.h_u_hist, generator=generator)
    row = []
    for one in (*networks.values(), dad, pad):
        with torch.no_grad():
            row.append(float(wc.evaluation.nmse_db(one(seen).h_pred, batch.h_u_pred)))
    print(f"{cell:30s}" + "".join(f"{value:14.1f}" for value in row))

# %% [markdown]
# Unseen profiles and speeds are what tells a network that learned to predict from one that learned its channels: compare each
# column with itself, and with `dad`, which has learned nothing. Six samples a row show large gaps only; the cards (`wichan
# models`) and the results page have the measured numbers.
#
# ## Exercises, and where to read on
#
# 1. Give every beam of `mine` a recursion of its own, or all equations (`PAD.preset("all")`). What happens at 30 m/s?
# 2. Run section 1 with `CSIRRGBenchmark("fdd", ...)` and `["hold", "wiener", "csi4cast"]`: the downlink is never seen. What is
#    left to predict?
# 3. Add `categories=["robustness"]` to see phase noise, bursts and losses; `overrides={"doppler_angles": "departure"}` for
#    the physical Doppler shifts.
# 4. Train a network of your own: `wichan train csi4cast --max-time 40m -o runs/mine`, then take
#    `csi4cast=runs/mine/best.safetensors` into the benchmark.
#
# The guide's page on prediction says which predictor does what; `wichan evaluate --benchmark csi-rrg` runs all 3,708 settings
# and goes on where it was stopped (`-o`); `sims/csi_rrg.py` compares everything, references included.
