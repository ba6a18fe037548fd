"""The task of latent priors: from quantised pilots to a latent point, to a covariance, to a channel."""

from __future__ import annotations

from typing import Any

import torch

from wichan.errors import InvalidValueError
from wichan.estimators.bussgang_vae import BussgangVAE
from wichan.priors.vae import VAE
from wichan.training.config import TrainConfig
from wichan.training.data import Frames
from wichan.training.measures import estimate_summary, estimate_sums
from wichan.training.module import Task
from wichan.training.prior_losses import PriorLoss


class PriorTraining(Task):
    """Trains a VAE on columns ``y``, ``no`` and the target; its estimate from ``y`` is validated.

    From a data set on disk noise and quantisation are drawn anew in every pass (but for ``variant="real"``, which must do with
    the observations that there are); a stream gives new ones anyway.

    Args:
        network: a `VAE`.
        config: the run.
        max_steps: see `Task`.
    """

    def __init__(self, network: VAE, config: TrainConfig, max_steps: int | None = None) -> None:
        super().__init__(network, config, max_steps)
        if config.target != "h":
            raise InvalidValueError(f"target={config.target!r}: a vae learns the column h")
        self._loss = PriorLoss(config.loss, network)
        self.conditions = network.told
        self._redraw = config.data is not None and network.variant != "real"

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a batch must have."""
        return ("h", "y", "no")

    def loss(self, batch: Frames) -> torch.Tensor:
        """The loss of the configuration at one latent point, in single precision whatever the networks run in."""
        prior: Any = self.network
        # Seeded before every step, and put back after the run.
        generator = (
            torch.cuda.default_generators[self.device.index or 0] if self.device.type == "cuda" else torch.default_generator
        )
        if self._redraw:
            batch = batch | {"y": prior.obs.observe(batch["h"], batch["no"], generator=generator)}
        return self._value(prior, batch, generator)

    def _value(self, prior: VAE, batch: Frames, generator: torch.Generator) -> torch.Tensor:
        h, y, no = batch["h"], batch["y"], batch["no"].to(batch["y"].real.dtype)
        mean, log_std = prior.encode(y, no, h if prior.told else None)
        draw = {"generator": generator, "device": generator.device, "dtype": no.dtype}
        z = mean + log_std.exp() * torch.randn(mean.shape, **draw)  # type: ignore[call-overload]
        spectra = prior.decode(z)
        noise = torch.view_as_complex(torch.randn(*h.shape, 2, **draw)) / 2**0.5  # type: ignore[call-overload]
        with torch.autocast(self.device.type, enabled=False):
            return self._loss(prior, mean, log_std, spectra, {"h": h, "y": y, "no": no, "noise": noise})

    def measure(self, network: Any, batch: Frames) -> dict[str, torch.Tensor]:
        """Error, energy, decibels a frame, normalised error of the estimate; the loss at points drawn from a fixed seed."""
        conditions = {"h": batch["h"]} if network.told else {}
        estimate = BussgangVAE(network)(batch["y"], batch["no"], **conditions)
        loss = self._value(network, batch, torch.Generator(batch["y"].device).manual_seed(0))
        return estimate_sums(estimate, batch["h"], loss)

    def summary(self, sums: dict[str, float]) -> dict[str, float]:
        """``nmse_db``, ``score_db``, ``error_ratio``, ``loss``: see `wichan.training.measures`."""
        return estimate_summary(sums)

    def compile_network(self) -> None:
        """Compile encoder and decoder in place: names of the weights stay."""
        for name in ("encoder", "decoder"):
            self.network.get_submodule(name).compile()
