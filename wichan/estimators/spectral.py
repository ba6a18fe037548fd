r"""LMMSE filters in the eigenmodes of what the pilots see.

With a thin factor :math:`R = G G^H` and the pilots' view of it, :math:`G_p = P G`,

.. math:: G_p^H G_p = U \Lambda U^H, \quad V = G U, \quad B = U^H G_p^H, \qquad
    \hat h = V (\mathrm{no}\, I + \Lambda)^{-1} B y, \quad
    \mathrm{err}_n = \sum_k |V_{nk}|^2 \frac{\mathrm{no}}{\mathrm{no} + \lambda_k} .

A new noise variance is a new diagonal and nothing else, and the error is a sum of positive terms. Modes that the pilots do
not see (:math:`\lambda_k = 0`) leave the estimate and stay in the error.
"""

from __future__ import annotations

from abc import abstractmethod

import torch

from wichan.channels.covariance import KroneckerTerm
from wichan.channels.covariance_factor import apply_modes, squared
from wichan.estimators.filter_module import FilterModule
from wichan.linalg import compress_factor, kron
from wichan.nn.buffers import ComplexBuffer
from wichan.observations.ofdm import OFDMPilots

# Modes below this share of the largest eigenvalue are not applied: they add less than the rounding of y.
_WORTH = {torch.complex64: 1e-13, torch.complex128: 1e-22}


def decompose(factor: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""Return :math:`(\lambda, V, B)` of one factor, by descending :math:`\lambda`.

    Args:
        factor: G, complex128, (\*batch, n, r).
        seen: :math:`G_p`, complex128, (\*batch, m, r).

    Returns:
        float64 (\*batch, r), complex128 (\*batch, n, r), complex128 (\*batch, r, m).
    """
    _, vectors = torch.linalg.eigh(seen.mH @ seen)
    views = seen @ vectors
    # The energy of a view is right to its own last digit, an eigenvalue only to the last digit of the largest one.
    lam, order = squared(views).sum(-2).sort(descending=True)
    order = order.unsqueeze(-2)
    views, modes = (torch.take_along_dim(m, order, -1) for m in (views, factor @ vectors))
    return lam, modes, views.mH


def axis_modes(factor: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return `decompose` of a factor that is seen at the rows ``index``; made no wider than high first."""
    if factor.shape[-1] > factor.shape[-2]:
        factor = compress_factor(factor, 0.0)
    return decompose(factor, factor.index_select(-2, index.to(factor.device)))


def count_kept(lam: torch.Tensor) -> dict[torch.dtype, int]:
    """Return how many leading modes of descending eigenvalues are applied in each precision; a batch keeps the most."""
    peak = lam[..., :1]
    return {dtype: max(1, int((lam > worth * peak).sum(-1).max())) for dtype, worth in _WORTH.items()}


def space_modes(factor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Return eigenvectors Q and eigenvalues of :math:`S = A A^H`, (\*batch, n, r) and (\*batch, r).

    Q has no columns, shape (\*batch, n, 0), where S is diagonal: then nothing needs to be rotated. There is one eigenvalue,
    (\*batch, 1), where S is diagonal with equal entries: then all antennas share filters and errors.
    """
    matrix = factor @ factor.mH
    diagonal = matrix.diagonal(dim1=-2, dim2=-1).real
    off = matrix - torch.diag_embed(diagonal).to(matrix.dtype)
    if float(off.abs().max()) <= 1e-15 * float(diagonal.max()):
        alike = bool((diagonal == diagonal[..., :1]).all())
        return matrix[..., :0], diagonal[..., : 1 if alike else None].contiguous()
    lam, vectors = torch.linalg.eigh(matrix)
    lam, vectors = lam.flip(-1), vectors.flip(-1)
    lam = torch.where(lam > 1e-15 * lam[..., :1], lam, torch.zeros_like(lam))
    rank = int((lam > 0).sum(-1).max())
    return vectors[..., :rank].contiguous(), lam[..., :rank].contiguous()


class SpectralFilter(FilterModule):
    r"""LMMSE whose noise is white over receive antennas that share one spatial covariance S.

    The antennas are rotated into the eigenvectors of S, eigenvalues :math:`\sigma_a`; behind each rotated antenna lies the same
    inner problem with eigenvalues :math:`\lambda_k`, and the joint eigenvalue is :math:`\sigma_a \lambda_k`.
    """

    space = ComplexBuffer()  # Q, (*batch, num_rx_ant, r_s), r_s = 0 where S is diagonal
    sigma: torch.Tensor  # (*batch, r_s) with Q; else (*batch, num_rx_ant), or (*batch, 1) where all antennas are alike

    @property
    @abstractmethod
    def inner(self) -> torch.Tensor:
        r"""Inner eigenvalues, float64, (\*batch, \*modes)."""

    def _joint(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sigma, sigma lambda and sigma scale, axes (r_s, *modes).

        A batch of filters has an axis of length 1 behind its own, for frames that share a filter.
        """
        inner, batch = self.inner, self.sigma.dim() - 1
        sigma = self.sigma.reshape(*self.sigma.shape, *([1] * (inner.dim() - batch)))
        lam = inner.unsqueeze(batch)
        if batch:
            sigma, lam = sigma.unsqueeze(1), lam.unsqueeze(1)
        return sigma, sigma * lam, sigma * self.scale()

    def _spread(self, no: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        sigma, joint, scaled = self.cached("joint", self._joint)
        modes = sigma.dim() - (2 if self.sigma.dim() > 1 else 0)
        return sigma, joint, scaled, (no.to(sigma.dtype) + self.unmodelled())[(...,) + (None,) * modes]

    @property
    def largest(self) -> torch.Tensor:
        def peak() -> torch.Tensor:
            batch = self.sigma.dim() - 1
            return self.sigma.amax(-1) * self.inner.flatten(batch).amax(-1)

        return self.cached("largest", peak)

    def unmodelled(self) -> torch.Tensor | float:
        """Return the mean energy at the pilots that the modes do not model: the filter meets it as noise."""
        return 0.0

    def scale(self) -> torch.Tensor:
        """Largest inner eigenvalue: with it taken out of the weights, single precision holds for any path loss."""
        peak = self.inner.amax()
        return torch.where(peak > 0, peak, torch.ones_like(peak))

    def prepare(self, no: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return the weights sigma scale / (no + sigma lambda) of the modes that are applied in ``dtype``."""
        _, joint, scaled, no = self._spread(no)
        # Complex already: a real weight would be converted again for each frame.
        weights = torch.where(joint > 0, scaled / (no + joint), torch.zeros_like(joint))  # unseen modes: nothing to apply
        return self.cut(weights, dtype).to(dtype)

    def error(self, no: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        sigma, joint, _, no = self._spread(no)
        return self.energy((sigma * no / (no + joint)).to(dtype))

    def noise_gain(self, no: torch.Tensor) -> torch.Tensor:
        """Return the squared row norms of the filter, (K, rx, tx, symbols, subcarriers): its error from noise over ``no``."""
        sigma, joint, _, no = self._spread(no)
        return self.energy(sigma * joint / (no + joint).square())

    @abstractmethod
    def energy(self, weights: torch.Tensor) -> torch.Tensor:
        r"""Return :math:`\sum |V|^2 w` in the dtype of w, (\*lead, r_s, \*modes) -> (\*lead, rx or 1, tx, T, F)."""

    @abstractmethod
    def coefficients(self, pilots: torch.Tensor) -> torch.Tensor:
        r"""Return :math:`Q^H \otimes B / \mathrm{scale}` applied to pilots, (\*lead, rx, P) -> (\*lead, r_s, \*modes)."""

    @abstractmethod
    def expand(self, coefficients: torch.Tensor) -> torch.Tensor:
        r"""Return :math:`Q \otimes V` applied to weighted coefficients."""

    def estimate(self, pilots: torch.Tensor, prepared: torch.Tensor) -> torch.Tensor:
        return self.expand(self.coefficients(pilots) * prepared)

    @abstractmethod
    def cut(self, weights: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Cut weights down to the modes that are applied in ``dtype``."""

    def rotation(self, dtype: torch.dtype) -> torch.Tensor | None:
        """Q in ``dtype``, or ``None`` where nothing is rotated."""
        return self.cached(("space", dtype), lambda: self.space.to(dtype)) if self.space.shape[-1] else None


class SeparableFilter(SpectralFilter):
    r"""Exact LMMSE for :math:`R = S \otimes T \otimes F` and pilots on symbols x subcarriers of equal power.

    Then :math:`G_p = \mathrm{diag}(p)\,(A_S \otimes A_{T,p} \otimes A_{F,p})`: each axis is decomposed on its own, the joint
    eigenvalues are products, and filters are small matrices for each axis.

    Args:
        obs: pilots with ``is_separable``.
        term: the covariance; a batch axis makes one filter a condition.

    Cost: building, eigendecompositions of the sizes r_t, r_f and num_rx_ant. A frame: for each antenna
    8 [P_f r_f P_t + P_t r_t r_f + r_t r_f F + r_t T F] FLOP and 8 T F bytes written.
    """

    rank_axes = {
        "space_ri": (1,), "sigma": (0,), "time_ri": (1,), "frequency_ri": (1,),
        "see_time_ri": (0,), "see_frequency_ri": (0,), "lam_time": (0,), "lam_frequency": (0,),
    }  # fmt: skip
    time = ComplexBuffer()  # V_t, (*batch, T, r_t)
    frequency = ComplexBuffer()  # V_f, (*batch, F, r_f)
    see_time = ComplexBuffer()  # B_t, (*batch, r_t, P_t)
    see_frequency = ComplexBuffer()  # B_f, (*batch, r_f, P_f)
    symbols = ComplexBuffer()  # conj(p), (P,)
    lam_time: torch.Tensor
    lam_frequency: torch.Tensor

    def __init__(self, obs: OFDMPilots, term: KroneckerTerm) -> None:
        super().__init__()
        with torch.no_grad():
            self.space, sigma = space_modes(term.space)
            lam_time, self.time, self.see_time = axis_modes(term.time, obs.pilot_symbols)
            lam_frequency, self.frequency, self.see_frequency = axis_modes(term.frequency, obs.pilot_subcarriers)
            p = obs.pilot_values(torch.complex128)[0]
            self.symbols = p.conj().resolve_conj()
            power = squared(p).mean()
        batch = torch.broadcast_shapes(sigma.shape[:-1], lam_time.shape[:-1], lam_frequency.shape[:-1])
        self.register_buffer("sigma", sigma.expand(*batch, -1).contiguous())
        self.register_buffer("lam_time", (lam_time * power).expand(*batch, -1).contiguous())
        self.register_buffer("lam_frequency", lam_frequency.expand(*batch, -1).contiguous())
        self.refresh()

    def refresh(self) -> None:
        time, frequency = count_kept(self.lam_time), count_kept(self.lam_frequency)
        self.kept = {dtype: (time[dtype], frequency[dtype]) for dtype in time}

    @property
    def inner(self) -> torch.Tensor:
        return self.lam_time.unsqueeze(-1) * self.lam_frequency.unsqueeze(-2)

    @property
    def shared(self) -> bool:
        """Whether one filter serves all frames (no batch of conditions)."""
        return self.sigma.dim() == 1

    def energy(self, weights: torch.Tensor) -> torch.Tensor:
        def make() -> list[torch.Tensor | None]:
            parts = [self.space if self.space.shape[-1] else None, self.time, self.frequency]
            return [None if m is None else squared(m).to(weights.dtype) for m in parts]

        return self._sweep(weights, self.cached(("energy", weights.dtype), make)).unsqueeze(-3)

    def _sweep(self, x: torch.Tensor, matrices: list[torch.Tensor | None]) -> torch.Tensor:
        """Multiply (space, time, frequency), the last axes of ``x``; a shared filter takes the path of least overhead."""
        space, time, frequency = matrices
        if not self.shared or time is None or frequency is None:
            return apply_modes(x, matrices)
        if space is not None:
            x = (space @ x.flatten(-2)).unflatten(-1, x.shape[-2:])
        (t, rt), (f, rf) = time.shape, frequency.shape
        # Both ways write their answer in place; the sums are multiply-adds.
        return (time @ x) @ frequency.mT if t * rt * rf + t * rf * f < rt * rf * f + t * rt * f else time @ (x @ frequency.mT)

    def cut(self, weights: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return weights[..., : self.kept[dtype][0], : self.kept[dtype][1]]

    def _matrices(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        return self.cached(("matrices", dtype), lambda: self._make_matrices(dtype))

    def _make_matrices(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        rt, rf = self.kept[dtype]
        see_time, see_frequency = self.see_time[..., :rt, :], self.see_frequency[..., :rf, :] / self.scale()
        made = {"time": self.time[..., :rt], "frequency": self.frequency[..., :rf]}
        pt, pf, t, f = see_time.shape[-1], see_frequency.shape[-1], self.time.shape[-2], self.frequency.shape[-2]
        chain, rest = pt * pf * (1 + rf) + pt * rt * rf, rt * f * (rf + t)
        if self.shared and pt * pf * rt * rf <= chain + rest / 2:
            # One product with the pilots' symbols folded in beats two and a pass over the pilots, unless the grid is large.
            made["see"] = (kron(see_time, see_frequency) * self.symbols).T
        else:
            made |= {"see_time": see_time, "see_frequency": see_frequency, "symbols": self.symbols}
        return {name: value.to(dtype).contiguous() for name, value in made.items()}

    def coefficients(self, pilots: torch.Tensor) -> torch.Tensor:
        made = self._matrices(pilots.dtype)
        if "see" in made:
            inner = (pilots.reshape(-1, pilots.shape[-1]) @ made["see"]).view(*pilots.shape[:-1], *self.kept[pilots.dtype])
        else:
            sizes = (made["see_time"].shape[-1], made["see_frequency"].shape[-1])
            grid = (pilots * made["symbols"]).unflatten(-1, sizes)
            inner = self._sweep(grid, [None, made["see_time"], made["see_frequency"]])
        rotation = self.rotation(pilots.dtype)
        return inner if rotation is None else apply_modes(inner, [rotation.mH, None, None])

    def expand(self, coefficients: torch.Tensor) -> torch.Tensor:
        made = self._matrices(coefficients.dtype)
        return self._sweep(coefficients, [self.rotation(coefficients.dtype), made["time"], made["frequency"]]).unsqueeze(-3)
