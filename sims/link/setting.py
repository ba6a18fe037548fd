"""What is simulated: four links, one frame format, and the Sionna blocks that make a frame and equalise it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from link.decoder import StoppingDecoder
from sionna.phy.channel import ApplyOFDMChannel
from sionna.phy.fec.ldpc import LDPC5GEncoder
from sionna.phy.mapping import BinarySource, Demapper, Mapper
from sionna.phy.mimo import StreamManagement
from sionna.phy.ofdm import LMMSEEqualizer, ResourceGridMapper

from wichan.channels import CDL, TDL, ULA, Panel
from wichan.channels.base import ChannelModel
from wichan.channels.tdl import SPEED_OF_LIGHT
from wichan.grid import OFDMGrid
from wichan.integrations.sionna import SionnaCDL, SionnaTDL, isolated_rng, resource_grid_of
from wichan.observations import OFDMPilots
from wichan.random import derive_seed, make_generator


@dataclass(frozen=True)
class Setting:
    """Everything that the numbers depend on besides link, SNR and chunk."""

    num_subcarriers: int = 48
    subcarrier_spacing: float = 30e3
    pilot_symbols: tuple[int, ...] = (2, 11)
    pilot_step: int = 4  # between the pilots of one stream, in subcarriers
    profile: str = "C"
    delay_spread: float = 300e-9
    carrier_frequency: float = 3.5e9
    speed: float = 120 / 3.6
    num_rx_ant: int = 4
    num_bits_per_symbol: int = 4
    coderate: float = 0.5
    num_iter: int = 20
    frames_per_chunk: int = 64
    channel: str = "wichan"
    seed: int = 1

    def as_json(self) -> dict[str, Any]:
        """The setting as JSON gives it back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Frames:
    """One chunk: what was sent, through what, and what was received (Sionna's axes)."""

    bits: torch.Tensor
    h: torch.Tensor
    y: torch.Tensor
    no: float


#: name -> (channel model, streams of the one terminal, SNR [dB] from a block error rate of about 0.7 down to 0.03)
LINKS: dict[str, tuple[str, int, tuple[float, ...]]] = {
    "tdl-simo": ("tdl", 1, (-0.5, 0.75, 2.0, 3.25, 4.25)),
    "tdl-mimo": ("tdl", 2, (0.5, 2.0, 3.5, 5.0, 6.0)),
    "cdl-simo": ("cdl", 1, (0.0, 1.5, 3.0, 4.5, 5.75)),
    "cdl-mimo": ("cdl", 2, (1.0, 2.5, 4.0, 5.5, 6.75)),
}


def channel_model(kind: str, num_streams: int, setting: Setting, source: str = "wichan") -> ChannelModel:
    """The channel of a link: uplink, ``num_streams`` antennas at the terminal, four at the station.

    TDL antennas fade independently. In the CDL the station is a row of two cross-polarised pairs at half a wavelength, the
    terminal one vertical element or one cross-polarised pair.
    """
    doppler = setting.speed * setting.carrier_frequency / SPEED_OF_LIGHT
    if kind == "tdl":
        tdl = TDL if source == "wichan" else SionnaTDL
        antennas = {"num_rx_ant": setting.num_rx_ant, "num_tx_ant": num_streams}
        return tdl(setting.profile, delay_spread=setting.delay_spread, max_doppler=doppler, **antennas)
    cdl = CDL if source == "wichan" else SionnaCDL
    return cdl(
        setting.profile,
        delay_spread=setting.delay_spread,
        carrier_frequency=setting.carrier_frequency,
        speed=setting.speed,
        rx_array=Panel(1, setting.num_rx_ant // 2, polarization="cross"),
        tx_array=ULA(1) if num_streams == 1 else Panel(1, 1, polarization="cross"),
    )


class Link:
    """One link: its channel, its frame, and Sionna's transmitter and receiver blocks around the channel estimator."""

    def __init__(self, name: str, setting: Setting) -> None:
        kind, self.num_streams, self.snr_db = LINKS[name]
        self.name, self.setting = name, setting
        grid = OFDMGrid(14, setting.num_subcarriers, setting.subcarrier_spacing)
        step = setting.pilot_step // self.num_streams  # streams take turns on the comb
        self.pilots = OFDMPilots(grid, setting.pilot_symbols, step, num_tx_ant=self.num_streams)
        self.resource_grid = resource_grid_of(self.pilots)
        self.truth = channel_model(kind, self.num_streams, setting)
        self.source = self.truth if setting.channel == "wichan" else channel_model(kind, self.num_streams, setting, "sionna")
        self.covariance = self.truth.covariance(grid, normalize="ensemble")
        self._scale = self.truth.mean_power() ** -0.5  # elements that are crossed to the wave receive less
        bits = setting.num_bits_per_symbol
        self.n = int(self.resource_grid.num_data_symbols) * bits
        self.k = int(self.n * setting.coderate)
        self.encoder = LDPC5GEncoder(self.k, self.n, num_bits_per_symbol=bits)
        self.decoder = StoppingDecoder(self.encoder, setting.num_iter)
        self._source, self._mapper = BinarySource(), Mapper("qam", bits)
        self._to_grid, self._channel = ResourceGridMapper(self.resource_grid), ApplyOFDMChannel()
        self._demapper = Demapper("app", "qam", bits)

    @cached_property
    def equalizer(self) -> LMMSEEqualizer:
        """Sionna's LMMSE equaliser: all streams belong to the one receiver."""
        return LMMSEEqualizer(self.resource_grid, StreamManagement(np.ones([1, 1]), self.num_streams))

    def frames(self, snr_db: float, chunk: int) -> Frames:
        """Draw a chunk of frames; link, SNR, chunk and seed determine every bit, fade and noise sample of it."""
        size, no = self.setting.frames_per_chunk, no_of(snr_db)
        seed = derive_seed(self.setting.seed, self.name, repr(snr_db), chunk)
        h = self.source.frequency_response(self.pilots.grid, size, generator=make_generator(seed, "channel"))
        h = (h * self._scale)[:, None, :, None]  # one receiver, one transmitter
        with isolated_rng(seed):  # Sionna draws bits and noise from generators of its own
            bits = self._source([size, 1, self.num_streams, self.k])
            sent = self._to_grid(self._mapper(self.encoder(bits)))
            y = self._channel(sent, h, torch.tensor(no))
        return Frames(bits, h, y, no)

    def bit_errors(self, frames: Frames, h_hat: torch.Tensor, err_var: torch.Tensor) -> torch.Tensor:
        """Equalise, demap and decode; wrong information bits of every block, int64 (batch_size, num_streams)."""
        x_hat, no_eff = self.equalizer(frames.y, h_hat, err_var, torch.tensor(frames.no))
        decoded = self.decoder(self._demapper(x_hat, no_eff))
        return (decoded != frames.bits).sum(dim=-1)[:, 0]


def no_of(snr_db: float) -> float:
    """Noise variance; the SNR is that of one stream at one receive antenna, where signals and channels have power 1."""
    return 10 ** (-snr_db / 10)
