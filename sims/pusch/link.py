"""HARQ processes over a fading PUSCH link, all receivers on the same channels, noise and payloads."""

from __future__ import annotations

import torch

from pusch.cases import Case
from pusch.receivers import GRID, build_receivers, pusch_config, resource_grid
from pusch.transport import TransportChain
from wichan.channels import TDL, frequency_response

#: Slots between two transmissions of a HARQ process (1 ms each at 15 kHz), and the most transmissions of a block.
ROUND_TRIP, MAX_TRANSMISSIONS = 8, 4
SLOT = 1e-3


class Link:
    """One conformance case.

    Args:
        case: what to test.
    """

    def __init__(self, case: Case) -> None:
        import numpy as np
        from sionna.phy.mapping import Mapper
        from sionna.phy.mimo import StreamManagement
        from sionna.phy.ofdm import LinearDetector, ResourceGridMapper

        frc = case.channel
        config = pusch_config()
        grid = resource_grid(config)
        coded = int(grid.num_data_symbols) * frc.bits_per_symbol
        self.case = case
        self.chain = TransportChain(frc.payload, coded, frc.rate / 1024, frc.bits_per_symbol)
        self.model = TDL(case.tap_profile, max_doppler=case.max_doppler, num_rx_ant=case.num_rx_ant, correlation="low")
        self.receivers = build_receivers(self.model, grid, config)
        self._map = Mapper("qam", frc.bits_per_symbol)
        self._place = ResourceGridMapper(grid)
        streams = StreamManagement(np.ones([1, 1], bool), 1)
        self._detect = LinearDetector("lmmse", "bit", "maxlog", grid, streams, "qam", frc.bits_per_symbol)

    def slots(self, payload: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What is sent: code blocks, buffers, and the grids of all transmissions, (4, batch, 14, 300)."""
        blocks = self.chain.blocks(payload)
        buffers = self.chain.buffers(blocks)
        bits = self.chain.transmissions(buffers)
        grids = self._place(self._map(bits.flatten(0, 1))[:, None, None])
        return blocks, buffers, grids.view(*bits.shape[:2], *GRID.shape)

    def soft_bits(self, y: torch.Tensor, h_hat: torch.Tensor, err_var: torch.Tensor, no: float) -> torch.Tensor:
        """log p(1)/p(0), (batch, num_coded_bits), by Sionna's LMMSE detector with max-log demapping."""
        llr = self._detect(y[:, None], h_hat[:, None, :, None], err_var[:, None, :, None], torch.tensor(no))
        return llr.reshape(y.shape[0], -1)

    def run(
        self, snr_db: float, num_runs: int, *, generator: torch.Generator, names: list[str], opportunities: int = 6
    ) -> dict[str, torch.Tensor]:
        r"""Let ``num_runs`` HARQ processes transmit and count what arrives.

        A run is one process in its own channel: a transmission every 8 ms, the channel going on in between. A block that
        fails is sent again with the next redundancy version, at most four times in all; then, or after success, a new block
        follows. Channels, noise and payloads depend on the generator alone, not on ``snr_db`` or ``names``. The payload of a
        run stays the same, which the receiver does not use. Six opportunities are a whole number of cycles of one, two or
        three transmissions, so that starting with a fresh block does not distort the count in a slow channel.

        Args:
            snr_db: E|h x|^2 / no at a receive antenna [dB]; TS 38.104's S/N in the allocated band, since the reference signal
                has the same mean power a symbol as the data.
            num_runs: processes.
            generator: source of all randomness.
            names: receivers to run.
            opportunities: transmissions of a process.

        Returns:
            For each receiver, float64 (num_runs,): delivered blocks / opportunities, the share of the maximum throughput.
        """
        no = 10 ** (-snr_db / 10)
        rays = self.model.sample(num_runs, generator=generator)
        payload = torch.randint(0, 2, (num_runs, self.chain.tb_size), generator=generator).float()
        blocks, buffers, grids = self.slots(payload)
        soft = {name: torch.zeros_like(buffers) for name in names}
        attempt = {name: torch.zeros(num_runs, dtype=torch.int64) for name in names}
        delivered = {name: torch.zeros(num_runs, dtype=torch.float64) for name in names}
        everyone = torch.arange(num_runs)
        for step in range(opportunities):
            h = frequency_response(rays, GRID.times + step * ROUND_TRIP * SLOT, GRID.frequencies)
            noise = torch.randn(num_runs, self.case.num_rx_ant, *GRID.shape, dtype=torch.complex64, generator=generator)
            for name in names:
                y = h[:, :, 0] * grids[attempt[name], everyone][:, None] + no**0.5 * noise
                h_hat, err_var = self.receivers[name](y, no, h)
                self.chain.collect(soft[name], self.soft_bits(y, h_hat, err_var, no), attempt[name])
                arrived = self.chain.decode(soft[name], blocks, buffers)
                delivered[name] += arrived
                over = arrived | (attempt[name] == MAX_TRANSMISSIONS - 1)
                attempt[name] = torch.where(over, 0, attempt[name] + 1)
                soft[name][over] = 0
        return {name: count / opportunities for name, count in delivered.items()}
