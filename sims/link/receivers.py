"""The channel estimators under test, all called as ``(y, no) -> (h_hat, err_var)`` on Sionna's axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations

import torch
from link.setting import Frames, Link, no_of
from sionna.phy.ofdm import LMMSEChannelEstimator, LSChannelEstimator

from wichan.estimators import LMMSE
from wichan.integrations.sionna import as_channel_estimator
from wichan.integrations.sionna.baseline import axis_covariances

RECEIVERS = {
    "perfect": "perfect CSI",
    "ls": "LS (Sionna)",
    "sionna-lmmse": "LMMSE (Sionna)",
    "wichan-lmmse": "LMMSE (wichan)",
}
Answer = tuple[torch.Tensor, torch.Tensor]
Estimator = Callable[[Frames], Answer]
INTERPOLATIONS = ("lin", "lin_time_avg", "nn")
_CHUNKS = 4  # of frames, to tell interpolations apart
_IMPULSES = 8  # at once: Sionna builds a filter for each, and large batches spend their time in page faults


class FrozenLMMSE:
    """Sionna's ``LMMSEChannelEstimator`` at one noise variance, as the matrix that it is.

    At a fixed ``no`` the estimate is linear in the pilots and the error variance is constant, yet the block solves for its
    filters again in every frame. Its answers to unit impulses, in double precision, are the columns of the matrix; from
    then on a frame costs a product. Streams do not see each other's pilots in it, so one impulse serves all streams.

    Args:
        link: grid, pilots and covariance, of which the block can use the covariances along each axis.
        order: of the passes along frequency, time and (where named) space.
        no: noise variance.
    """

    def __init__(self, link: Link, order: str, no: float) -> None:
        self.link, self.order = link, order
        space, time, frequency = axis_covariances(link.covariance)
        covariances = (time, frequency, space if "s" in order else None)
        self._exact = LMMSEChannelEstimator(link.resource_grid, *covariances, order=order, precision="double")
        values = link.pilots.pilots.flatten(1)
        self._index = torch.stack([layer.nonzero().flatten() for layer in values])  # (streams, pilots of a stream)
        self._joint = link.setting.num_rx_ant if "s" in order else 1  # antennas that are filtered together
        self._matrix, self._error = self._answers(no)

    def _answers(self, no: float) -> Answer:
        streams, count = self._index.shape
        grid, joint = self.link.pilots.grid, self._joint
        impulses = torch.zeros(joint, count, joint, grid.num_resource_elements, dtype=torch.complex128)
        for antenna in range(joint):
            for layer in self._index:
                impulses[antenna, torch.arange(count), antenna, layer] = 1
        y = impulses.reshape(joint * count, 1, joint, *grid.shape)
        level = torch.tensor(no, dtype=torch.float64)
        parts = [self._exact(some, level) for some in y.split(_IMPULSES)]
        h_hat = torch.cat([part[0] for part in parts])[:, 0, :, 0]  # (joint count, joint, streams, T, F)
        columns = h_hat.reshape(joint * count, joint, streams, -1)
        return columns.permute(2, 0, 1, 3).flatten(2).to(torch.complex64), parts[0][1][0, 0, :, 0]

    def __call__(self, y: torch.Tensor, no: float) -> Answer:
        """Estimate all streams of ``y`` (batch_size, 1, num_rx_ant, T, F)."""
        batch, antennas, grid = y.shape[0], y.shape[2], self.link.pilots.grid
        seen = y[:, 0].flatten(-2)[..., self._index]  # (batch, rx, streams, pilots)
        seen = seen.reshape(batch, antennas // self._joint, self._joint, *self._index.shape).movedim(3, 0)
        h_hat = torch.einsum("sbgap,sapx->bgsx", seen, self._matrix.unflatten(1, (self._joint, -1)))
        h_hat = h_hat.unflatten(-1, (self._joint, *grid.shape)).movedim(3, 2).flatten(1, 2)
        h_hat = h_hat[:, None, :, None]
        return h_hat, self.err_var.to(torch.float32).unsqueeze(1).expand(h_hat.shape)

    @property
    def err_var(self) -> torch.Tensor:
        """Error variance that the block reports, (num_rx_ant, streams, T, F), float64."""
        return self._error.expand(self.link.setting.num_rx_ant, *self._error.shape[1:])

    def deviation(self, y: torch.Tensor, no: float) -> float:
        """Largest difference between the block itself and its matrix on ``y``, relative to the largest estimate."""
        theirs, reported = self._exact(y.to(torch.complex128), torch.tensor(no, dtype=torch.float64))
        mine, err_var = self(y, no)
        gap = float((theirs - mine).abs().max() / theirs.abs().max())
        return max(gap, float((reported - err_var).abs().max() / reported.abs().max()))

    def nmse(self, no: float) -> float:
        r"""NMSE under the true covariance :math:`G G^H`, without data: :math:`(\|G - W P G\|^2 + no \|W\|^2) / \|G\|^2`."""
        covariance, pilots = self.link.covariance, self.link.pilots
        factor = covariance.factor(1e-9).T.reshape(-1, *covariance.shape).to(torch.complex64)
        through, _ = self(pilots.noiseless(factor)[:, None], no)
        missed = (through[:, 0, :, 0] - factor).abs().square().sum()
        groups = self.link.setting.num_rx_ant // self._joint
        return float((missed + groups * no * self._matrix.abs().square().sum()) / factor.abs().square().sum())


def orders_for(link: Link) -> list[str]:
    """Orders of passes worth trying: those along space only where the antennas are correlated."""
    space = axis_covariances(link.covariance)[0]
    white = bool((space - space.diagonal().diag()).abs().max() < 1e-6)
    return ["-".join(order) for axes in ("ft", "fts")[: 1 if white else 2] for order in permutations(axes)]


def best_order(link: Link, snr_db: float) -> dict[str, float]:
    """NMSE [dB] of Sionna's LMMSE in every order at one SNR, in closed form, the best order first."""
    no = no_of(snr_db)
    found = {order: 10 * math.log10(FrozenLMMSE(link, order, no).nmse(no)) for order in orders_for(link)}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def best_interpolation(link: Link, snr_db: float) -> dict[str, float]:
    """NMSE [dB] of Sionna's LS with every interpolation at one SNR, measured on frames of its own, the best one first."""
    no, found = torch.tensor(no_of(snr_db)), {}
    some = [link.frames(snr_db, 1_000_000 + chunk) for chunk in range(_CHUNKS)]
    energy = sum(float(frames.h.abs().square().sum()) for frames in some)
    for kind in INTERPOLATIONS:
        ls = LSChannelEstimator(link.resource_grid, interpolation_type=kind)
        error = sum(float((ls(frames.y, no)[0] - frames.h).abs().square().sum()) for frames in some)
        found[kind] = 10 * math.log10(error / energy)
    return dict(sorted(found.items(), key=lambda item: item[1]))


#: What is tried for a receiver before a link is run, so that it is compared at its best; and what it has without a search.
SEARCHES = {"ls": (best_interpolation, "lin"), "sionna-lmmse": (best_order, "f-t")}


def make_receivers(link: Link, names: list[str], snr_db: float, chosen: dict[str, str]) -> dict[str, Estimator]:
    """Estimators for one point, name -> function of frames; ``chosen``: what a search found for a receiver."""
    no = no_of(snr_db)

    def build(name: str) -> Estimator:
        if name == "perfect":
            return lambda frames: (frames.h, torch.zeros(1))
        if name == "ls":
            ls = LSChannelEstimator(link.resource_grid, interpolation_type=chosen["ls"])
            return lambda frames: ls(frames.y, torch.tensor(no))
        if name == "sionna-lmmse":
            frozen = FrozenLMMSE(link, chosen["sionna-lmmse"], no)
            deviation = frozen.deviation(link.frames(snr_db, 0).y[:2], no)
            if deviation > 1e-4:
                raise RuntimeError(f"Sionna's LMMSE and its matrix differ by {deviation:.1e} at {snr_db:g} dB in {link.name}")
            return lambda frames: frozen(frames.y, no)
        lmmse = as_channel_estimator(LMMSE(link.pilots, link.covariance), link.resource_grid)
        return lambda frames: lmmse(frames.y, no)

    return {name: build(name) for name in names}
