r"""Variational autoencoder: a latent point chooses a stationary covariance of the channel."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import nn

from wichan.errors import (
    InvalidTypeError,
    InvalidValueError,
    ShapeError,
    check_choice,
    check_finite,
    check_generator,
    check_int,
    check_noise,
    check_real,
    check_shape,
    check_tensor,
)
from wichan.observations.quantized import QuantizedPilots
from wichan.priors.spectral_grid import STRUCTURES, SpectralGrid
from wichan.priors.vae_networks import PilotView, SpectrumView, error_network, perceptron, residual_perceptron, tapered
from wichan.priors.vae_observation import describe_observation, rebuild_observation, undescribed_tensors

VARIANTS = ("noisy", "genie", "real")
ARCHITECTURES = ("paper", "residual")
_LARGEST = 1e6  # of a spectrum
_LOG_STD = (-8.0, 4.0)
_TOLD = (1e-4, 1e3)  # noise variances outside count as these


class VAE(nn.Module):
    r"""Conditionally Gaussian prior with a continuous latent point ([Fesl2024]).

    .. math:: z \sim \mathcal{N}(0, I_L),\qquad h \,|\, z \sim \mathcal{CN}(0, C_z),\qquad
        C_z = F^H \mathrm{diag}(\lambda)\, F,\qquad \lambda = e^{-o(z)}

    The decoder o gives log-precisions; the encoder gives mean and log standard deviation of z from a quantised observation, so
    both belong to one observation. Weights are random until `wichan.training.fit` has trained them
    (``TrainConfig.of("vae", ...)``, or ``wichan train vae``).

    Args:
        obs: pilots behind coarse converters; copied by reference.
        num_factors: L; default a quarter of the N channel entries.
        variant: what training sees: ``"noisy"``, r with h as the target; ``"genie"``, the encoder reads h itself (how good a
            latent point can be; useless as an estimator); ``"real"``, r alone.
        structure: ``"block-toeplitz"``, twice as many frequencies as entries and C_z the corner of a circulant matrix;
            ``"block-circulant"``, as published: filters are elementwise products of DFTs, but edges of the array are taken to
            be neighbours; ``"toeplitz"`` and ``"circulant"`` for one axis.
        architecture: ``"residual"``: the encoder sees log-powers of the oversampled DFT, which do not depend on the phase of r;
            encoder and decoder are residual perceptrons. ``"paper"``: the DFT's real and imaginary parts through four linear
            layers of tapering width each; needs A = x kron I.
        hidden, depth: width and number of residual blocks.
        told_noise: show log(no) to the encoder.
        floor: smallest value of a spectrum.
        fixed_power: divide every spectrum by its mean, so that a latent point says where power comes from and not how much
            there is. Always so for ``variant="real"`` behind one-bit converters, which do not show it.
        error_head: train a small network that tells the mean squared error of the estimate from the latent point and the
            noise. Filters that are trained for a small error may choose a power that makes them best and says little about
            their error. Without channels (``variant="real"``) there is nothing to train it on, and it is left out.
        free_bits: nats of a latent coordinate (mean over a batch) that training does not charge for; keeps coordinates in use.
        seed: of the initial weights.

    Attributes:
        grid: frequencies of the spectrum, `wichan.priors.spectral_grid.SpectralGrid`.
        told: what must be passed besides r and no: ``("h",)`` for the genie.

    Raises:
        InvalidTypeError, InvalidValueError, UnknownNameError: arguments that do not fit, in one line.

    Example:
        >>> from wichan.observations import QuantizedPilots, pilot_sequence
        >>> obs = QuantizedPilots.from_sequence(pilot_sequence(1), num_rx_ant=64)
        >>> VAE.preset("paper", obs).num_parameters
        35336
    """

    kind: ClassVar[str] = "vae"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {
            "structure": "block-circulant",
            "architecture": "paper",
            "told_noise": False,
            "floor": 1e-12,
            "error_head": False,
        },
    }

    def __init__(
        self,
        obs: QuantizedPilots,
        num_factors: int | None = None,
        *,
        variant: str = "noisy",
        structure: str = "block-toeplitz",
        architecture: str = "residual",
        hidden: int = 256,
        depth: int = 2,
        told_noise: bool = True,
        floor: float = 1e-6,
        fixed_power: bool = False,
        error_head: bool = True,
        free_bits: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(obs, QuantizedPilots):
            raise InvalidTypeError(f"obs must be QuantizedPilots, got {type(obs).__name__}")
        self.obs = obs
        self.shape: tuple[int, ...] = obs.channel_shape
        self.dim = math.prod(self.shape)
        default = max(1, self.dim // 4)
        self.num_factors = check_int("num_factors", default if num_factors is None else num_factors, minimum=1)
        self.variant = check_choice("variant", variant, VARIANTS)
        self.grid = SpectralGrid(self.shape, check_choice("structure", structure, STRUCTURES))
        self.architecture = check_choice("architecture", architecture, ARCHITECTURES)
        self.hidden, self.depth = check_int("hidden", hidden, minimum=1), check_int("depth", depth, minimum=0)
        for name, value in (("told_noise", told_noise), ("fixed_power", fixed_power), ("error_head", error_head)):
            if not isinstance(value, bool):
                raise InvalidTypeError(f"{name}={value!r} must be true or false")
        self.told_noise = told_noise
        self.fixed_power = fixed_power or (obs.num_bits == 1 and variant == "real")
        self.error_head = error_head and variant != "real"
        self.floor = check_real("floor", floor, positive=True, maximum=1.0)
        self.free_bits = check_real("free_bits", free_bits, minimum=0.0, maximum=1e3)
        self.told = ("h",) if variant == "genie" else ()
        with torch.random.fork_rng(devices=[]):  # layers draw from the global generator, which is put back
            torch.default_generator.manual_seed(check_int("seed", seed, minimum=0))
            self._build()
        self.to(obs.matrix().device)

    def _build(self) -> None:
        if self.architecture == "paper":
            self.view: PilotView | SpectrumView = PilotView(self.shape, 1 if self.told else self._num_pilots())
            self.decoder = perceptron(tapered(self.num_factors, self.grid.num_points))
        else:
            self.view = SpectrumView(self.shape)
            self.decoder = residual_perceptron(self.num_factors, self.hidden, self.depth, self.grid.num_points)
        seen = self.view.num_features + int(self.told_noise)
        if self.architecture == "paper":
            self.encoder = perceptron(tapered(seen, 2 * self.num_factors))
        else:
            self.encoder = residual_perceptron(seen, self.hidden, self.depth, 2 * self.num_factors)
        if self.error_head:
            self.error_network = error_network(self.num_factors + 1)

    def _num_pilots(self) -> int:
        """P of A = x kron I."""
        if self.obs.is_identity:
            return 1
        if self.obs.pilots is None or len(self.obs.pilots) != 1:
            raise InvalidValueError(
                "architecture='paper' reads one observation of every antenna for each pilot: it needs obs of "
                "QuantizedPilots.from_sequence with one transmit antenna; use 'residual'"
            )
        return int(self.obs.pilots.shape[1])

    # -- Building. --

    @classmethod
    def preset(cls, name: str, obs: QuantizedPilots, num_factors: int | None = None, **overrides: Any) -> Self:
        """Build with settings by name: ``"paper"`` or ``"default"``; see `wichan.training.TrainConfig` for the training's.

        Raises:
            UnknownNameError: another name.
        """
        return cls(obs, num_factors, **(dict(cls.presets[check_choice("preset", name, cls.presets)]) | overrides))

    def config(self) -> dict[str, Any]:
        """Hyper-parameters and a description of the observation, as JSON can hold them; `from_config` builds it again."""
        names = [name for name in inspect.signature(VAE).parameters if name not in ("obs", "seed", "structure")]
        found = {name: getattr(self, name) for name in names} | {"structure": self.grid.structure}
        return found | {"obs": describe_observation(self.obs)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], obs: QuantizedPilots | None = None) -> Self:
        """Build from what `config` gave.

        Args:
            config: hyper-parameters.
            obs: pilots and converters; default those that the config describes. A matrix that does not come from a pilot
                sequence is in ``state_dict`` and not in the config.

        Raises:
            InvalidValueError: a setting that a VAE does not have.
        """
        options = dict(config)
        described = options.pop("obs", None)
        if obs is None:
            if not isinstance(described, Mapping):
                raise InvalidValueError("config of vae does not say which observation it was made for (key obs)")
            obs = rebuild_observation(described)
        try:
            return cls(obs, **options)
        except TypeError as error:
            if isinstance(error, InvalidTypeError):
                raise
            raise InvalidValueError(f"config of vae does not fit: {error}") from None

    def state_dict(self, *args: Any, **options: Any) -> Any:
        """The weights; of the observation only what `config` does not say: a matrix that comes from no pilot sequence."""
        found = super().state_dict(*args, **options)
        start = f"{options.get('prefix', '')}obs."
        kept = {start + name for name in undescribed_tensors(self.obs)}
        for name in [name for name in found if name.startswith(start) and name not in kept]:
            del found[name]
        return found

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for name, value in self.obs.state_dict().items():
            state_dict.setdefault(f"{prefix}obs.{name}", value)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def num_parameters(self) -> int:
        """Real numbers in encoder and decoder."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.decoder.parameters()).dtype

    # -- Encoding and decoding. --

    def encode(self, r: torch.Tensor, no: Any, h: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Mean and log standard deviation of the latent point, each real (\*batch, L).

        Args:
            r: quantised observation, complex (\*batch, M).
            no: noise variance, a number or a tensor over the leading batch axes; outside 1e-4 ... 1e3 it counts as the end.
            h: channels, (\*batch, \*shape), which the genie reads instead of r.

        Returns:
            In the precision of r.

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: NaN, wrong shapes, a genie without h.
        """
        check_shape("r", check_tensor("r", r, kind="complex"), (self.obs.num_measurements,))
        batch = r.shape[:-1]
        noise = check_noise(no, batch, dtype=r.real.dtype, device=r.device).expand(batch).reshape(-1)
        if not self.told:
            seen = self._of_pilots(check_finite("r", r).reshape(-1, r.shape[-1]), noise)
        elif h is None:
            raise InvalidValueError("h is missing: a VAE with variant='genie' reads the channel itself")
        else:
            check_finite("h", check_shape("h", check_tensor("h", h, kind="complex"), self.shape))
            if h.shape != (*batch, *self.shape):
                raise ShapeError(f"h has shape {tuple(h.shape)}; for this r it must be {(*batch, *self.shape)}")
            seen = self._of_channels(h.to(r.dtype).reshape(-1, *self.shape))
        if self.told_noise:
            seen = torch.cat([seen, _told(noise)], dim=-1)
        mean, log_std = _in_precision(self.encoder, seen).reshape(*batch, -1).chunk(2, dim=-1)
        return mean, log_std.clamp(*_LOG_STD)

    def error_of(self, mean: torch.Tensor, no: torch.Tensor) -> torch.Tensor | None:
        """Mean squared error of an entry, real (T,), for latent points' means (T, L) and noise (T,); None without the head."""
        if not self.error_head:
            return None
        seen = torch.cat([mean.detach(), _told(no.to(mean.dtype))], dim=-1)
        return torch.exp(_in_precision(self.error_network, seen)[:, 0])

    def _of_channels(self, h: torch.Tensor) -> torch.Tensor:
        r"""Features of channels (T, \*shape)."""
        return _in_precision(self.view, h[:, None] if isinstance(self.view, PilotView) else h)

    def _of_pilots(self, r: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Features of observations (T, M)."""
        if isinstance(self.view, PilotView):
            return _in_precision(self.view, r.reshape(len(r), -1, *self.shape))
        # Matched filter, in units in which a channel of unit power without noise has about unit power behind ideal converters.
        level = (self.obs.input_power + self.obs.noise_power(noise))[:, None].expand(-1, self.obs.num_measurements)
        unit = self.obs.output_power(level, noise).mean(-1) / self.obs.input_power
        energy = self.obs.input_power * self.obs.num_measurements / self.dim
        return _in_precision(self.view, self.obs.adjoint(r / (energy * unit.sqrt()[:, None])))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        r"""Spectra, real (\*batch, \*grid.sizes), of latent points (\*batch, L)."""
        limits = -math.log(_LARGEST), -math.log(self.floor)
        spectra = torch.exp(-_in_precision(self.decoder, z).clamp(*limits)).unflatten(-1, self.grid.sizes)
        return spectra / spectra.mean(self.grid.axes, keepdim=True) if self.fixed_power else spectra

    def divergence(self, mean: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
        r"""Kullback-Leibler divergence of the latent points (T, L) from their prior, a mean over the batch.

        .. math:: \tfrac12 \sum_l (m_l^2 + s_l^2 - 2\log s_l - 1),

        where a coordinate whose mean over the batch is below ``free_bits`` counts as that, without a gradient.
        """
        each = 0.5 * (mean.square() + torch.exp(2 * log_std) - 2 * log_std - 1).mean(0)
        return each.clamp_min(self.free_bits).sum()

    def spectra_of(self, r: torch.Tensor, no: Any, h: torch.Tensor | None = None) -> torch.Tensor:
        r"""Spectra at the mean of the latent point, real (\*batch, \*grid.sizes); see `encode`."""
        return self.decode(self.encode(r, no, h)[0])

    def forward(self, r: torch.Tensor, no: Any, h: torch.Tensor | None = None) -> torch.Tensor:
        """The same as `spectra_of`."""
        return self.spectra_of(r, no, h)

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator) -> torch.Tensor:
        r"""Draw n channels: z from its prior, then h, complex (n, \*shape)."""
        check_generator("generator", generator)
        size = (check_int("n", n, minimum=1), self.num_factors)
        z = torch.randn(*size, generator=generator, device=generator.device, dtype=self.dtype)
        spectra = self.decode(z.to(next(self.decoder.parameters()).device))
        return self.grid.sample(spectra, generator=generator)

    def extra_repr(self) -> str:
        return f"num_factors={self.num_factors}, variant={self.variant!r}, structure={self.grid.structure!r}"


def _told(noise: torch.Tensor) -> torch.Tensor:
    """Noise variances (T,) as networks see them, (T, 1)."""
    return -noise.clamp(*_TOLD).log10()[:, None]


def _in_precision(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Run a network on ``x`` in the precision of ``x``, whatever its weights have and a trainer asks for."""
    real = x.real.dtype if x.is_complex() else x.dtype
    if all(parameter.dtype == real for parameter in network.parameters()):
        out: torch.Tensor = network(x)
    else:
        out = torch.func.functional_call(network, {name: p.to(real) for name, p in network.named_parameters()}, (x,))
    return out.to(real)
