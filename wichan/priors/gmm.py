"""Gaussian mixture prior with full, (block-)Toeplitz or (block-)circulant covariances, fitted by EM."""

from __future__ import annotations

from typing import Any

import torch

from wichan.errors import check_choice
from wichan.priors.base import MixturePrior, Progress
from wichan.priors.samples import Channels
from wichan.priors.structure import STRUCTURES, Structure, make_structure


class GMM(MixturePrior):
    r"""Zero-mean Gaussian mixture, :math:`p(h) = \sum_k \pi_k\, \mathcal{CN}(h; 0, C_k)`, with structured :math:`C_k`.

    Args:
        num_components: K >= 1, or "auto": chosen by held-out log-likelihood in `fit`, see `choose_num_components`.
        structure: of every :math:`C_k` over the axes of a channel: "full"; "circulant" or "toeplitz" where one axis is longer
            than 1; "block-circulant" or "block-toeplitz" for any number of axes, such as antennas x subcarriers.
        floor: smallest eigenvalue of a component's covariance, relative to the mean power of a channel's element in training.
            Toeplitz forms keep the spectrum of the process behind the channel above it, which is more.
        max_iter: most EM iterations of a start.
        tol: EM ends when the mean log-likelihood of a channel changes by less.
        num_restarts: starts, of which the one with the highest likelihood is kept. They take clusters of the channels'
            log-periodograms and of [Re h, Im h] in turn; circulant forms begin with the latter.
        batch_size: ``None`` for exact EM; a number for stepwise EM over mini-batches of that many channels.
        seed: of the start and of the mini-batches.

    Attributes:
        history: mean log-likelihood of a training channel at the start of each iteration. With exact EM it never falls beyond
            rounding; with mini-batches it is a mean over batches while parameters change, and may.
        converged: whether ``tol`` was reached.

    Parameters are K N^2 real numbers (full), K N (circulant forms), 2 K N (Toeplitz), K N 2^(long axes) (block-Toeplitz), and
    K weights. `fit` works in complex128 whatever the module is cast to.

    Cost of an exact iteration over T channels: circulant forms 4 T N K + 5 T N log N FLOP; others at most 16 T N^2 (K + 1) and
    about 35 T N^2 where components lie apart, since bounds find those that cannot matter to a channel; besides 100 K N^3.
    Memory besides h and the parameters: 24 T N bytes of prepared channels and 4 T K of bounds, each only where below 256 MiB,
    and chunks of 32 MiB.

    Source: [Koller2022]_, structures [Fesl2022]_; for quantised pilots [Fesl2024]_.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> h = torch.randn(200, 8, generator=generator, dtype=torch.complex64)
        >>> GMM(2, "circulant", max_iter=5).fit(h).spectra().shape
        torch.Size([2, 8])
    """

    kind = "gmm"
    allows_auto = True

    def __init__(
        self,
        num_components: int | str,
        structure: str = "full",
        *,
        floor: float = 1e-6,
        max_iter: int = 100,
        tol: float = 1e-3,
        num_restarts: int = 1,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            num_components,
            floor=floor,
            max_iter=max_iter,
            tol=tol,
            num_restarts=num_restarts,
            batch_size=batch_size,
            seed=seed,
        )
        self.structure = check_choice("structure", structure, STRUCTURES)

    def fit(self, h: Channels, *, progress: Progress | None = None) -> GMM:
        r"""Learn from channels by EM.

        Args:
            h: complex (T, \*shape); or, for channels that memory does not hold, a function without arguments that returns an
                iterable of such pieces anew on each call (one call an iteration, and one before).
            progress: called with (iteration, max_iter, mean log-likelihood); a true value ends EM after that iteration.

        Returns:
            The prior itself, with ``shape`` the axes of a channel, on the device of ``h``.

        Raises:
            InvalidTypeError, ShapeError, InvalidValueError: no complex tensor, no batch, NaN, mean power 0, fewer channels than
                components, several axes for a plain structure.

        Warns:
            WichanWarning: all channels are equal, or components without weight remain. The floor keeps both finite.
        """
        from wichan.priors.em import fit_mixture

        if self.num_components == "auto":
            from wichan.priors.selection import choose_for

            self.num_components = choose_for(self, h, progress)
        fit_mixture(self, h, progress)
        return self

    def _form(self, shape: tuple[int, ...] | None = None) -> Structure:
        return make_structure(self.structure, self.shape if shape is None else shape)

    def spectra(self) -> torch.Tensor | None:
        r"""Eigenvalues over the DFT, float64 (K, \*shape), of circulant forms; ``None`` for others."""
        self._require_fit()
        return self.values if self._form().spectral else None

    def _options(self) -> dict[str, Any]:
        return {"structure": self.structure}
