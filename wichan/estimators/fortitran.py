"""FortiTran: convolutions and a transformer encoder on patches of the grid."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from wichan.errors import check_choice, check_int, check_real
from wichan.estimators.learned import LearnedEstimator, both_parts
from wichan.estimators.warm_start import best_linear
from wichan.nn.convolution import ConvEnhancer
from wichan.nn.encoder import EncoderLayer, sinusoidal_positions
from wichan.nn.patches import check_patches, from_patches, to_patches
from wichan.observations.ofdm import OFDMPilots

_CACHED_NUMBERS = 150_000  # of tokens at once on a CPU: what a layer makes of them is still in the cache for the next one


class FortiTranNetwork(nn.Module):
    """Pilots to the grid, real numbers only; rows are subcarriers, columns symbols.

    Args:
        num_pilots: length of the pilot vector.
        grid: (num_subcarriers, num_ofdm_symbols).
        patch: size of a patch, (subcarriers, symbols); it must divide the grid.
        width, layers, heads, dropout: of the encoder; its feed-forward networks are twice as wide.
        positions: ``"learned"`` or ``"sinusoidal"``.
        max_tokens: rows of the table of learned positions, at least as many as there are patches.
        extra: features that `forward` is given for every patch.
    """

    def __init__(
        self,
        num_pilots: int,
        grid: tuple[int, int],
        patch: tuple[int, int],
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        positions: str,
        max_tokens: int,
        extra: int = 0,
    ) -> None:
        super().__init__()
        self.grid, self.patch = grid, patch
        self.num_tokens = check_patches(grid, patch)
        length = patch[0] * patch[1]
        self.upsampler = nn.Linear(num_pilots, grid[0] * grid[1])
        self.first_enhancer = ConvEnhancer()
        if extra:
            self.adapter = ChannelAdapter(self.num_tokens, extra)
        self.embedding = nn.Linear(length + extra, width)
        count = max(max_tokens, self.num_tokens)
        if positions == "learned":
            self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, count, width), std=0.02))
        else:
            self.register_buffer("positions", sinusoidal_positions(count, width), persistent=False)
        self.encoder = nn.ModuleList(EncoderLayer(width, heads, 2 * width, dropout) for _ in range(layers))
        self.projection = nn.Linear(width, length)
        self.second_enhancer = ConvEnhancer()

    def forward(self, pilots: torch.Tensor, conditions: torch.Tensor | None = None) -> torch.Tensor:
        """(n, num_pilots) and perhaps (n, 3) to (n, num_subcarriers, num_ofdm_symbols)."""
        coarse = self.first_enhancer(self.upsampler(pilots).unflatten(-1, self.grid))
        tokens = to_patches(coarse, self.patch)
        if conditions is not None:
            tokens = torch.cat([tokens, self.adapter(conditions)], dim=-1)
        tokens = self.embedding(tokens) + self.positions[:, : self.num_tokens]
        for layer in self.encoder:
            tokens = layer(tokens)
        return self.second_enhancer(coarse + from_patches(self.projection(tokens), self.grid, self.patch))


class ChannelAdapter(nn.Module):
    """Turns each condition into two features of every patch, by a network of its own."""

    def __init__(self, num_tokens: int, extra: int, hidden: tuple[int, int] = (7, 42)) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        first, second = hidden
        for name in ("snr_db", "delay_spread", "max_doppler"):
            layers = [nn.Linear(1, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU()]
            self.add_module(name, nn.Sequential(*layers, nn.Linear(second, extra // 3 * num_tokens)))

    def forward(self, conditions: torch.Tensor) -> torch.Tensor:
        """(n, 3) to (n, num_tokens, 6)."""
        parts = [
            network(value[:, None]).unflatten(-1, (self.num_tokens, -1))
            for network, value in zip(self.children(), conditions.unbind(-1), strict=True)
        ]
        return torch.cat(parts, dim=-1)


class FortiTran(LearnedEstimator):
    r"""Transformer channel estimator that is told nothing but pilots.

    Pilots are spread to the grid by a linear layer, smoothed by convolutions, cut into patches of 3 subcarriers x 2 symbols
    that attend to each other, and the sum of both is smoothed again. Real and imaginary parts go through the same real
    network, here stacked along the batch in one pass (published: two passes; the answer is the same).

    Args:
        obs: the pilots.
        patch: (subcarriers, symbols) of a patch; it must divide the grid.
        width: features of a token. layers: encoder layers. heads: attention heads.
        dropout: in training.
        positions: ``"learned"`` or ``"sinusoidal"``.
        max_tokens: rows of the table of learned positions (512 as published; more if there are more patches).
        **options: see `LearnedEstimator`.

    Raises:
        InvalidValueError: a grid that the patch does not divide, a width that the heads do not divide.

    Cost: 120 M multiply-adds a frame for 80 pilots on 14 x 120, width 32.

    Source: B. Guler, H. Jafarkhani, "AdaFortiTran: An Adaptive Transformer Model for Robust OFDM Channel Estimation",
    ICC 2025 [Guler2025]_; layers as in the authors' code.
    """

    network: FortiTranNetwork
    kind = "fortitran"
    presets = {
        "paper": {"scale_input": False, "condition_ranges": None, "dropout": 0.1},
        "paper-large": {
            "scale_input": False,
            "condition_ranges": None,
            "dropout": 0.1,
            "width": 128,
            "pilots": {"symbols": (2, 11), "subcarrier_step": 10},
        },
        "default": {"pilots": {"symbols": (2, 5, 8, 11), "subcarrier_step": 3}},
    }

    def __init__(
        self,
        obs: OFDMPilots,
        *,
        patch: tuple[int, int] = (3, 2),
        width: int = 32,
        layers: int = 6,
        heads: int = 4,
        dropout: float = 0.0,
        positions: str = "learned",
        max_tokens: int = 512,
        **options: Any,
    ) -> None:
        self.hyper: dict[str, Any] = {
            "patch": [check_int("patch", size, minimum=1) for size in patch],
            "width": check_int("width", width, minimum=1),
            "layers": check_int("layers", layers, minimum=0),
            "heads": check_int("heads", heads, minimum=1),
            "dropout": check_real("dropout", dropout, minimum=0.0, maximum=0.9),
            "positions": check_choice("positions", positions, ("learned", "sinusoidal")),
            "max_tokens": check_int("max_tokens", max_tokens, minimum=0),
        }
        super().__init__(obs, **options)

    def _build(self) -> nn.Module:
        symbols, subcarriers = self.obs.grid.shape
        hyper = self.hyper | {"patch": tuple(self.hyper["patch"])}
        return FortiTranNetwork(self.obs.num_pilots, (subcarriers, symbols), extra=2 * len(self.wanted), **hyper)

    def _config(self) -> dict[str, Any]:
        return dict(self.hyper)

    def _mean(self, pilots: torch.Tensor, conditions: torch.Tensor | None) -> torch.Tensor:
        inputs = [pilots] if conditions is None else [pilots, conditions]
        if torch.compiler.is_compiling() or pilots.device.type != "cpu" or not len(pilots):
            return both_parts(self.network, *inputs)
        count = max(1, _CACHED_NUMBERS // (self.network.num_tokens * self.hyper["width"]))
        pieces = zip(*(part.split(count) for part in inputs), strict=True)
        return torch.cat([both_parts(self.network, *piece) for piece in pieces])

    @torch.no_grad()
    def warm_start(self, batches: Iterable[Any]) -> bool:
        """Start as the best linear estimator: its matrix for the upsampler, convolutions that pass through, no correction.

        Training then begins where the linear estimator ends, which saves most of the steps; the layers are the published
        ones.
        """
        network = self.network
        network.upsampler.weight.copy_(best_linear(self, batches))
        network.upsampler.bias.zero_()
        network.first_enhancer.start_as_identity()
        network.second_enhancer.start_as_identity()
        network.projection.weight.zero_()
        network.projection.bias.zero_()
        return True

    @classmethod
    def from_official_checkpoint(cls, path: str | Path, obs: OFDMPilots | None = None, **options: Any) -> Self:
        """Read a checkpoint of the authors' code without executing anything in it.

        Args:
            path: the file; a dict with ``model_state_dict``. Other objects in it are never built.
            obs: pilots that it was trained for; default the published grid with as many pilots as the file asks for.
            **options: hyper-parameters that the weights do not show (``dropout``, ``heads``).

        Raises:
            StoreError, InvalidValueError: no such file, a truncated one, names or shapes that do not fit.
        """
        from wichan.estimators.official import load_official

        return load_official(cls, path, obs, **options)
