r"""What every mixture prior shares: p(h) = sum_k pi_k CN(h; 0, C_k), its densities, its samples and its storage.

The means are zero: the phases of all paths turn freely from one use of the channel to the next, so a channel with known
surroundings has mean 0, and Bussgang's decomposition is exact for zero-mean components alone ([Fesl2024]_).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias

import torch

from wichan.errors import (
    InvalidTypeError,
    InvalidValueError,
    check_finite,
    check_generator,
    check_int,
    check_noise,
    check_real,
    check_shape,
    check_tensor,
)
from wichan.priors.samples import Channels as Channels
from wichan.priors.storage import MixtureStorage
from wichan.priors.structure import Components, Structure
from wichan.random import complex_normal

# Told (iteration, max_iter, objective); returning True ends EM there, with what that iteration has learned.
Progress: TypeAlias = Callable[[int, int, float], Any]

_ROUNDING = 1e-15  # a recovered covariance may be singular: its eigenvalues count at least this of the largest
_CHUNK_BYTES = 1 << 24  # of projected channels at once


class MixturePrior(MixtureStorage, ABC):
    r"""Zero-mean circular Gaussian mixture over channels, :math:`p(h) = \sum_k \pi_k\, \mathcal{CN}(h; 0, C_k)`.

    Parameters stay in double precision on every device, whatever the module is cast to: channels without noise have
    covariances whose eigenvalues span six decades and more, and single precision would lose the small ones.

    Args:
        num_components: K >= 1, or "auto" where the kind of prior can choose it.
        floor: smallest eigenvalue of a component's covariance, relative to the mean power of an element in training.
        max_iter: most EM iterations of a start.
        tol: EM ends when the mean log-likelihood of a sample rises by less.
        num_restarts: starts, of which the best is kept.
        batch_size: ``None`` for EM over all samples; a number for stepwise EM over mini-batches of that many.
        seed: of the start and of the mini-batches.

    Attributes:
        shape: axes of a channel, () before `fit`.
        history: mean log-likelihood of a training sample at the start of each iteration, of the start that was kept.
        converged: whether ``tol`` was reached before ``max_iter``.
    """

    kind: ClassVar[str]
    allows_auto: ClassVar[bool] = False

    def __init__(
        self,
        num_components: int | str,
        *,
        floor: float = 1e-6,
        max_iter: int = 100,
        tol: float = 1e-3,
        num_restarts: int = 1,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(num_components, str):
            if num_components != "auto" or not self.allows_auto:
                also = ' or "auto"' if self.allows_auto else ""
                raise InvalidTypeError(f"num_components={num_components!r} must be an integer{also}")
            self.num_components: int | str = num_components
        else:
            self.num_components = check_int("num_components", num_components, minimum=1)
        self.floor = check_real("floor", floor, positive=True, maximum=1.0)
        self.max_iter = check_int("max_iter", max_iter, minimum=1)
        self.tol = check_real("tol", tol, minimum=0.0)
        self.num_restarts = check_int("num_restarts", num_restarts, minimum=1)
        self.batch_size = None if batch_size is None else check_int("batch_size", batch_size, minimum=1)
        self.seed = check_int("seed", seed)
        self.history: list[float] = []
        self.converged = False

    # -- What a kind of prior says of itself --

    @abstractmethod
    def fit(self, h: Channels, *, progress: Progress | None = None) -> MixturePrior:
        """Learn from channels; see `wichan.priors.GMM.fit`."""

    @abstractmethod
    def _form(self, shape: tuple[int, ...] | None = None) -> Structure:
        """Structure of the covariances over the axes ``shape`` of a channel, those of `fit` if ``None``."""

    @abstractmethod
    def _options(self) -> dict[str, Any]:
        """Arguments of the constructor besides those of `MixturePrior`."""

    # -- Covariances --

    def covariances(self) -> torch.Tensor:
        """Covariances of the components, dense, complex128 (K, N, N)."""
        self._require_fit()
        return self._form().dense(self.values)

    @property
    def num_parameters(self) -> int:
        """Free real numbers: those of the covariances, and K - 1 for the weights."""
        self._require_fit()
        return len(self.log_weights) * (self._form().num_parameters + 1) - 1

    def _m_step_from_covariances(self, covs: torch.Tensor, weights: torch.Tensor) -> None:
        """Take covariances (K, N, N), projected to the prior's structure, and weights (K,) as parameters.

        ``shape`` must be set; the floor is relative to the mean power that the covariances have.
        """
        form = self._form()
        share = weights / weights.sum()
        power = float(torch.einsum("kii,k->", covs.real, share)) / self.dim
        fitted = form.project(covs.to(torch.complex128), None, self.floor * power)
        self._install(self.shape, share.log(), values=form.values(fitted))

    def spectra(self) -> torch.Tensor | None:
        r"""Eigenvalues s of circulant components, float64 (K, \*shape): C = F^H diag(s) F; ``None`` for others."""
        return None

    def factors(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Loading (K, N, L) and noise (K, N) of components C = loading loading^H + diag(noise); ``None`` for others."""
        return None

    # -- Learning from quantised pilots --

    def fit_observations(self, obs: Any, r: torch.Tensor, no: Any, *, progress: Progress | None = None) -> MixturePrior:
        r"""Learn from quantised pilots alone, by recovering each component's covariance ([Fesl2024]_).

        Args:
            obs: a `wichan.observations.QuantizedPilots` that `recover_covariance` allows.
            r: its observations, complex (\*batch, M).
            no: noise variance, a number or a tensor over the batch.
            progress: called with (iteration, max_iter, objective); a true value ends the fit after that iteration.

        Returns:
            The prior itself, at its best iteration: the objective, a Gaussian stand-in for the likelihood of r, may fall.

        Raises:
            InvalidTypeError, ShapeError, InvalidValueError: as `recover_covariance`; fewer observations than components;
                num_components="auto".

        Warns:
            WichanWarning: all observations are equal.
        """
        from wichan.priors.quantized_em import fit_from_quantized

        fit_from_quantized(self, obs, r, no, progress)
        return self

    # -- Densities --

    @property
    def dim(self) -> int:
        """N, numbers in a channel."""
        return math.prod(self.shape) if self.shape else 0

    @property
    def weights(self) -> torch.Tensor:
        """Probabilities of the components, float64 (K,)."""
        self._require_fit()
        return self.log_weights.exp()

    def log_prob(self, h: torch.Tensor, no: Any = 0.0) -> torch.Tensor:
        r"""Return :math:`\log \pi_k + \log \mathcal{CN}(h; 0, C_k + \mathrm{no}\, I)`.

        Args:
            h: complex, (\*batch, \*shape).
            no: variance of white noise on ``h``, a number or a tensor over the batch.

        Returns:
            Real, (\*batch, K), in the precision of ``h``; computed in double.

        Raises:
            NotFittedError: before `fit`. InvalidTypeError, InvalidValueError, ShapeError: not such a tensor, NaN.

        Cost: 8 N^2 FLOP a sample and component (2 N for circulant ones), 16 MiB of intermediate results at most.
        """
        return self._joint(h, no).to(h.real.dtype)

    def _joint(self, h: torch.Tensor, no: Any) -> torch.Tensor:
        """`log_prob` in double precision."""
        self._require_fit()
        check_finite("h", check_shape("h", check_tensor("h", h, kind="complex"), self.shape))
        batch = h.shape[: h.dim() - len(self.shape)]
        noise = check_noise(no, batch, dtype=torch.float64, device=h.device)
        flat = h.reshape(-1, self.dim).to(torch.complex128)
        noise = noise.expand(batch).reshape(-1, 1) if noise.dim() else noise
        vectors, values = self.eigen()
        mixture = Components(values, vectors)
        parts = []
        size = max(1, _CHUNK_BYTES // (16 * self.dim))
        for start in range(0, len(flat), size):
            piece = noise[start : start + size] if noise.dim() else noise
            parts.append(mixture.log_density(flat[start : start + size], self.shape, piece))
        joint = torch.cat(parts) if parts else self.log_weights.new_zeros(0, len(self.log_weights))
        return (joint + self.log_weights).reshape(*batch, len(self.log_weights))

    def eigen(self) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Eigenvectors, complex128 (K, N, N) in columns, and eigenvalues, float64 (K, N); ``None`` for the DFT's vectors."""
        self._require_fit()
        key = tuple((id(b), b._version) for b in (self._buffers[name] for name in self.values_names) if b is not None)
        held = self._cache.get("eigen")
        if held is None or held[0] != key:
            with torch.inference_mode(False), torch.no_grad():
                spectra = self.spectra()
                if spectra is not None:
                    pair: Any = (None, spectra.flatten(1))
                else:
                    values, vectors = torch.linalg.eigh(self.covariances())
                    pair = (vectors, values.clamp_min(_ROUNDING * values[:, -1:]))
            held = self._cache["eigen"] = (key, pair)
        return held[1]

    def log_likelihood(self, h: torch.Tensor, no: Any = 0.0) -> float:
        """Mean of log p(h) over the batch [nat]; arguments as in `log_prob`."""
        joint = self._joint(h, no)
        if not joint.numel():
            raise InvalidValueError(f"h has shape {tuple(h.shape)}; a mean needs at least one channel")
        return float(torch.logsumexp(joint, dim=-1).mean())

    def responsibilities(self, h: torch.Tensor, no: Any = 0.0) -> torch.Tensor:
        r"""Return p(k | h), real (\*batch, K); arguments as in `log_prob`."""
        return torch.softmax(self._joint(h, no), dim=-1).to(h.real.dtype)

    def sample(self, n: int, *, generator: torch.Generator, dtype: torch.dtype = torch.complex64) -> torch.Tensor:
        r"""Draw ``n`` channels, (n, \*shape), on the generator's device."""
        self._require_fit()
        n = check_int("n", n, minimum=0)
        check_generator("generator", generator)
        device = generator.device
        drawn = complex_normal((n, self.dim), generator=generator, dtype=torch.complex128)
        if n == 0:
            return drawn.reshape(0, *self.shape).to(dtype)
        chosen = torch.multinomial(self.weights.to(device), n, replacement=True, generator=generator)
        vectors, values = self.eigen()
        colored = drawn * values.to(device).clamp_min(0).sqrt()[chosen]
        if vectors is None:
            h = torch.fft.ifftn(colored.reshape(n, *self.shape), dim=tuple(range(1, 1 + len(self.shape))), norm="ortho")
        else:
            h = torch.empty_like(colored)
            for k in chosen.unique().tolist():
                of_k = chosen == k
                h[of_k] = colored[of_k] @ vectors[k].to(device).mT
        return h.reshape(n, *self.shape).to(dtype)

    # -- Storage --

    def config(self) -> dict[str, Any]:
        """What `from_config` needs, as JSON can hold it; ``shape`` is ``None`` before `fit`."""
        return {
            "num_components": self.num_components,
            "shape": list(self.shape) or None,
            "floor": self.floor,
            "max_iter": self.max_iter,
            "tol": self.tol,
            "num_restarts": self.num_restarts,
            "batch_size": self.batch_size,
            "seed": self.seed,
        } | self._options()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        """Build the prior of `config`, with room for its parameters: `load_state_dict` makes it a fitted one."""
        options = dict(config)
        shape = options.pop("shape", None)
        prior = cls(**options)
        if shape is not None:
            axes = tuple(check_int("shape", n, minimum=1) for n in shape)
            count = check_int("num_components", prior.num_components, minimum=1)
            sizes = dict.fromkeys(cls.values_names, (count, *prior._form(axes).values_shape))
            prior._make_room(count, axes, sizes)
        return prior
