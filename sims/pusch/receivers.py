"""The receivers that are compared: they differ in their channel estimate only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from wichan.channels import TDL, ChannelCovariance, KroneckerTerm
from wichan.estimators import LMMSE
from wichan.grid import OFDMGrid
from wichan.linalg import thin_factor, toeplitz
from wichan.observations import OFDMPilots, PilotPattern

GRID = OFDMGrid(num_ofdm_symbols=14, num_subcarriers=300, subcarrier_spacing=15e3)
DMRS_SYMBOLS = (2, 11)
#: Delays and Doppler shifts that the practical receiver is made for: the cyclic prefix of a normal symbol (144 / 30.72 MHz),
#: and the largest Doppler shift in the tables of clause 8.2.1.
DESIGN_DELAY, DESIGN_DOPPLER = 144 / 30.72e6, 400.0

#: (y, no, h) -> (h_hat, err_var); y (B, R, 14, 300), no a number, h and both answers (B, R, 1, 14, 300).
Receiver = Callable[[torch.Tensor, float, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
NAMES = ("practical", "genie", "sionna-ls", "perfect")
LABELS = {
    "practical": "wichan LMMSE, practical prior",
    "genie": "wichan LMMSE, true statistics",
    "sionna-ls": "Sionna LS, linear interpolation",
    "perfect": "perfect channel knowledge",
}


def practical_covariance(num_rx_ant: int) -> ChannelCovariance:
    r"""What a base station may assume of any terminal: delays uniform over the prefix, Doppler shifts uniform, both flat.

    .. math:: E[h(t, f)\, h^*(t', f')] = \mathrm{sinc}\big(2 \nu_{max} (t - t')\big)\,
        \mathrm{sinc}\big(\tau_{max} (f - f')\big)\, e^{-j \pi \tau_{max} (f - f')}
    """
    frequency = GRID.frequencies - GRID.frequencies[0]
    column = torch.sinc(DESIGN_DELAY * frequency) * torch.exp(-1j * torch.pi * DESIGN_DELAY * frequency)
    time = torch.sinc(2 * DESIGN_DOPPLER * GRID.times).to(torch.complex128)
    term = KroneckerTerm(
        space=torch.eye(num_rx_ant, dtype=torch.complex128),
        time=thin_factor(toeplitz(time), 1e-12),
        frequency=thin_factor(toeplitz(column), 1e-10),
    )
    return ChannelCovariance([term], num_rx_ant, 1)


def pusch_config() -> Any:
    """Sionna's configuration of the slot: type A, one layer, DMRS type 1 on symbols 2 and 11, no data beside it."""
    from sionna.phy.nr import CarrierConfig, PUSCHConfig

    config = PUSCHConfig(
        carrier_config=CarrierConfig(n_size_grid=25, subcarrier_spacing=15), mapping_type="A", symbol_allocation=[0, 14]
    )
    config.dmrs.config_type, config.dmrs.length, config.dmrs.additional_position = 1, 1, 1
    config.dmrs.num_cdm_groups_without_data = 2
    return config


def resource_grid(config: Any) -> Any:
    """Sionna's resource grid with the reference signal of ``config``."""
    from sionna.phy.nr import PUSCHPilotPattern
    from sionna.phy.ofdm import ResourceGrid

    return ResourceGrid(
        num_ofdm_symbols=GRID.num_ofdm_symbols,
        fft_size=GRID.num_subcarriers,
        subcarrier_spacing=GRID.subcarrier_spacing,
        pilot_pattern=PUSCHPilotPattern([config]),
    )


def observation_of(rg: Any) -> OFDMPilots:
    """The pilots of a one-stream resource grid as a wichan observation."""
    mask = rg.pilot_pattern.mask[0, 0].bool()
    layer = torch.zeros(mask.shape, dtype=torch.complex64)
    layer[mask] = rg.pilot_pattern.pilots[0, 0].to(layer.dtype)
    return OFDMPilots(GRID, pattern=PilotPattern("pusch-dmrs", layer[None]))


def _lmmse(obs: OFDMPilots, covariance: ChannelCovariance) -> Receiver:
    estimator = LMMSE(obs, covariance)

    def receive(y: torch.Tensor, no: float, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return estimator(y, no)

    return receive


def _sionna_ls(rg: Any, config: Any) -> Receiver:
    from sionna.phy.nr import PUSCHLSChannelEstimator

    dmrs = config.dmrs
    estimator = PUSCHLSChannelEstimator(
        rg, dmrs.length, dmrs.additional_position, dmrs.num_cdm_groups_without_data, interpolation_type="lin"
    )

    def receive(y: torch.Tensor, no: float, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h_hat, err_var = estimator(y[:, None], torch.tensor(no))
        return h_hat[:, 0, :, 0], err_var.expand_as(h_hat)[:, 0, :, 0]

    return receive


def _perfect(y: torch.Tensor, no: float, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return h, torch.zeros_like(h.real)


def build_receivers(model: TDL, rg: Any, config: Any) -> dict[str, Receiver]:
    """All receivers by name, for the true channel ``model``."""
    obs = observation_of(rg)
    return {
        "practical": _lmmse(obs, practical_covariance(model.num_rx_ant)),
        "genie": _lmmse(obs, model.covariance(GRID)),
        "sionna-ls": _sionna_ls(rg, config),
        "perfect": _perfect,
    }
