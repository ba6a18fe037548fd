"""`Rays`: what every channel source yields and the one synthesis kernel turns into channels."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch

from wichan.errors import ShapeError, check_tensor


@dataclass(frozen=True, eq=False)
class Rays:
    r"""Rays of a batch of links, grouped in clusters of equal delay.

    The channel of ray :math:`r` in cluster :math:`c` between receive port :math:`(p, n)` and transmit port :math:`(q, m)` is

    .. math:: g_{c,r,p,q}\, a_{c,r,n}\, b_{c,r,m}\; e^{+j 2\pi \nu_{c,r} t}\; e^{-j 2\pi f \tau_c} ,

    and a channel is the sum over rays and clusters. A port is a polarisation (or any group with its own gain) at a
    position; ports are numbered polarisation first: antenna ``p * num_positions + n``. A ray tracer whose rays all have
    their own delay uses one ray per cluster; sources with rays of unequal number fill up with zero gains.

    Args:
        gain: complex, (\*batch, num_clusters, num_rays, num_rx_pol, num_tx_pol), amplitude per polarisation pair.
        delay: real [s], (\*batch, num_clusters) or (num_clusters,) where all links share the delays.
        doppler: real [Hz], (\*batch, num_clusters, num_rays).
        rx_response: complex, (\*batch, num_clusters, num_rays, num_rx_positions), or ``None`` for one position at the
            origin (response 1).
        tx_response: the same at the transmitter, (\*batch, num_clusters, num_rays, num_tx_positions).

    Raises:
        ShapeError: shapes that do not fit together.
    """

    gain: torch.Tensor
    delay: torch.Tensor
    doppler: torch.Tensor
    rx_response: torch.Tensor | None = None
    tx_response: torch.Tensor | None = None

    def __post_init__(self) -> None:
        check_tensor("gain", self.gain, kind="complex")
        lead = self.gain.shape[:-2]
        if tuple(self.doppler.shape) != tuple(lead):
            raise ShapeError(f"doppler has shape {tuple(self.doppler.shape)}; gain asks for {tuple(lead)}")
        for name, response in (("rx_response", self.rx_response), ("tx_response", self.tx_response)):
            if response is not None and tuple(response.shape[:-1]) != tuple(lead):
                raise ShapeError(f"{name} has leading axes {tuple(response.shape[:-1])}; gain asks for {tuple(lead)}")
        if tuple(self.delay.shape) not in (tuple(lead[:-1]), (lead[-2],)):
            raise ShapeError(f"delay has shape {tuple(self.delay.shape)}; gain asks for {tuple(lead[:-1])} or ({lead[-2]},)")

    @property
    def batch_shape(self) -> torch.Size:
        """Leading batch axes."""
        return self.gain.shape[:-4]

    @property
    def num_clusters(self) -> int:
        """Number of clusters (distinct delays)."""
        return self.gain.shape[-4]

    @property
    def num_rays(self) -> int:
        """Rays in a cluster."""
        return self.gain.shape[-3]

    @property
    def num_rx_ant(self) -> int:
        """Receive ports: polarisations times positions."""
        return self.gain.shape[-2] * (1 if self.rx_response is None else self.rx_response.shape[-1])

    @property
    def num_tx_ant(self) -> int:
        """Transmit ports: polarisations times positions."""
        return self.gain.shape[-1] * (1 if self.tx_response is None else self.tx_response.shape[-1])

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}

    def to(self, device: torch.device | str) -> Rays:
        """Move every tensor to ``device``; dtypes are kept."""
        return replace(self, **{name: tensor.to(device) for name, tensor in self._tensors().items()})

    def double(self) -> Rays:
        """The same rays in double precision; what was drawn in single precision keeps its values."""
        wide = {n: t.to(torch.complex128 if t.is_complex() else torch.float64) for n, t in self._tensors().items()}
        return replace(self, **wide)

    def __getitem__(self, index: int | slice | torch.Tensor) -> Rays:
        """Select along the first batch axis; shared delays stay shared."""
        shared = self.delay.dim() == 1 and self.gain.dim() > 4
        picked = {name: tensor if name == "delay" and shared else tensor[index] for name, tensor in self._tensors().items()}
        return replace(self, **picked)

    def reciprocal(self) -> Rays:
        """Swap receiver and transmitter: the channel becomes its transpose (uplink is the transpose of downlink)."""
        return Rays(
            gain=self.gain.transpose(-1, -2),
            delay=self.delay,
            doppler=self.doppler,
            rx_response=self.tx_response,
            tx_response=self.rx_response,
        )
