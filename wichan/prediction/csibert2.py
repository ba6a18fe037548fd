"""CSI-BERT2 as a predictor: the future is the masked end of a window."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from wichan.errors import InvalidValueError, check_choice, check_generator, check_int, check_real, check_tensor
from wichan.prediction.csibert2_network import CSIBERT2Network
from wichan.prediction.learned import LearnedPredictor, from_bands, interleaved, into_bands, root_mean_square

MASK_RATIO = (0.15, 0.40)  # of a window, in training
_STEADIEST = 0.03  # least spread of a feature, as a share of the root mean square of its antenna pair


class CSIBERT2Predictor(LearnedPredictor):
    r"""Masked-packet modelling: a window of history and future, whose last steps are masked and read off the network.

    A window is one antenna pair. It is standardised with statistics of the received steps only, masked steps are replaced by
    draws of N(0, 1), the network answers for all steps, and the last ones, de-standardised, are the prediction. At a call the
    draws are fixed ones (the buffer ``fill``), so that the same history gives the same prediction.

    Args:
        width, layers, heads, feed_forward, dropout, reweighting, temporal_mlp: of the network, see `CSIBERT2Backbone`.
        head_hidden: width inside the token head.
        statistics: ``"feature"``: mean and standard deviation of each feature over time, as published; ``"window"``: no mean
            and one root mean square for all features, which also fits a band that was never seen; None: the first in TDD, the
            second in FDD.
        band: subcarriers of a window, a divisor of num_subcarriers; None: all. Narrow windows share what they learn, but see
            no delays.
        residual: the network gives the change since the last step that is not masked. ``False``: the step itself, as published.
        masked: train by `training_loss`; ``False``: on `forward`, like any other predictor.
        compat: draw lengths of masks like the authors' code (see `mask_lengths`).
        **options: see `LearnedPredictor`.

    Presets: ``paper`` (the published sizes), ``small`` (two layers on bands of 30 subcarriers, residual) and ``small-fdd``
    (three layers on all subcarriers) for CSI-RRG on a CPU, ``tiny`` (for tests).

    The published use, windows of 100 amplitudes of 52 subcarriers, is that of `CSIBERT2Network`, which takes any real
    windows; this class is for complex CSI, whose parts it interleaves.

    Raises:
        InvalidTypeError, InvalidValueError, UnknownNameError: see `LearnedPredictor`.

    Source: [CSIBERT2]_; complex CSI, statistics of a window and fixed draws are ours.
    """

    network: CSIBERT2Network
    fill: torch.Tensor
    kind = "csibert2"
    presets = {
        "paper": {},
        "small": {"width": 64, "layers": 2, "heads": 4, "feed_forward": 128, "dropout": 0.0, "band": 30, "residual": True},
        "small-fdd": {"layers": 3, "feed_forward": 256, "dropout": 0.0, "head_hidden": 128, "duplex": "fdd"},
        "tiny": {"width": 16, "layers": 1, "heads": 2, "feed_forward": 32, "dropout": 0.0, "head_hidden": 16},
    }

    def __init__(
        self,
        *,
        width: int = 128,
        layers: int = 6,
        heads: int = 8,
        feed_forward: int = 512,
        dropout: float = 0.1,
        reweighting: bool = True,
        temporal_mlp: bool = True,
        head_hidden: int = 64,
        statistics: str | None = None,
        band: int | None = None,
        residual: bool = False,
        masked: bool = True,
        compat: bool = False,
        **options: Any,
    ) -> None:
        sizes = {"width": width, "layers": layers, "heads": heads, "feed_forward": feed_forward, "head_hidden": head_hidden}
        self.sizes: dict[str, Any] = {name: check_int(name, value, minimum=1) for name, value in sizes.items()}
        self.sizes |= {"dropout": check_real("dropout", dropout, minimum=0.0, maximum=0.9)}
        self.sizes |= {"reweighting": bool(reweighting), "temporal_mlp": bool(temporal_mlp)}
        self.residual, self.masked, self.compat = bool(residual), bool(masked), bool(compat)
        self.band = None if band is None else check_int("band", band, minimum=1)
        default = "window" if options.get("duplex") == "fdd" else "feature"
        self.statistics = check_choice("statistics", default if statistics is None else statistics, ("feature", "window"))
        super().__init__(**options)
        draws = torch.randn(self.num_horizon, 2 * self._width, generator=torch.Generator().manual_seed(0))
        self.register_buffer("fill", draws)

    @property
    def _width(self) -> int:
        """Subcarriers of a window."""
        return self.num_subcarriers if self.band is None else self.band

    def _build(self) -> nn.Module:
        if self.num_subcarriers % self._width:
            raise InvalidValueError(f"band={self.band} does not divide num_subcarriers={self.num_subcarriers}")
        return CSIBERT2Network(2 * self._width, self.num_history + self.num_horizon, **self.sizes)

    def _config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("statistics", "band", "residual", "masked", "compat")}
        return self.sizes | own

    def _mean(self, x: torch.Tensor) -> torch.Tensor:
        history = into_bands(x.flatten(0, 1), self._width)
        center, spread = self._moments(history, torch.ones_like(history[:, :, :1]))
        seen, ahead = (history - center) / spread, self.fill.expand(len(history), -1, -1)
        answer = self.network(torch.cat([seen, ahead], dim=1))[:, self.num_history :]
        if self.residual:
            answer = answer + seen[:, -1:]
        return from_bands(answer * spread + center, self.num_subcarriers // self._width).unflatten(0, x.shape[:2])

    def _moments(self, window: torch.Tensor, received: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and spread of windows (n, length, features) over the steps that are received, (n, length, 1)."""
        count = received.sum(1, keepdim=True)
        power = (window.square() * received).sum(1, keepdim=True) / count
        tiny = torch.finfo(window.dtype).tiny ** 0.5  # an antenna pair without power: nothing is divided by zero
        level = power.mean(-1, keepdim=True).sqrt().clamp_min(tiny)
        if self.statistics == "window":
            return torch.zeros_like(level), level
        center = (window * received).sum(1, keepdim=True) / count
        variance = ((window - center).square() * received).sum(1, keepdim=True) / count
        return center, torch.maximum(variance.clamp_min(tiny * tiny).sqrt(), _STEADIEST * level)

    def training_loss(self, history: torch.Tensor, future: torch.Tensor, generator: torch.Generator) -> torch.Tensor | None:
        r"""NMSE of the masked end of windows, whose length is drawn anew for each (`mask_lengths`).

        In FDD at least the whole future is masked: the downlink is never shown.

        Args:
            history, future, generator: see `LearnedPredictor.training_loss`.

        Returns:
            scalar: mean over windows and masked steps of the error's power relative to the power of the antenna pair; None
            if ``masked`` is off.
        """
        if not self.masked:
            return None
        check_generator("generator", generator)
        check_tensor("future", future, kind="complex")
        past = interleaved(history.reshape(-1, history.shape[-4] * history.shape[-3], *history.shape[-2:]))
        level = root_mean_square(past)
        ahead = interleaved(future.reshape(*past.shape[:2], *future.shape[-2:]))
        whole = torch.cat([self._scaled(past, level), self._scaled(ahead, level)], dim=2).flatten(0, 1)
        power = whole.square().mean((1, 2)).clamp_min(torch.finfo(whole.dtype).tiny)
        windows = into_bands(whole, self._width)
        masked = self._masks(windows, generator)
        center, spread = self._moments(windows, (~masked).to(windows.dtype))
        draws = torch.randn(windows.shape, generator=generator, dtype=windows.dtype, device=windows.device)
        standard = (windows - center) / spread
        answer = self.network(torch.where(masked, draws, standard))
        if self.residual:
            last = (~masked).sum(1, keepdim=True) - 1
            answer = answer + standard.gather(1, last.expand(-1, 1, windows.shape[-1]))
        answer = answer * spread + center
        error = ((answer - windows).square() * masked).mean(-1).sum(-1) / masked.sum((1, 2))
        return (error.unflatten(0, (len(power), -1)) / power[:, None]).mean()

    def _masks(self, windows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Which steps of each window are masked, bool (n, length, 1); at least one is left."""
        count, length = windows.shape[:2]
        lengths = mask_lengths(count, length, generator=generator, compat=self.compat)
        if self.duplex == "fdd":
            lengths = lengths.clamp_min(self.num_horizon)
        lengths = lengths.clamp_max(length - 1)[:, None, None]
        return torch.arange(length, device=windows.device)[:, None] >= length - lengths


def mask_lengths(
    count: int,
    length: int,
    ratio: tuple[float, float] = MASK_RATIO,
    *,
    generator: torch.Generator,
    compat: bool = False,
) -> torch.Tensor:
    """How many steps at the end of each window are masked.

    Args:
        count: windows. length: steps of a window.
        ratio: (lowest, highest) share of a window; drawn uniformly for each window, as intended by the paper.
        generator: source of the draws; the result lies on its device.
        compat: as the authors' code does it: as many steps as the largest draw of the batch are picked for every window, with
            replacement, and what is picked twice counts once.

    Returns:
        int64, (count,), each at least 1.

    Raises:
        InvalidValueError: a ratio that is not 0 < lowest <= highest < 1.
    """
    low, high = ratio
    if not 0 < low <= high < 1:
        raise InvalidValueError(f"ratio={ratio} must be two shares between 0 and 1, the lower first")
    device = generator.device
    drawn = low + (high - low) * torch.rand(count, generator=generator, device=device)
    lengths = (drawn * length).round().long().clamp_min(1)
    if not compat:
        return lengths
    picked = torch.randint(length, (count, int(lengths.max())), generator=generator, device=device)
    return torch.zeros(count, length, dtype=torch.int64, device=device).scatter_(1, picked, 1).sum(1)
