"""A batch of covariances as buffers of a module, so that it moves and is saved with its estimator."""

from __future__ import annotations

import torch
from torch import nn

from wichan.channels.covariance import ChannelCovariance, KroneckerTerm
from wichan.channels.covariance_terms import DenseTerm, Term


class StoredCovariance(nn.Module):
    """Keeps the factors of a `ChannelCovariance`; complex ones as real buffers with a last axis of 2."""

    def __init__(self, covariance: ChannelCovariance) -> None:
        super().__init__()
        self.antennas = covariance.shape[:2]
        self.kinds = [(type(term), term.sizes) for term in covariance.terms]
        for index, term in enumerate(covariance.terms):
            tensors = term.factors if isinstance(term, KroneckerTerm) else (term.factor,)
            for part, tensor in enumerate(tensors):
                self.register_buffer(f"term{index}_{part}_ri", torch.view_as_real(tensor.resolve_conj()))
            if isinstance(term, DenseTerm):
                self.register_buffer(f"term{index}_lost", term.lost)

    def covariance(self) -> ChannelCovariance:
        """Return the covariance."""
        terms: list[Term] = []
        for index, (kind, sizes) in enumerate(self.kinds):
            names = [f"term{index}_{part}_ri" for part in range(3 if kind is KroneckerTerm else 1)]
            parts = [torch.view_as_complex(getattr(self, name)) for name in names]
            if kind is KroneckerTerm:
                terms.append(KroneckerTerm(*parts))
            else:
                terms.append(DenseTerm(parts[0].to(torch.complex128), sizes, getattr(self, f"term{index}_lost").double()))
        return ChannelCovariance(terms, *self.antennas)
