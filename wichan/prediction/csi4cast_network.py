"""The network of CSI-4CAST: denoiser, standardisation, delay and frequency branch, token embedding, transformer, head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from wichan.nn.encoder import EncoderLayer, sinusoidal_positions
from wichan.prediction.csi4cast_arl import SubcarrierARL, TemporalARL
from wichan.prediction.csi4cast_denoiser import ConvDenoiser
from wichan.prediction.csi4cast_shuffle import ShuffleStack

_FLOOR = 1e-6  # of the standard deviation, as published


@dataclass(frozen=True)
class CSI4CASTSettings:
    """Hyper-parameters; the defaults are the published TDD network without its quirks.

    Attributes:
        design: ``"direct"``: as published, the network answers with the future. ``"weights"``: it answers with weights of the
            snapshots (`wichan.prediction.csi4cast_weights.WeightNetwork`), which of the following only has ``taps``,
            ``order``, ``maps``, ``fine``, ``offset`` (the last two for FDD only) and those of the predictor.
        taps, order, maps, fine, offset: see there; the offset [bins] is that of the downlink in the recipe ``csi-rrg``.
        skip: add a linear mix of the denoised snapshots to the answer, so that training starts from a mean of the last
            ones instead of from nothing (published: no).
        denoiser: maps between both ends of `ConvDenoiser`; empty: none.
        rectified: see `ConvDenoiser` (published: yes).
        standardise: over what one mean and one standard deviation are taken: ``"sample"`` (all antennas of one) or
            ``"batch"`` (published), which makes an answer depend on the others in its batch.
        arl: ``"mlp"``, ``"norm"`` (only the normalisation) or ``"none"``.
        temporal_hidden, temporal_depth: hidden layers of `TemporalARL`.
        subcarrier_hidden, subcarrier_depth: hidden layers of `SubcarrierARL`; width 0: absent.
        delay_operation: ``"add"`` or ``"multiply"`` (published) in the delay branch's `SubcarrierARL`.
        delay_transform: inverse DFT over the subcarriers in front of the delay branch.
        features: ``"shuffle"``, ``"mobile"`` (blocks of `ShuffleStack`) or ``"mlp"`` (a perceptron over the features).
        channels, groups, blocks, attention: of `ShuffleStack`.
        width: features of a token.
        predictor: ``"transformer"``, ``"lstm"`` or ``"mlp"``.
        layers, heads, hidden: of the predictor; hidden is the width of feed-forward networks.
        dropout: of the predictor. front_dropout: of everything before it.
        time_stamp: create the projection of time stamps that nothing uses (published).
    """

    design: str = "direct"
    taps: int = 64
    order: int = 8
    maps: int = 16
    fine: int = 8
    offset: int = 450
    skip: bool = False
    denoiser: tuple[int, ...] = (4, 8, 4)
    rectified: bool = False
    standardise: str = "sample"
    arl: str = "mlp"
    temporal_hidden: int = 512
    temporal_depth: int = 3
    subcarrier_hidden: int = 0
    subcarrier_depth: int = 2
    delay_operation: str = "add"
    delay_transform: bool = True
    features: str = "shuffle"
    channels: int = 64
    groups: int = 4
    blocks: int = 4
    attention: str = "average"
    width: int = 768
    predictor: str = "transformer"
    layers: int = 6
    heads: int = 8
    hidden: int = 512
    dropout: float = 0.1
    front_dropout: float = 0.1
    time_stamp: bool = False


class CSI4CASTNetwork(nn.Module):
    """Past to future of single antennas, real numbers only, real and imaginary parts interleaved in the last axis.

    Args:
        settings: hyper-parameters.
        num_subcarriers: complex features of a snapshot.
        num_history: snapshots seen.
        num_horizon: snapshots predicted.

    Cost: 71 GFLOP for 32 sequences as published for TDD, 99 for FDD; 41 and 55 of them in the adaptive layers.
    """

    def __init__(
        self, settings: CSI4CASTSettings, num_subcarriers: int = 300, num_history: int = 16, num_horizon: int = 4
    ) -> None:
        super().__init__()
        self.settings = settings
        size = 2 * num_subcarriers
        self.denoiser = ConvDenoiser(settings.denoiser, settings.rectified)
        self.frequency = Branch(settings, size, num_history, "add")
        self.delay = Branch(settings, size, num_history, settings.delay_operation)
        self.embedding = TokenEmbedding(size, settings.width, num_history, settings.front_dropout)
        if settings.time_stamp:
            self.time_stamp = nn.Linear(4, settings.width, bias=False)
        self.predictor = build_predictor(settings)
        self.to_features = nn.Linear(settings.width, size)
        self.to_future = nn.Linear(num_history, num_horizon)
        if settings.skip:
            self.skip = nn.Linear(num_history, num_horizon, bias=False)
            nn.init.zeros_(self.skip.weight)
            nn.init.constant_(self.skip.weight[:, -4:].detach(), 0.6 / min(4, num_history))

    def forward(self, x: torch.Tensor, group: int | None = None) -> torch.Tensor:
        """Predict.

        Args:
            x: (sequences, num_history, 2 num_subcarriers), the antennas of a sample one after the other.
            group: antennas of a sample, which share a standardisation; None, or ``standardise="batch"``: all sequences do.

        Returns:
            (sequences, num_horizon, 2 num_subcarriers).
        """
        x = self.denoiser(x)
        if self.settings.standardise == "batch" or group is None:
            group = max(1, len(x))
        parts = x.reshape(len(x) // group, -1)
        mean = parts.mean(1).repeat_interleave(group)[:, None, None]
        spread = parts.std(1, correction=0).clamp_min(_FLOOR).repeat_interleave(group)[:, None, None]
        x = (x - mean) / spread
        delays = to_delay(x) if self.settings.delay_transform else x
        tokens = self.embedding(self.delay(delays) + self.frequency(x))
        future = self.to_future(self.to_features(self.predictor(tokens)).mT).mT
        if self.settings.skip:
            future = future + self.skip(x.mT).mT
        return future * spread + mean


class Branch(nn.Module):
    """Adaptive layers and features of one branch."""

    def __init__(self, settings: CSI4CASTSettings, size: int, num_history: int, operation: str) -> None:
        super().__init__()
        s = settings
        self.temporal: nn.Module = nn.Identity()
        self.subcarrier: nn.Module = nn.Identity()
        if s.arl != "none":
            hidden = s.temporal_hidden if s.arl == "mlp" else 0
            self.temporal = TemporalARL(num_history, hidden, s.temporal_depth, s.front_dropout)
        if s.arl == "mlp" and s.subcarrier_hidden:
            self.subcarrier = SubcarrierARL(size, s.subcarrier_hidden, s.subcarrier_depth, s.front_dropout, operation)
        if s.features == "mlp":
            self.features: nn.Module = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size))
        else:
            self.features = ShuffleStack(s.channels, s.groups, s.blocks, s.attention, s.features == "shuffle")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(sequences, num_history, features) to the same."""
        return self.features(self.subcarrier(self.temporal(x)))


class TokenEmbedding(nn.Module):
    """Snapshots to tokens: a convolution over three snapshots, cyclic in time, positions, and a linear layer over time."""

    positions: torch.Tensor

    def __init__(self, size: int, width: int, num_history: int, dropout: float) -> None:
        super().__init__()
        self.value = nn.Conv1d(size, width, 3, padding=1, padding_mode="circular")
        nn.init.kaiming_normal_(self.value.weight, mode="fan_in", nonlinearity="leaky_relu")
        self.register_buffer("positions", sinusoidal_positions(num_history, width), persistent=False)
        self.dropout = nn.Dropout(dropout)
        self.over_time = nn.Linear(num_history, num_history)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(sequences, num_history, size) to (sequences, num_history, width)."""
        tokens = self.dropout(self.value(x.mT).mT + self.positions)
        return self.over_time(tokens.mT).mT


class Recurrent(nn.Module):
    """LSTM in the place of the transformer."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(sequences, num_history, width) to the same."""
        return self.lstm(tokens)[0]


def build_predictor(settings: CSI4CASTSettings) -> nn.Module:
    """What turns tokens into tokens: transformer encoder (after-normalised, ReLU), LSTM, or a perceptron a token."""
    s = settings
    if s.predictor == "lstm":
        return Recurrent(s.width, s.layers)
    if s.predictor == "mlp":
        steps = [nn.Sequential(nn.Linear(s.width, s.hidden), nn.ReLU(), nn.Linear(s.hidden, s.width)) for _ in range(s.layers)]
        return nn.Sequential(*steps)
    return nn.Sequential(*(EncoderLayer(s.width, s.heads, s.hidden, s.dropout, activation="relu") for _ in range(s.layers)))


def to_delay(x: torch.Tensor) -> torch.Tensor:
    """Inverse DFT over the subcarriers, (..., 2 num_subcarriers) to (..., 2 num_taps), parts interleaved."""
    taps = torch.fft.ifft(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()), dim=-1)
    return torch.view_as_real(taps).flatten(-2)
