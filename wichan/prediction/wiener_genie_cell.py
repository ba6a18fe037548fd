"""The linear minimum mean square error predictor of a cell: what knowing the channel's law, and no more, is worth."""

from __future__ import annotations

from typing import NamedTuple

import torch

from wichan.channels import CDL
from wichan.channels.synthesis import delay_phasors
from wichan.grid import OFDMGrid
from wichan.linalg import thin_factor


class _Modes(NamedTuple):
    """The filter in its eigenmodes; r coefficients, m modes."""

    past: tuple[torch.Tensor, ...]  # a cluster: (num_ant * num_history, r_c), complex
    future: tuple[torch.Tensor, ...]  # a cluster: (num_ant * num_horizon, r_c), complex
    vectors: torch.Tensor  # (r, m), complex
    values: torch.Tensor  # (m,), float64
    phasors: torch.Tensor  # (clusters, num_subcarriers), of the history
    target: torch.Tensor  # (clusters, num_subcarriers), of the prediction
    spread: torch.Tensor  # (num_ant * num_horizon, m), energy of the modes in the prediction, mean over subcarriers
    missing: torch.Tensor  # (num_ant * num_horizon,), energy of the prediction that no mode has
    unseen: float  # energy of the history that no mode has, mean over its entries


class CellFilter:
    r"""Exact LMMSE predictor for the closed-form covariance of a CDL over phases, couplings and directions of travel.

    The covariance over antennas, all T + P instants and subcarriers is a sum over clusters of delay :math:`\tau_c`,

    .. math:: R = \sum_c R_c \otimes \phi_c \phi_c^H, \qquad R_c = \sum_g S_{c,g} \otimes T_{c,g} = U_c U_c^H ,

    with groups g of rays that share a Doppler law where the array's angles carry the Doppler. So :math:`h = \sum_c U_c b_c
    \otimes \phi_c` with white coefficients b. With G the part of that map that the history sees and F the part asked for, and
    :math:`G^H G = V \Lambda V^H`,

    .. math:: \hat h = F V (\Lambda + \mathrm{no})^{-1} V^H G^H y, \qquad
        \mathrm{err} = \sum_m \frac{\mathrm{no}}{\Lambda_m + \mathrm{no}} |(F V)_m|^2 + \rho .

    Data meets the clusters' phasors first, so nothing has the size of the lattice squared, and any noise level is a new
    diagonal. Columns of :math:`U_c` with less than ``rtol`` of the energy of all are left out, the weakest first beyond
    ``max_rank``; what is left out counts as noise in the history and as error :math:`\rho` in the prediction.

    Size: 8 r (m + 32 x 20) bytes; with r from 400 (CDL-D, 1 m/s) to 3,000. Cost of building: of the order of 30 r^3 FLOP (its
    eigenvectors; a minute for r = 2,000 on one core). Cost of a call: 16 r m + 8 K C A (T + P) FLOP a sample.
    """

    def __init__(
        self,
        model: CDL,
        csi_period: float,
        snapshots: tuple[int, int],
        frequencies: torch.Tensor,
        target_frequencies: torch.Tensor,
        *,
        rtol: float = 1e-7,
        max_rank: int = 3000,
    ) -> None:
        self.model, self.csi_period, self.snapshots = model, csi_period, snapshots
        self.frequencies, self.target_frequencies = frequencies, target_frequencies
        self.rtol, self.max_rank = rtol, max_rank
        # A dict of its own: a cache around a bound method would keep the filter alive until the collector comes by.
        self._copies: dict[tuple[torch.device, torch.dtype], _Modes] = {}
        self._modes = self._build()

    def __call__(self, history: torch.Tensor, no: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict.

        Args:
            history: complex (samples, num_ant, num_history, num_subcarriers), in units of the model.
            no: float64 (samples,), in units of the model.

        Returns:
            complex (samples, num_ant, num_horizon, target subcarriers), and the error (samples, num_ant, num_horizon, 1).
        """
        modes = self._at(history.device, history.dtype)
        seen = history.flatten(1, 2) @ modes.phasors.mH  # (samples, num_ant * num_history, clusters)
        parts = [seen[..., c] @ basis.conj() for c, basis in enumerate(modes.past)]
        noise = no + modes.unseen
        # Without noise a mode that the history does not see must not be divided by zero.
        noise = noise.clamp_min(1e-12 * float(modes.values.max()))
        gain = 1 / (modes.values + noise.unsqueeze(-1))
        inner = (torch.cat(parts, dim=-1) @ modes.vectors.conj()) * gain.to(history.real.dtype)
        coefficients = (inner @ modes.vectors.mT).split([basis.shape[-1] for basis in modes.future], dim=-1)
        clusters = torch.stack([b @ basis.mT for b, basis in zip(coefficients, modes.future, strict=True)], dim=-1)
        predicted = (clusters @ modes.target).unflatten(1, (-1, self.snapshots[1]))
        error = (noise.unsqueeze(-1) * gain) @ modes.spread.mT + modes.missing
        return predicted, error.unflatten(1, (-1, self.snapshots[1])).unsqueeze(-1)

    def _at(self, device: torch.device, dtype: torch.dtype) -> _Modes:
        """The filter on a device and in a precision; the last two are kept."""
        found = self._copies.get((device, dtype))
        if found is None:
            found = self._moved(device, dtype)
            self._copies = dict([*self._copies.items(), ((device, dtype), found)][-2:])
        return found

    def _moved(self, device: torch.device, dtype: torch.dtype) -> _Modes:
        m = self._modes

        def place(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device=device, dtype=dtype)

        real = [t.to(device) for t in (m.values, m.spread, m.missing)]
        return _Modes(
            past=tuple(place(t) for t in m.past),
            future=tuple(place(t) for t in m.future),
            vectors=place(m.vectors),
            values=real[0],
            phasors=place(m.phasors),
            target=place(m.target),
            spread=real[1],
            missing=real[2],
            unseen=m.unseen,
        )

    def _build(self) -> _Modes:
        delays = self.model.delays()
        phasors = delay_phasors(delays, self.frequencies, torch.complex128)
        target = delay_phasors(delays, self.target_frequencies, torch.complex128)
        bases, total = self._bases()
        ants, (past, _) = self.model.num_rx_ant * self.model.num_tx_ant, self.snapshots
        split = [basis.unflatten(0, (ants, -1)) for basis in bases]
        seen, asked = (
            [part.flatten(0, 1) for part in half] for half in zip(*((s[:, :past], s[:, past:]) for s in split), strict=True)
        )
        cluster = torch.repeat_interleave(torch.arange(len(bases)), torch.tensor([b.shape[1] for b in bases]))
        overlap = (phasors.conj() @ phasors.mT)[cluster[:, None], cluster]
        joined = torch.cat(seen, dim=1)
        values, vectors = torch.linalg.eigh((joined.mH @ joined) * overlap)
        keep = values > 1e-10 * values[-1]
        values, vectors = values[keep], vectors[:, keep]
        spread = self._spread(asked, vectors, target)
        covered = torch.cat([total[:, past:].flatten(), total[:, :past].flatten()])
        kept = sum(basis.abs().square().sum(1).unflatten(0, (ants, -1)) for basis in bases)
        unseen = float((total - kept)[:, :past].mean().clamp_min(0))
        missing = (covered[: spread.shape[0]] - spread.sum(-1)).clamp_min(0)
        return _Modes(tuple(seen), tuple(asked), vectors, values, phasors, target, spread, missing, unseen)

    def _bases(self) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Columns of every U_c (num_ant * (T + P), r_c), antenna slowest, and the energy of all, (num_ant, T + P)."""
        times = sum(self.snapshots)
        terms = self.model.covariance_terms(OFDMGrid(times, 1, 1 / self.csi_period, self.csi_period))
        count = self.model.angles.num_clusters
        groups = len(terms) // count  # the specular ray is one more term, of the first cluster
        specular = terms[groups * count :]
        columns, values = [], []
        total = torch.zeros(terms[0].sizes[0], times, dtype=torch.float64)
        for cluster in range(count):
            own = terms[groups * cluster : groups * (cluster + 1)] + (specular if cluster == 0 else [])
            for term in own:
                total += term.diagonal().squeeze(-1)
            # The groups of a cluster share few directions and few Doppler shifts: decompose in their joint bases.
            space, time = (_basis([getattr(term, name) for term in own]) for name in ("space", "time"))
            pairs = [(space.mH @ term.space, time.mH @ term.time) for term in own]
            reduced = sum(torch.kron(s @ s.mH, t @ t.mH) for s, t in pairs)
            assert isinstance(reduced, torch.Tensor)
            energy, vectors = torch.linalg.eigh(reduced)
            columns.append(torch.kron(space, time) @ (vectors * energy.clamp_min(0).sqrt()))
            values.append(energy)
        cut = self.rtol * float(total.sum())
        ordered = torch.cat(values).sort(descending=True).values
        if len(ordered) > self.max_rank:
            cut = max(cut, float(ordered[self.max_rank]))
        return [basis[:, energy > cut] for basis, energy in zip(columns, values, strict=True)], total

    def _spread(self, asked: list[torch.Tensor], vectors: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Energy of every mode in every entry of the prediction, mean over subcarriers, float64 (num_ant * P, m)."""
        overlap = target @ target.mH / target.shape[-1]  # mean of phi_c phi_d^*
        rows = vectors.split([basis.shape[1] for basis in asked])
        waves = torch.stack([basis @ part for basis, part in zip(asked, rows, strict=True)])  # (clusters, num_ant * P, m)
        mixed = torch.einsum("cd,dom->com", overlap.conj(), waves)
        return (waves.conj() * mixed).real.sum(0)


def _basis(factors: list[torch.Tensor]) -> torch.Tensor:
    """Orthonormal columns that span the strong part of thin factors (n, r_i)."""
    joined = torch.cat(factors, dim=1)
    thin = thin_factor(joined @ joined.mH, 1e-10)
    return thin / torch.linalg.vector_norm(thin, dim=0)
