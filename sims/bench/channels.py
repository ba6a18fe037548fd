"""CDL and TDL synthesis beside Sionna 2.2, sampled directly at the instants that are kept."""

from __future__ import annotations

import torch
from harness import Row, gemm_rate, median_seconds, paired

from wichan.channels import CDL, TDL, Panel, frequency_response
from wichan.grid import OFDMGrid

CARRIER, SPREAD, SPEED, PERIOD = 2.4e9, 30e-9, 10.0, 2.352e-3


def _sionna_cdl():
    from sionna.phy.channel import cir_to_ofdm_channel
    from sionna.phy.channel.tr38901 import CDL as SionnaCDL
    from sionna.phy.channel.tr38901 import PanelArray

    station = PanelArray(4, 4, "dual", "cross", "38.901", CARRIER)
    terminal = PanelArray(1, 1, "single", "V", "omni", CARRIER)
    model = SionnaCDL("A", SPREAD, CARRIER, terminal, station, "uplink", min_speed=SPEED, max_speed=SPEED)
    frequencies = (torch.arange(750) - 375) * 30e3

    def draw(batch: int) -> torch.Tensor:
        a, tau = model(batch, 20, 1 / PERIOD)
        return cir_to_ofdm_channel(frequencies, a, tau)

    return draw


def cdl(repeats: int) -> list[Row]:
    """CDL-A, 20 snapshots x 32 antennas x 750 subcarriers; the peer at its best batch of 1, 2, 4, 10, 32."""
    peer = _sionna_cdl()
    with torch.no_grad():
        best = min((1, 2, 4, 10, 32), key=lambda batch: median_seconds(lambda: peer(batch), 3) / batch)
        panel = Panel(4, 4, polarization="cross", pattern="38.901")
        model = CDL("A", delay_spread=SPREAD, carrier_frequency=CARRIER, speed=SPEED, rx_array=panel)
        times = torch.arange(20, dtype=torch.float64) * PERIOD
        frequencies = (torch.arange(750, dtype=torch.float64) - 375) * 30e3
        generator = torch.Generator().manual_seed(1)
        batch = 32
        out = torch.empty(batch, 32, 1, 20, 750, dtype=torch.complex64)

        def ours() -> None:
            frequency_response(model.sample(batch, generator=generator), times, frequencies, out=out)

        mine, theirs = paired(ours, lambda: peer(best), repeats)
        floor = 8 * 640 * 23 * 750 / gemm_rate()
    name = f"Sionna (batch {best})"
    rows = [Row("CDL", "20 x 32 x 750, no gradients", "sample", mine / batch, name, theirs / best, ">= 3.5x", floor)]
    gain = torch.ones((), requires_grad=True)

    def with_gradients() -> None:
        rays = model.sample(8, generator=generator)
        tracked = type(rays)(rays.gain * gain, rays.delay, rays.doppler, rays.rx_response, rays.tx_response)
        frequency_response(tracked, times, frequencies)

    mine, theirs = paired(with_gradients, lambda: peer(best), repeats)
    rows.append(Row("CDL", "the same, tracking gradients", "sample", mine / 8, name, theirs / best, "", floor))
    return rows


def tdl(repeats: int) -> list[Row]:
    """TDL-A slot 14 x 120, batch 64, fixed and per-sample conditions."""
    from sionna.phy.channel import cir_to_ofdm_channel
    from sionna.phy.channel.tr38901 import TDL as SionnaTDL

    grid, batch = OFDMGrid(14, 120, 15e3), 64
    peer_model = SionnaTDL("A", 100e-9, 3e9, min_speed=30.0, max_speed=30.0)
    frequencies = grid.frequencies.float()

    def peer() -> None:
        a, tau = peer_model(batch, 14, 1 / grid.symbol_duration)
        cir_to_ofdm_channel(frequencies, a, tau)

    model = TDL("A", delay_spread=100e-9, carrier_frequency=3e9, speed=30.0)
    generator = torch.Generator().manual_seed(1)
    spread = torch.rand(batch, generator=generator) * 300e-9
    doppler = torch.rand(batch, generator=generator) * 300
    rows = []
    with torch.no_grad():
        floor = 8 * 14 * 23 * 120 / gemm_rate(14, 23, 120, 64)
        cases = {"one condition": {}, "own spread and Doppler each": {"delay_spread": spread, "max_doppler": doppler}}
        for name, conditions in cases.items():

            def ours(conditions: dict[str, torch.Tensor] = conditions) -> None:
                model.frequency_response(grid, batch, generator=generator, **conditions)

            mine, theirs = paired(ours, peer, 4 * repeats)
            setting = f"slot 14 x 120, batch 64, {name}"
            rows.append(Row("TDL", setting, "slot", mine / batch, "Sionna", theirs / batch, ">= 2x", floor))
    return rows
