r"""The bank of filters for (block-)circulant components and A = x kron I: everything is diagonal over the DFT.

A converter maps every entry of a covariance by itself, so the blocks of C_r, one for each pair of pilots, stay circulant: a
DFT over the antennas leaves N systems of size P x P.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from wichan.estimators.bussgang_banks import Bank, finish, form_dtype, precision_needed
from wichan.estimators.bussgang_filters import floored_noise, squared, squared_product
from wichan.estimators.bussgang_forms import form_features, pack_forms
from wichan.linalg import hermitian_cholesky, hermitian_part
from wichan.observations.quantized import QuantizedPilots
from wichan.priors.base import MixturePrior

_FEATURES = 2**20  # real numbers of features at once
_ENTRIES = 2**20  # entries of small covariances at once


class CirculantBank(Bank):
    """Filters over the DFT of the channel's axes.

    Args:
        pilots: x, complex128 (P,).

    Cost: an observation, 2 K N P^2 FLOP for the posterior and two DFTs; one more DFT for each further component that counts.
    """

    def __init__(
        self,
        prior: MixturePrior,
        obs: QuantizedPilots,
        pilots: torch.Tensor,
        no: float,
        method: str,
        floor: float,
        dtype: torch.dtype,
    ) -> None:
        spectra = prior.spectra()
        assert spectra is not None
        self.axes, powers = tuple(spectra.shape[1:]), spectra.to(torch.float64).flatten(1)  # (K, N)
        output, exact, gain = spectra_behind(obs, spectra, pilots.to(powers.device), no, method, floor)
        cross = (powers[..., None] * (pilots.to(powers.device).conj() * gain)[:, None]).unsqueeze(-2)  # (K, N, 1, P)
        root = hermitian_cholesky(output, name="covariance of the observation")
        inner = torch.linalg.solve_triangular(root, cross.mH, upper=False)
        weight = torch.linalg.solve_triangular(root.mH, inner, upper=True).mH
        left = powers - squared(inner).sum((-2, -1))
        if exact is not output:
            left = powers + (squared_product(weight, exact) - 2 * (weight * cross.conj()).real.sum(-1)).squeeze(-1)
        self.weight = weight.squeeze(-2).mT.to(dtype).contiguous()  # (K, P, N)
        # Antennas of a circulant component are alike: each has the mean error of the spectrum.
        self.error = left.mean(-1).clamp_min(0)[:, None].expand(-1, powers.shape[1]).to(self.weight.real.dtype).contiguous()
        self.offset = prior.log_weights - 2 * root.diagonal(dim1=-2, dim2=-1).real.log().sum((-2, -1))
        unit = torch.eye(len(pilots), dtype=root.dtype, device=root.device)
        whitener = torch.linalg.solve_triangular(root, unit, upper=False)
        inverse = whitener.mH @ whitener
        # With one pilot all terms of a form are positive. With more they cancel within a frequency.
        kind = form_dtype(0.0 if len(pilots) == 1 else precision_needed(inverse, root), dtype)
        self.forms = pack_forms(inverse).mT.flatten(1).to(kind) if kind else None  # (K, P^2 N)
        self.whitener = None if kind else whitener  # (K, N, P, P)

    def enter(self, r: torch.Tensor) -> torch.Tensor:
        """Observations (T, P N) to spectra of the same shape."""
        grid = r.reshape(len(r), -1, *self.axes)
        return torch.fft.fftn(grid, dim=tuple(range(2, grid.dim())), norm="ortho").reshape(len(r), -1)

    def log_joint(self, x: torch.Tensor) -> torch.Tensor:
        step = max(1, _FEATURES // (x.shape[1] * self.weight.shape[1]))
        return finish(self.offset, torch.cat([self._forms_of(part) for part in x.split(step)], dim=-1))

    def _forms_of(self, x: torch.Tensor) -> torch.Tensor:
        """Hermitian forms in C_r^-1, real (K, T)."""
        if self.forms is not None:
            return self.forms @ self._features(x, self.forms.dtype)
        assert self.whitener is not None
        spectrum = x.to(torch.complex128).unflatten(1, (self.weight.shape[1], -1)).permute(2, 1, 0)  # (N, P, T)
        return torch.stack([squared(one @ spectrum).sum((0, 1)) for one in self.whitener])

    def _features(self, x: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
        """Products of the pilots' spectra, real (P^2 N, T)."""
        pilots = self.weight.shape[1]
        if pilots == 1:
            return squared(x).to(kind).mT
        rows = torch.view_as_real(x.unflatten(1, (pilots, -1))).to(kind).permute(3, 1, 2, 0).contiguous()
        if x.requires_grad and torch.is_grad_enabled():
            return _differentiable_features(rows).flatten(0, 1)
        out = rows.new_empty(pilots * pilots, *rows.shape[2:])
        return form_features(rows[0], rows[1], 0, pilots, out).flatten(0, 1)

    def estimates(self, x: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        pilots = self.weight.shape[1]
        repeats = torch.tensor(list(counts), device=x.device)
        component = torch.repeat_interleave(torch.arange(len(repeats), device=x.device), repeats, output_size=len(x))
        spectrum = x[:, : self.weight.shape[2]] * self.weight[:, 0].index_select(0, component)
        for p in range(1, pilots):
            spectrum = spectrum + x.unflatten(1, (pilots, -1))[:, p] * self.weight[:, p].index_select(0, component)
        grid = spectrum.reshape(len(x), *self.axes)
        return torch.fft.ifftn(grid, dim=tuple(range(1, grid.dim())), norm="ortho").reshape(len(x), -1)


def spectra_behind(
    obs: QuantizedPilots, spectra: torch.Tensor, pilots: torch.Tensor, no: float, method: str, floor: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""Spectra of C_r for circulant components behind A = x kron I.

    Args:
        obs: the observation.
        spectra: eigenvalues of the components, (K, \*axes).
        pilots: x, complex128 (P,).
        no: noise variance.
        method: of the covariance.
        floor: smallest ``no``, relative to the largest power at a converter.

    Returns:
        C_r by ``method`` and the exact one (the same tensor where that is the method), complex128 (K, N, P, P), and the gains
        of the pilots, (K, P).
    """
    count, axes = len(pilots), tuple(range(1, spectra.dim()))
    # First column of each covariance, E[h_n h_0^*].
    column = torch.fft.ifftn(spectra.to(torch.complex128), dim=axes).flatten(1)
    outer, mean = pilots[:, None] * pilots.conj(), column[:, 0].real
    level = floored_noise(no, mean[:, None] * pilots.abs().square(), floor)
    small = _two_antennas(obs, count, spectra.device)
    variance = mean[:, None] * pilots.abs().square() + obs.noise_power(level)[:, None]
    gain = small.bussgang_gain(variance.repeat(1, 2), level)[:, :count]
    hows = (method,) if method == "exact" or obs.is_linear else (method, "exact")
    found: list[list[torch.Tensor]] = [[] for _ in hows]
    step = max(1, _ENTRIES // (4 * count * count * column.shape[1]))
    for some in (slice(i, i + step) for i in range(0, len(column), step)):
        pairs = _pairs(outer, column[some], obs.noise_power(level[some]))
        for made, how in zip(found, hows, strict=True):
            behind = small.output_covariance(pairs, level[some, None].expand(pairs.shape[:2]), how)
            entry = behind[..., :count, count:].clone()
            entry[:, 0] = behind[:, 0, :count, :count]  # one antenna with itself
            grid = torch.fft.fftn(entry.unflatten(1, spectra.shape[1:]), dim=axes)
            made.append(hermitian_part(grid.flatten(1, spectra.dim() - 1)))
    made = [torch.cat(parts) for parts in found]
    return made[0], made[-1], gain


def _two_antennas(obs: QuantizedPilots, count: int, device: torch.device) -> QuantizedPilots:
    """The converters of two antennas for all pilots: what an entry of C_r depends on."""
    bits = obs.num_bits
    if isinstance(bits, tuple):
        bits = bits[:: obs.num_measurements // count] * 2
    eye = torch.eye(2 * count, dtype=torch.complex128, device=device)
    return QuantizedPilots(eye, bits, kind=obs.kind, input_power=obs.input_power, dither_power=obs.dither_power)


def _pairs(outer: torch.Tensor, column: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Covariance of the pilots at antenna n and at antenna 0, complex128 (K, N, 2 P, 2 P)."""
    own = outer * column[:, 0].real[:, None, None] + torch.eye(len(outer), device=outer.device) * noise[:, None, None]
    own = own[:, None].expand(*column.shape, *outer.shape)
    other = outer * column[..., None, None]
    return torch.cat([torch.cat([own, other], -1), torch.cat([other.mH, own], -1)], -2)


def _differentiable_features(rows: torch.Tensor) -> torch.Tensor:
    """`form_features` by operations that autograd can follow, from (2, P, *sizes)."""
    real, imag = rows
    lines = []
    for i in range(len(real)):
        lines += [real[i:] * real[i] + imag[i:] * imag[i], imag[i + 1 :] * real[i] - real[i + 1 :] * imag[i]]
    return torch.cat(lines)


def scaled_identity(obs: QuantizedPilots) -> torch.Tensor | None:
    """x of pilots A = x kron I_N, complex128 (P,), with converters that are equal for all antennas; ``None`` for others."""
    size = math.prod(obs.channel_shape)
    matrix = obs.matrix().detach().to(torch.complex128)
    if matrix.shape[0] % size:
        return None
    blocks = matrix.unflatten(0, (-1, size))
    pilots = blocks[:, 0, 0].clone()
    if not torch.equal(blocks, pilots[:, None, None] * torch.eye(size, dtype=matrix.dtype, device=matrix.device)):
        return None
    bits = obs.num_bits
    if isinstance(bits, tuple) and any(len(set(bits[p : p + size])) > 1 for p in range(0, len(bits), size)):
        return None
    return pilots
