"""Joint LMMSE beside Sionna's successive one-dimensional LMMSE: time a frame and NMSE on the same channels and noise."""

from __future__ import annotations

import math

import torch
from harness import Row, fill_rate, median_seconds, paired

from wichan.channels import TDL
from wichan.estimators import LMMSE
from wichan.grid import OFDMGrid
from wichan.metrics import nmse_db
from wichan.observations import OFDMPilots

SPREAD, CARRIER, SPEED = 300e-9, 3e9, 30.0


def _sionna(grid: OFDMGrid, obs: OFDMPilots, order: str):
    from sionna.phy.ofdm import LMMSEChannelEstimator, PilotPattern, ResourceGrid, tdl_freq_cov_mat, tdl_time_cov_mat

    mask = obs.mask.numpy()[None, None].astype("float32")
    pilots = obs.pilots[0][obs.mask].numpy()[None, None]
    resource_grid = ResourceGrid(
        num_ofdm_symbols=grid.num_ofdm_symbols,
        fft_size=grid.num_subcarriers,
        subcarrier_spacing=grid.subcarrier_spacing,
        pilot_pattern=PilotPattern(torch.as_tensor(mask), torch.as_tensor(pilots)),
    )
    frequency = tdl_freq_cov_mat("A", grid.subcarrier_spacing, grid.num_subcarriers, SPREAD)
    time = tdl_time_cov_mat("A", SPEED, CARRIER, grid.symbol_duration, grid.num_ofdm_symbols)
    estimator = LMMSEChannelEstimator(resource_grid, time, frequency, order=order)
    return lambda y, no: estimator(y[:, None], no)


def _setting():
    grid = OFDMGrid(14, 120, 30e3)
    obs = OFDMPilots(grid, symbols=(2, 11), subcarrier_step=3)
    model = TDL("A", delay_spread=SPREAD, carrier_frequency=CARRIER, speed=SPEED)
    generator = torch.Generator().manual_seed(5)
    return grid, obs, model, generator


def lmmse(repeats: int) -> list[Row]:
    """Hot (same ``no``), warm (a new ``no`` each call), cold (a new covariance each call); the peer at its best batch."""
    grid, obs, model, generator = _setting()
    batch = 2048
    with torch.no_grad():
        h = model.frequency_response(grid, batch, generator=generator)
        y = obs.observe(h, 0.01, generator=generator)
        peer = _sionna(grid, obs, "f-t")
        peer_batch = min((1, 4, 8, 16, 32), key=lambda n: median_seconds(lambda: peer(y[:n], 0.01), 3) / n)
        floor = 8 * grid.num_resource_elements / fill_rate()
        ours = LMMSE(obs, model.covariance(grid))
        levels = iter(range(1, 10**9))
        rows = []

        def cold() -> None:
            spread = (100 + next(levels) % 200) * 1e-9
            LMMSE(obs, TDL("A", delay_spread=spread, max_doppler=300.0).covariance(grid))(y[:1], 0.01)

        def cold_peer() -> None:
            _sionna(grid, obs, "f-t")(y[:1], 0.01)

        def hot() -> None:
            ours(y, 0.01)

        def warm() -> None:
            ours(y, 0.01 + 1e-9 * next(levels))

        def peer_frames() -> None:
            peer(y[:peer_batch], 0.01)

        cases = (
            ("hot: same no", hot, peer_frames, batch, peer_batch, ">= 5000x", 20),
            ("warm: new no", warm, peer_frames, batch, peer_batch, ">= 3000x", 20),
            ("cold: new covariance", cold, cold_peer, 1, 1, ">= 5x", 1),
        )
        for name, mine, theirs, n, n_peer, target, calls in cases:
            fast, slow = paired(mine, theirs, repeats, calls)
            setting, peer_name = f"14 x 120, 2 x 40 pilots, {name}", f"Sionna (batch {n_peer})"
            rows.append(Row("LMMSE", setting, "frame", fast / n, peer_name, slow / n_peer, target, floor if n > 1 else None))
    return rows


def lmmse_nmse(num_channels: int = 200) -> list[str]:
    """NMSE [dB] of both on the same channels at 0, 10, 20, 30 dB; Sionna's better order is compared."""
    grid, obs, model, generator = _setting()
    lines = [
        "| SNR | wichan joint | Sionna f-t | Sionna t-f | wichan reported err_var - error | Sionna f-t reported - error |",
        "|---|---|---|---|---|---|",
    ]
    with torch.no_grad():
        h = model.frequency_response(grid, num_channels, generator=generator)
        ours = LMMSE(obs, model.covariance(grid))
        for snr_db in (0, 10, 20, 30):
            no = 10 ** (-snr_db / 10)
            y = obs.observe(h, no, generator=generator)
            mine = ours(y, no)
            cells, gaps = [float(nmse_db(mine.h_hat, h))], []
            gaps.append(10 * math.log10(float(mine.err_var.mean()) / float((mine.h_hat - h).abs().square().mean())))
            for order in ("f-t", "t-f"):
                peer = _sionna(grid, obs, order)
                parts = [peer(part, no) for part in y.split(20)]
                theirs = torch.cat([part[0][:, 0, :, 0] for part in parts])
                reported = torch.cat([part[1][:, 0, :, 0] for part in parts])
                cells.append(float(nmse_db(theirs, h)))
                if order == "f-t":
                    gaps.append(10 * math.log10(float(reported.mean()) / float((theirs - h).abs().square().mean())))
            lines.append(
                f"| {snr_db} dB | "
                + " | ".join(f"{c:.2f} dB" for c in cells)
                + " | "
                + " | ".join(f"{g:+.2f} dB" for g in gaps)
                + " |"
            )
    return lines
