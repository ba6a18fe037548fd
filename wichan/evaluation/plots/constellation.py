"""Received pilots."""

from __future__ import annotations

import math
from typing import Any

import torch

from wichan.errors import InvalidValueError
from wichan.evaluation.figure import PALETTE, figure_canvas, png_bytes
from wichan.evaluation.plots.draw import Picture, title
from wichan.evaluation.plots.view import ChannelView
from wichan.observations import OFDMPilots

_MAX_POINTS = 4000


def constellation(view: ChannelView) -> Picture:
    r"""Pilots of one sample after division by its true channel, and y / p of all samples.

    Left: y / h, the transmitted symbols with noise of variance no / \|h\|^2. Right: y / p, what least squares estimates: the
    channel with the noise of a pilot; half and nine tenths of a zero-mean complex Gaussian cloud lie in the dashed circles.
    Only elements on which a single antenna sends are used.
    """
    if view.y is None or view.pilots is None:
        raise InvalidValueError("kind='constellation' needs received pilots; the data set has no column y with known pilots")
    owner, index = _single(view.pilots)
    sent = view.pilots.pilot_values()[owner, index].to(view.y.dtype)
    place = view.pilots.pilot_index[index]
    received = view.pilots.extract(view.y)[..., index]  # (samples, rx, pilots)
    seen = view.h.flatten(-2)[:, :, owner, place]
    equalised = (received / seen)[view.sample].flatten()
    estimates = (received / sent).flatten()
    numbers: dict[str, Any] = _numbers(view, received, seen, sent)
    with figure_canvas(8.2, 4.0, 2) as (figure, axes):
        _cloud(axes[0], equalised, 2.0 * float(sent.abs().max()))
        points = torch.unique(torch.view_as_real(sent).mul(1e4).round(), dim=0) / 1e4
        axes[0].plot(points[:, 0], points[:, 1], "x", color=PALETTE[1], markersize=9, markeredgewidth=2.0, label="transmitted")
        snr = f", SNR {numbers['sample_snr_db']:.1f} dB" if numbers["sample_snr_db"] is not None else ""
        axes[0].set_title(f"y / h, {view.sample_label}{snr}")
        spread = float(estimates.abs().square().mean().sqrt())
        _cloud(axes[1], estimates, 2.6 * spread)
        radius = numbers["theory_estimate_power"] or numbers["measured_estimate_power"]
        angle = torch.linspace(0, 2 * math.pi, 200)
        for share in (0.5, 0.9):
            r = math.sqrt(-math.log(1 - share) * radius)
            label = "50 % and 90 % of a Gaussian cloud" if share == 0.5 else None
            axes[1].plot(r * angle.cos(), r * angle.sin(), "--", color=PALETTE[1], label=label)
        axes[1].set_title(f"y / p, {view.h.shape[0]:,} samples")
        for axis in axes:
            axis.set_xlabel("real part")
            axis.legend(loc="upper right", fontsize=8)
        axes[0].set_ylabel("imaginary part")
        title(figure, view.title)
        return Picture(png_bytes(figure), numbers)


def _single(pilots: OFDMPilots) -> tuple[torch.Tensor, torch.Tensor]:
    """Pilot elements with one sender: which antenna, and which pilot."""
    active = pilots.pilot_values().detach() != 0
    index = (active.sum(0) == 1).nonzero().flatten()
    if not index.numel():
        raise InvalidValueError("kind='constellation' needs pilot elements with one sender; here antennas share all of them")
    return active[:, index].to(torch.int8).argmax(0), index


def _cloud(axis: Any, points: torch.Tensor, reach: float) -> None:
    few = points[:: max(1, points.numel() // _MAX_POINTS)].detach()
    outside = int((few.abs() > 1.4 * reach).sum())
    size, alpha = (5.0, 0.8) if few.numel() < 1000 else (2.0, 0.4)
    label = "received" if not outside else f"received ({outside} outside)"
    axis.plot(few.real, few.imag, ".", color=PALETTE[0], markersize=size, alpha=alpha, label=label)
    axis.set_xlim(-reach, reach)
    axis.set_ylim(-reach, reach)
    axis.set_aspect("equal")


def _numbers(view: ChannelView, received: torch.Tensor, seen: torch.Tensor, sent: torch.Tensor) -> dict[str, float | None]:
    error = received - seen * sent
    noise = error.abs().square()
    power = view.expect(lambda c: c.mean_power().mean())
    no = None if view.no is None else float(view.no.double().mean())
    one = None if view.no is None else float(view.no[view.sample])
    signal = float((seen * sent)[view.sample].abs().square().mean())
    pilot = float(sent.abs().square().mean())
    return {
        "measured_noise_variance": float(noise.double().mean()),
        "stated_noise_variance": no,
        "sample_snr_db": 10 * math.log10(signal / one) if one else None,
        "measured_estimate_power": float((received / sent).abs().square().mean()),
        "theory_estimate_power": None if power is None or no is None else float(power) + no / pilot,
    }
