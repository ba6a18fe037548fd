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
# # Your estimator in a coded Sionna link
#
# An NMSE says how far an estimate is from the channel. A link says what that costs: wrong blocks after equaliser and
# decoder. Here wichan's LMMSE stands in a Sionna 2.2 link in the place of Sionna's own estimator, and both are compared on
# the same frames. (Needs `pip install sionna-no-rt`. The long version, with four links and enough errors for narrow
# intervals, is `python sims/link_level.py`.)
#
# ## The frame
#
# 14 symbols of 24 subcarriers, pilots in symbols 2 and 11, one stream with 16-QAM and an LDPC code of rate 1/2. Sionna's
# `ResourceGrid` says all of it; `observation_of` reads the same pilots as a wichan observation.

# %%
import numpy as np
import sionna.phy
import torch
from sionna.phy.channel import ApplyOFDMChannel
from sionna.phy.fec.ldpc import LDPC5GDecoder, LDPC5GEncoder
from sionna.phy.mapping import BinarySource, Demapper, Mapper
from sionna.phy.mimo import StreamManagement
from sionna.phy.ofdm import LMMSEChannelEstimator, LMMSEEqualizer, LSChannelEstimator, ResourceGrid, ResourceGridMapper

import wichan as wc
from wichan.integrations.sionna import as_channel_estimator, observation_of

sionna.phy.config.seed = 7  # bits and noise come from Sionna
torch.set_grad_enabled(False)

rg = ResourceGrid(14, 24, 30e3, cyclic_prefix_length=2, pilot_pattern="kronecker", pilot_ofdm_symbol_indices=[2, 11])
pilots = observation_of(rg)
pilots

# %% [markdown]
# ## The channel
#
# A TDL-C with 300 ns of delay spread at 120 km/h, one transmit and four receive antennas, from wichan, whose generator is an
# argument. Its axes are
#
# | wichan | (batch, receive antenna, transmit antenna, symbol, subcarrier) |
# |---|---|
# | **Sionna** | (batch, *receiver*, receive antenna, *transmitter*, transmit antenna or stream, symbol, subcarrier) |
#
# so with one receiver and one transmitter two axes of length 1 are all that lies between them. The adapter below does the
# same for estimators, with as many transmitters and streams as the resource grid has.

# %%
generator = torch.Generator().manual_seed(7)
model = wc.channels.TDL("C", delay_spread=300e-9, carrier_frequency=3.5e9, speed=120 / 3.6, num_rx_ant=4)
h = model.frequency_response(pilots.grid, batch_size=2, generator=generator)
tuple(h.shape), tuple(h[:, None, :, None].shape)

# %% [markdown]
# ## Four receivers
#
# - **perfect**: told the channel;
# - **LS**: divides by the pilots and interpolates, and knows nothing of the channel;
# - **Sionna's LMMSE** takes one covariance an axis and filters along one axis after the other; frequency first is the better
#   order here;
# - **wichan's LMMSE** filters all pilots jointly. It is given the same second moment, `model.covariance`.
#
# `as_channel_estimator` makes a Sionna block of any wichan estimator. It can stand in `PUSCHReceiver` too.

# %%
term = model.covariance(pilots.grid).terms[0]
time, frequency = (m @ m.mH for m in (term.time, term.frequency))

ls = LSChannelEstimator(rg, interpolation_type="lin")
sionna_lmmse = LMMSEChannelEstimator(rg, time, frequency, order="f-t")
wichan_lmmse = as_channel_estimator(lambda pilots: wc.estimators.LMMSE(pilots, model.covariance(pilots.grid)), rg)
receivers = {
    "perfect CSI": None,
    "LS (Sionna)": ls,
    "LMMSE (Sionna)": sionna_lmmse,
    "LMMSE (wichan)": wichan_lmmse,
}

# %% [markdown]
# ## The link
#
# All blocks around the estimator are Sionna's. `no` is the noise variance of a resource element; channels and symbols have
# power 1, so the SNR of a receive antenna is 1/`no`.

# %%
n = int(rg.num_data_symbols) * 4
encoder = LDPC5GEncoder(n // 2, n, num_bits_per_symbol=4)
decoder = LDPC5GDecoder(encoder, num_iter=12)
source, mapper, demapper = BinarySource(), Mapper("qam", 4), Demapper("app", "qam", 4)
to_grid, channel = ResourceGridMapper(rg), ApplyOFDMChannel()
equalizer = LMMSEEqualizer(rg, StreamManagement(np.ones([1, 1]), 1))


def frames(snr_db, count):
    """Bits, channels, received grids and noise variance."""
    no = torch.tensor(10 ** (-snr_db / 10))
    bits = source([count, 1, 1, n // 2])
    h = model.frequency_response(pilots.grid, count, generator=generator)[:, None, :, None]
    return bits, h, channel(to_grid(mapper(encoder(bits))), h, no), no


def receive(y, h_hat, err_var, no):
    """Equalise, demap, decode."""
    return decoder(demapper(*equalizer(y, h_hat, err_var, no)))


def score(estimator, bits, h, y, no):
    """Squared error of the channel over its energy, bit error rate, block error rate."""
    h_hat, err_var = (h, torch.zeros(1)) if estimator is None else estimator(y, no)
    wrong = receive(y, h_hat, err_var, no) != bits
    nmse = (h_hat - h).abs().square().sum() / h.abs().square().sum()
    return float(nmse), float(wrong.float().mean()), float(wrong.any(dim=-1).float().mean())


# %% [markdown]
# ## Three points
#
# 96 frames a point: enough to see the order of the receivers, since all of them meet the same bits, channels and noise; not
# enough for the third digit.

# %%
points = (-1.0, 1.0, 3.0)
found = {name: [] for name in receivers}
for snr_db in points:
    drawn = frames(snr_db, 96)
    for name, estimator in receivers.items():
        found[name].append(score(estimator, *drawn))

print(f"{'receiver':16}" + "".join(f"{f'{snr:g} dB: NMSE':>16}{'BER':>8}{'BLER':>7}" for snr in points))
for name, rows in found.items():
    cells = (f"{f'{10 * np.log10(a):.1f} dB' if a else '':>16}{b:>8.4f}{c:>7.2f}" for a, b, c in rows)
    print(f"{name:16}" + "".join(cells))

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
for name, rows in found.items():
    nmse, ber, bler = np.array(rows).T
    style = {"marker": "o", "label": name, "color": f"C{list(found).index(name)}"}
    if nmse.any():
        axes[0].plot(points, 10 * np.log10(nmse), **style)
    axes[1].semilogy(points, ber, **style)
    axes[2].semilogy(points, bler, **style)
for axis, label in zip(axes, ("NMSE of the channel [dB]", "bit error rate", "block error rate"), strict=True):
    axis.set(xlabel="SNR at an antenna [dB]", ylabel=label)
    axis.grid(alpha=0.4)
figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
plt.show()

# %% [markdown]
# The two LMMSEs are a few tenths of a dB apart in NMSE, since the antennas of this TDL fade independently and Doppler is all
# that a joint filter can add; in 96 frames that shows in the bits at most. Where angles and delays are tied, as in a CDL, the
# joint filter gains more: `sims/link_level.py` counts it on thousands of frames.
#
# ## What `err_var` does
#
# The equaliser adds the error variance of the estimate to the noise: an element whose channel is badly known weighs less,
# and the demapper gives it smaller LLRs. Below, the same `h_hat` goes through the same receiver, which is told the
# estimator's own `err_var`, or that there is no error, or ten times too much.

# %%
bits, h, y, no = frames(3.0, 96)
for name, estimator in (("LS (Sionna)", ls), ("LMMSE (wichan)", wichan_lmmse)):
    h_hat, err_var = estimator(y, no)
    made = float((h_hat - h).abs().square().mean())
    print(f"{name}: error made {made:.3f}, promised {float(err_var.mean()):.3f}, noise {float(no):.3f}")
    for title, told in (("its own err_var", err_var), ("err_var = 0", torch.zeros(1)), ("err_var x 10", 10 * err_var)):
        wrong = receive(y, h_hat, told, no) != bits
        print(f"    {title:16} BER {float(wrong.float().mean()):.4f}, BLER {float(wrong.any(dim=-1).float().mean()):.3f}")

# %% [markdown]
# The error of LS is as large as the noise: not to know it, or to exaggerate it, spoils the LLRs. The error of the LMMSE is
# small beside the noise, so the receiver hardly notices a wrong figure, until it is far too large. It matters more at a high
# SNR and where the error differs between elements, far from the pilots for example.
#
# ## Your own
#
# Any `torch.nn.Module` that answers `(y, no)` with `(h_hat, err_var)` in wichan's axes will do. This one takes wichan's LS
# and shrinks it towards zero, which is the best that can be done element by element when the channel has power 1.


# %%
class Shrunk(torch.nn.Module):
    def __init__(self, pilots):
        super().__init__()
        self.ls = wc.estimators.LS(pilots)

    def forward(self, y, no):
        h_ls, error = self.ls(y, no)
        return h_ls / (1 + error), error / (1 + error)


mine = as_channel_estimator(Shrunk, rg)
for name, estimator in (("LS (Sionna)", ls), ("mine", mine), ("LMMSE (wichan)", wichan_lmmse)):
    nmse, ber, bler = score(estimator, bits, h, y, no)
    print(f"{name:16} NMSE {10 * np.log10(nmse):6.2f} dB, BER {ber:.4f}, BLER {bler:.3f}")
