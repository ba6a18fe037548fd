"""CeViT: a vision transformer on the interpolated least-squares estimate."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from wichan.errors import check_int, check_real
from wichan.estimators.learned import LearnedEstimator
from wichan.estimators.ls import LS
from wichan.nn.encoder import EncoderLayer
from wichan.nn.patches import check_patches, from_patches, to_patches
from wichan.observations.ofdm import OFDMPilots


class CeViTNetwork(nn.Module):
    """Real and imaginary part of a grid side by side in, the same out."""

    def __init__(
        self, grid: tuple[int, int], patch: tuple[int, int], width: int, layers: int, heads: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.grid, self.patch = grid, patch
        self.num_tokens, length = check_patches(grid, patch), patch[0] * patch[1]
        self.adapters = nn.ModuleList(nn.Linear(1, 2 * self.num_tokens) for _ in range(3))
        self.embedding = nn.Linear(length + 6, width)
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, self.num_tokens, width), std=0.02))
        self.encoder = nn.ModuleList(EncoderLayer(width, heads, hidden, dropout, norm="pre") for _ in range(layers))
        self.projection = nn.Linear(width, length)

    def forward(self, image: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        """(n, rows, columns) and (n, 3) to (n, rows, columns)."""
        features = [
            adapter(value[:, None]).unflatten(-1, (self.num_tokens, 2))
            for adapter, value in zip(self.adapters, conditions.unbind(-1), strict=True)
        ]
        tokens = self.embedding(torch.cat([to_patches(image, self.patch), *features], dim=-1)) + self.positions
        for layer in self.encoder:
            tokens = layer(tokens)
        return from_patches(self.projection(tokens), self.grid, self.patch)


class CeViT(LearnedEstimator):
    r"""Vision transformer channel estimator, told SNR, delay spread and Doppler.

    The pilots are interpolated linearly in frequency and time; real and imaginary part stand side by side as one image of
    num_subcarriers x (2 num_ofdm_symbols), cut into patches of 10 x 4, with six features of the conditions for each patch.

    Args:
        obs: the pilots.
        patch: (rows, columns) of a patch; it must divide the image.
        width, layers, heads, hidden, dropout: of the pre-norm encoder.
        **options: see `LearnedEstimator`.

    Raises:
        InvalidValueError: a patch that does not divide the image.

    Cost: 27 M multiply-adds a frame on 14 x 120. Source: layers of the public re-implementation named in [Guler2025]_'s
    companion code (155,416 parameters); the original has no code that we know of.
    """

    kind = "cevit"
    wanted = ("snr_db", "delay_spread", "max_doppler")
    presets = {
        "paper": {"scale_input": False, "condition_ranges": None},
        "default": {"pilots": {"symbols": (2, 5, 8, 11), "subcarrier_step": 3}},
    }

    def __init__(
        self,
        obs: OFDMPilots,
        *,
        patch: tuple[int, int] = (10, 4),
        width: int = 128,
        layers: int = 1,
        heads: int = 4,
        hidden: int = 256,
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        self.hyper: dict[str, Any] = {
            "patch": [check_int("patch", size, minimum=1) for size in patch],
            "width": check_int("width", width, minimum=1),
            "layers": check_int("layers", layers, minimum=0),
            "heads": check_int("heads", heads, minimum=1),
            "hidden": check_int("hidden", hidden, minimum=1),
            "dropout": check_real("dropout", dropout, minimum=0.0, maximum=0.9),
        }
        super().__init__(obs, **options)
        self.register_buffer("interpolation", self._interpolation(), persistent=False)

    interpolation: torch.Tensor

    def _interpolation(self) -> torch.Tensor:
        """Least squares with linear interpolation as a matrix, float64 (num_pilots, num_subcarriers * num_ofdm_symbols)."""
        obs = self.obs
        unit = torch.zeros(obs.num_pilots, obs.grid.num_resource_elements, dtype=torch.complex128, device=obs.pilots.device)
        unit[torch.arange(obs.num_pilots, device=unit.device), self.pilot_order] = (
            obs.pilots.detach().flatten()[self.pilot_order].to(unit)
        )
        h_hat, _ = LS(obs, interpolation="linear")(unit.unflatten(-1, obs.grid.shape)[:, None], 0.0)
        return h_hat[:, 0, 0].real.transpose(-1, -2).flatten(-2).contiguous()

    def _build(self) -> nn.Module:
        symbols, subcarriers = self.obs.grid.shape
        return CeViTNetwork((subcarriers, 2 * symbols), **(self.hyper | {"patch": tuple(self.hyper["patch"])}))

    def _config(self) -> dict[str, Any]:
        return dict(self.hyper)

    def _mean(self, pilots: torch.Tensor, conditions: torch.Tensor | None) -> torch.Tensor:
        symbols, subcarriers = self.obs.grid.shape
        parts = torch.view_as_real(pilots).movedim(-1, 1)
        with torch.autocast(parts.device.type, enabled=False):  # half precision would add an error of its own to every input
            dense = (parts @ self.interpolation.to(parts.dtype)).unflatten(-1, (subcarriers, symbols))
        image = self.network(dense.movedim(1, 2).flatten(2), conditions).to(parts.dtype)
        return torch.complex(*(part.contiguous() for part in image.split(symbols, dim=-1)))
