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
# # Learned estimation, compared honestly
#
# Load trained networks, see what they are told and what that is worth, train one, give it your own loss, and learn to read
# published curves with care. All of it takes a minute on two cores.
#
# ## 1. Five lines to a figure

# %%
import wichan as wc

estimators = ["lmmse-pooled", "fortitran", "lmmse-bank", "adafortitran", "lmmse-genie"]
result = wc.evaluation.evaluate("ofdm-siso", estimators, points=[0, 12, 24], num_channels=64, detail=False)
result

# %% [markdown]
# Dashed curves are told the delay spread and the Doppler of every frame, solid ones are not. The table ranks the two groups
# apart, since they do not answer the same question:

# %%
print(result)

# %% [markdown]
# The score is the mean over the points of the gap in dB to `lmmse-genie`, the best that anybody can do who knows the
# conditions: channels of a TDL-A are Gaussian once its conditions are known, so no network can beat it. Who does not know them
# has a bound of its own, `lmmse-bank`: it weighs hundreds of conditions by how well they explain the pilots. A gain over LMMSE
# with one pooled covariance says little; the gap to these two says what is left to win.
#
# ## 2. A trained network by hand
#
# `wc.load` takes a released model (`wichan models` lists them) or a path. `told` names what it wants to know beside `y` and
# `no`.

# %%
import torch

network = wc.load("adafortitran")
batch = next(wc.simulate.stream("ofdm-siso", batch_size=96, num_batches=1, split="test", snr_db=15.0))
with torch.no_grad():
    h_hat, err_var = network(batch.y, batch.no, delay_spread=batch.delay_spread, max_doppler=batch.max_doppler)
print("told:", network.told)
print(f"NMSE {float(wc.evaluation.nmse_db(h_hat, batch.h)):.1f} dB; err_var says {float(10 * err_var.mean().log10()):.1f} dB")

# %% [markdown]
# It also says how wrong it expects to be, element by element. One fast frame, and below it the mean over all 96: the error is
# least on the pilot symbols 2, 5, 8 and 11, largest at the edges.

# %%
import matplotlib.pyplot as plt

fast = int(batch.max_doppler.argmax())
pictures = {
    "channel": batch.h[fast, 0, 0].abs(),
    "estimate": h_hat[fast, 0, 0].abs(),
    "error made, mean": (h_hat - batch.h)[:, 0, 0].abs().square().mean(0).log10() * 10,
    "err_var, mean": err_var[:, 0, 0].mean(0).log10() * 10,
}
fig, axes = plt.subplots(2, 2, figsize=(8.6, 4.6), layout="constrained", sharex=True)
for axis, (title, values) in zip(axes.flat, pictures.items(), strict=True):
    limits = list(pictures.values())[:2] if title in ("channel", "estimate") else list(pictures.values())[2:]
    low, high = min(float(v.min()) for v in limits), max(float(v.max()) for v in limits)
    image = axis.imshow(values, aspect="auto", origin="lower", vmin=low, vmax=high, cmap="viridis")
    axis.set(title=title, ylabel="OFDM symbol")
    fig.colorbar(image, ax=axis, label="dB" if "mean" in title else "magnitude")
for axis in axes[1]:
    axis.set_xlabel("subcarrier")
plt.show()

# %% [markdown]
# ## 3. Told, not told, told wrong
#
# A receiver has no oracle. `WithEstimatedConditions` estimates delay spread and Doppler from the pilots and tells the network
# those; in `wichan evaluate` that is `adafortitran-blind`. What does the difference cost, and what if somebody is told wrong?

# %%
blind = wc.estimators.WithEstimatedConditions(network, network.obs)


def nmse_db(estimate):
    return float(wc.evaluation.nmse_db(estimate.h_hat, batch.h))


with torch.no_grad():
    told = {"delay_spread": batch.delay_spread, "max_doppler": batch.max_doppler}
    print(f"told the truth          {nmse_db(network(batch.y, batch.no, **told)):6.1f} dB")
    print(f"estimates them itself   {nmse_db(blind(batch.y, batch.no)):6.1f} dB")
    for factor in (0.5, 1.5):
        wrong = told | {"max_doppler": factor * batch.max_doppler}
        print(f"told {factor} x the Doppler  {nmse_db(network(batch.y, batch.no, **wrong)):6.1f} dB")

# %% [markdown]
# `sims/adafortitran_sweeps.py` draws that as curves, with the genie, and also tries profiles that nobody trained on.
#
# ## 4. Train one
#
# Frames come from the simulator while you train: none is seen twice. `wichan train` is the command for it; from Python it is a
# `TrainConfig` and `fit`. Here is a small network on a small grid for some seconds. `progress` is called after every step.

# %%
small = {"grid.num_subcarriers": 36, "max_doppler": 800.0}
options = {"width": 16, "layers": 1, "heads": 2}


def train(loss, **settings):
    """Train for a few seconds; returns the result, and the mean over frames of the NMSE in dB over the steps."""
    budget = {"max_steps": 100, "batch_size": 32, "warm_start": 2000, "ema": 0.95, "lr": 2e-3} | settings
    looks = {"val_every": 20, "val_frames": 256}
    config = wc.training.TrainConfig.of("fortitran", overrides=small, model_options=options, loss=loss, **budget, **looks)
    curve = []

    def follow(state):
        if state.metrics:
            curve.append((state.steps, state.metrics["score_db"]))

    return wc.training.fit(config, device="cpu", progress=follow), curve


trained, curve = train("log-mse+nll")
print(f"{trained.frames} frames in {trained.seconds:.0f} s: NMSE {trained.best['nmse_db']:.2f} dB")

# %% [markdown]
# The network did not start from nothing: its first layer was set to the best linear map from pilots to the grid, in closed form
# (`warm_start`), so it improves on a good linear estimator from the first step.
#
# ## 5. Your own loss
#
# A loss is a function of an `Estimate` and the channel. Register it under a name; names add up, and `+nll` goes on training
# `err_var` alone. This one cares for the first half of the slot only, as a receiver does that must answer early:


# %%
def early(estimate, h):
    """Log of the mean squared error of symbols 0 to 6, mean over frames."""
    error = torch.view_as_real(estimate.h_hat - h)[..., :7, :, :]
    return error.square().sum(-1).flatten(1).mean(1).log().mean()


wc.training.LOSSES["early"] = early
own, own_curve = train("early+nll")

frames = next(wc.simulate.stream("ofdm-siso", batch_size=500, num_batches=1, split="test", **small))
fig, axes = plt.subplots(1, 2, figsize=(8.6, 3.2), layout="constrained")
runs = {"log-mse+nll": (trained, curve, "o-"), "early+nll": (own, own_curve, "s--")}
for name, (made, points, style) in runs.items():
    axes[0].plot(*zip(*points, strict=True), style, label=name)
    with torch.no_grad():
        error = (made.estimator(frames.y, frames.no).h_hat - frames.h).abs().square()
    axes[1].plot(10 * error.mean(dim=(0, 1, 2, 4)).log10(), style, label=name)
axes[0].set(xlabel="step", ylabel="NMSE in dB, mean over frames", title="validation, whole grid")
axes[1].set(xlabel="OFDM symbol", ylabel="mean squared error [dB]", title="what each of them learned")
axes[0].legend()
plt.show()

# %% [markdown]
# The second one lets go of what it is not asked for. A hundred steps are too few to gain as much in the first half; what
# matters here is where your own loss goes in.
#
# ## 6. Another grid, more antennas, nothing trained
#
# A network is tied to its grid and its pilots, and says so. `DelayDopplerMixture` is not: it draws delay profiles and Doppler
# spectra as standardised channel models do, and takes the conditional mean over all of them, for any pilot lattice and any
# number of antennas. It is told nothing.

# %%
grid = wc.OFDMGrid(num_ofdm_symbols=14, num_subcarriers=72, subcarrier_spacing=30e3)
pilots = wc.observations.OFDMPilots(grid, symbols=(3, 10), subcarrier_step=4)
try:
    wc.load("adafortitran", obs=pilots)
except ValueError as error:
    print("network:", error)

generator = torch.Generator().manual_seed(4)
model = wc.channels.TDL("C", delay_spread=150e-9, max_doppler=400.0, num_rx_ant=4)  # no profile that anybody trained on
h = model.frequency_response(grid, 100, generator=generator)
y = pilots.observe(h, 0.03, generator=generator)
candidates = {
    "ls": wc.estimators.LS(pilots),
    "mixture": wc.estimators.DelayDopplerMixture(pilots),
    "genie": wc.estimators.LMMSE(pilots, model.covariance(grid)),
}
for name, estimator in candidates.items():
    estimate = estimator(y, 0.03)
    error = float(wc.evaluation.nmse_db(estimate.h_hat, h))
    print(f"{name:8s} NMSE {error:6.2f} dB, err_var {float(10 * estimate.err_var.mean().log10()):6.2f} dB")

# %% [markdown]
# ## 7. Two traps in one figure
#
# `ofdm-siso-legacy` is the set-up that published numbers were most likely made with. First trap: all frames of one delay spread
# and Doppler share *one* fading realisation, in training, validation and test alike, 240 channels in all, which a network can
# learn by heart. Second trap: its SNR is counted over a grid that is silent but for the pilots, so a pilot sees 13.2 dB more.

# %%
same = {"delay_spread": 200e-9, "max_doppler": 500.0, "snr_db": 5.0}
kinds = {"frozen, as published: six frames, one curve": {}, "independent fading": {"independent_fading": True}}
fig, axes = plt.subplots(1, 2, figsize=(8.6, 3.2), layout="constrained", sharey=True)
for axis, (title, setting) in zip(axes, kinds.items(), strict=True):
    for split, style in (("train", "-"), ("val", "--")):
        frames = next(wc.simulate.stream("ofdm-siso-legacy", batch_size=3, num_batches=1, split=split, **same, **setting))
        for number, frame in enumerate(frames.h[:, 0, 0, 7].abs()):
            axis.plot(frame, style, linewidth=1.0, label=f"{split} {number}")
    axis.set(title=title, xlabel="subcarrier")
axes[0].set_ylabel("|h| of symbol 7, 200 ns, 500 Hz")
axes[1].legend(ncols=2, fontsize=8)
plt.show()

on_pilots = frames.h[:, 0, 0][:, [2, 11], ::3].abs().square().mean(dim=(1, 2))
measured = [round(float(x), 1) for x in 10 * (on_pilots / frames.no).log10()]
print(f"snr_db says {same['snr_db']} dB; on the pilots it is {measured}")

# %% [markdown]
# On the left all six are the same channel. An error below the genie's on such data is no achievement; `sims/honest_fading.py`
# shows how it comes about while training, and what is left of it on channels that the network has not seen.
#
# Where to go on: `wichan train --help`; `sims/learned_link.py` puts the networks into a coded Sionna link; the guide's page on
# learned estimation says what is fair.
