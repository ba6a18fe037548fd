"""Pilots on an OFDM grid: the observation that most channel estimators start from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from wichan.errors import (
    InvalidTypeError,
    InvalidValueError,
    ShapeError,
    check_choice,
    check_finite,
    check_generator,
    check_noise,
    check_shape,
    check_tensor,
)
from wichan.grid import OFDMGrid, check_grid
from wichan.nn.buffers import ComplexBuffer
from wichan.observations import pilots as patterns
from wichan.observations import snr
from wichan.observations.base import Observation, noise_amplitude
from wichan.observations.dmrs import dmrs_pattern
from wichan.observations.pilots import PilotPattern


class OFDMPilots(Observation):
    r"""Known symbols on some resource elements of a grid; the others hold noise only.

    .. math:: y_r(t, k) = \sum_a p_a(t, k)\, h_{r,a}(t, k) + n_r(t, k),\qquad n \sim \mathcal{CN}(0, \mathrm{no})

    The SNR convention is "pilot": E|sum_a p_a h_a|^2 / no at a receive antenna's pilot element.

    Args:
        grid: the lattice.
        symbols: OFDM symbols with pilots.
        subcarrier_step: spacing of pilots in subcarriers.
        subcarrier_offset: first pilot subcarrier, below the step.
        boost_db: power of a pilot [dB] relative to 1.
        values: pilot symbols; default: a fixed QPSK sequence of modulus 1 (`wichan.observations.sequences.default_values`).
        num_tx_ant: transmit antennas; several share the comb in turn (`kronecker_pattern`).
        pattern: a `PilotPattern` instead of all of the above.
        learnable: make the pilots a parameter. Only elements that carry a pilot are trained: silent ones stay silent.
        domain: ``"frequency"``, one channel coefficient an element, or ``"time"``, an OFDM waveform through paths:
            `TimeDomainPilots`, which is returned and takes more arguments, and observes rays instead of ``h``.
        waveform: those arguments.

    Attributes:
        pilots: complex, (num_tx_ant, num_ofdm_symbols, num_subcarriers), boost included, zero where silent.
        mask: bool, (num_ofdm_symbols, num_subcarriers), where any antenna sends.
        pilot_index: int64, (num_pilots,), flat positions of the pilot elements, symbol-major.
        groups: int64, (num_ofdm_symbols, num_subcarriers), despreading groups of the pattern, or ``None``.

    Raises:
        InvalidValueError, InvalidTypeError, ShapeError: a pattern that does not fit the grid.

    Example:
        >>> grid = OFDMGrid(num_ofdm_symbols=14, num_subcarriers=120, subcarrier_spacing=15e3)
        >>> pilots = OFDMPilots(grid, symbols=(2, 11), subcarrier_step=3)
        >>> pilots.num_pilots, pilots.no_from_snr_db(20.0)
        (80, 0.01)
    """

    snr_convention = "pilot"
    domain = "frequency"
    pilots = ComplexBuffer()

    def __new__(cls, *args: Any, domain: str = "frequency", **options: Any) -> OFDMPilots:
        """Choose the class of the domain."""
        if cls is OFDMPilots and domain == "time":
            from wichan.observations.time_domain import TimeDomainPilots

            return super().__new__(TimeDomainPilots)
        return super().__new__(cls)

    def __init__(
        self,
        grid: OFDMGrid,
        symbols: Sequence[int] | None = None,
        subcarrier_step: int = 1,
        *,
        subcarrier_offset: int = 0,
        boost_db: float = 0.0,
        values: Any = None,
        num_tx_ant: int = 1,
        pattern: PilotPattern | None = None,
        learnable: bool = False,
        domain: str = "frequency",
        **waveform: Any,
    ) -> None:
        super().__init__()
        check_grid(grid)
        check_choice("domain", domain, ("frequency", "time"))
        if waveform:
            raise InvalidTypeError(f"{next(iter(waveform))} is not an argument of pilots in the {self.domain} domain")
        if pattern is None:
            if symbols is None:
                raise InvalidValueError("symbols is missing; give the OFDM symbols that carry pilots, or a pattern")
            options: dict[str, Any] = {"subcarrier_offset": subcarrier_offset, "boost_db": boost_db, "values": values}
            if num_tx_ant == 1:
                pattern = patterns.comb_pattern(grid, symbols, subcarrier_step, **options)
            else:
                pattern = patterns.kronecker_pattern(grid, symbols, num_tx_ant, subcarrier_step, **options)
        elif symbols is not None:
            raise InvalidValueError("symbols and pattern are both given; a pattern already says where the pilots are")
        elif not isinstance(pattern, PilotPattern):
            raise InvalidTypeError(f"pattern must be a PilotPattern, got {type(pattern).__name__}")
        if tuple(pattern.pilots.shape[1:]) != grid.shape:
            raise ShapeError(f"pilots has shape {tuple(pattern.pilots.shape)}; the last axes must be {grid.shape}")
        self.grid = grid
        self.name = pattern.name
        self.num_tx_ant = pattern.num_tx_ant
        self.learnable = bool(learnable)
        self._place(pattern)

    def _place(self, pattern: PilotPattern) -> None:
        values = pattern.values
        if self.learnable:
            real = torch.view_as_real(values.detach().resolve_conj()).clone().contiguous()
            self.register_parameter("pilots_ri", nn.Parameter(real))
        else:
            self.pilots = values
        active = values.detach() != 0
        mask = active.any(dim=0)
        index = mask.flatten().nonzero().flatten()
        symbols, subcarriers = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
        power = values.detach().abs().square().sum(dim=0)[mask]
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("pilot_index", index, persistent=False)
        self.register_buffer("pilot_symbols", symbols, persistent=False)
        self.register_buffer("pilot_subcarriers", subcarriers, persistent=False)
        self.register_buffer("groups", pattern.groups, persistent=False)
        self.num_pilots = int(index.numel())
        self.is_separable = bool(
            self.num_tx_ant == 1
            and not self.learnable
            and index.numel() == symbols.numel() * subcarriers.numel()
            and float(power.max() - power.min()) <= 1e-5 * float(power.max())
        )

    mask: torch.Tensor
    pilot_index: torch.Tensor
    pilot_symbols: torch.Tensor
    pilot_subcarriers: torch.Tensor
    groups: torch.Tensor | None

    # -- Other ways to build one. --

    @classmethod
    def from_pattern(
        cls, grid: OFDMGrid, pattern: PilotPattern | torch.Tensor, *, learnable: bool = False, **waveform: Any
    ) -> OFDMPilots:
        """Build from a `PilotPattern`, or from pilots (num_tx_ant, T, F) or (T, F), which may require a gradient."""
        if isinstance(pattern, torch.Tensor):
            pattern = PilotPattern("custom", pattern if pattern.dim() != 2 else pattern[None])
        return cls(grid, pattern=pattern, learnable=learnable, **waveform)

    @classmethod
    def comb(cls, grid: OFDMGrid, *args: Any, learnable: bool = False, **options: Any) -> OFDMPilots:
        """Build from the arguments of `comb_pattern`."""
        return cls.from_pattern(grid, patterns.comb_pattern(grid, *args, **options), learnable=learnable)

    @classmethod
    def block(cls, grid: OFDMGrid, *args: Any, learnable: bool = False, **options: Any) -> OFDMPilots:
        """Build from the arguments of `block_pattern`."""
        return cls.from_pattern(grid, patterns.block_pattern(grid, *args, **options), learnable=learnable)

    @classmethod
    def kronecker(cls, grid: OFDMGrid, *args: Any, learnable: bool = False, **options: Any) -> OFDMPilots:
        """Build from the arguments of `kronecker_pattern`."""
        return cls.from_pattern(grid, patterns.kronecker_pattern(grid, *args, **options), learnable=learnable)

    @classmethod
    def dmrs(cls, grid: OFDMGrid, *, learnable: bool = False, **options: Any) -> OFDMPilots:
        """Build from the arguments of `dmrs_pattern`."""
        return cls.from_pattern(grid, dmrs_pattern(grid, **options), learnable=learnable)

    # -- The linear map. --

    def pilot_values(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Pilots on the pilot elements, complex, (num_tx_ant, num_pilots); no gradient flows to silent antennas."""
        values = self.pilots.flatten(-2).index_select(-1, self.pilot_index)
        if values.requires_grad:
            values = torch.where(values.detach() != 0, values, torch.zeros_like(values))
        return values if dtype is None else values.to(dtype)

    def project(self, h: torch.Tensor) -> torch.Tensor:
        r"""Signal on the pilot elements, without noise.

        Args:
            h: complex, (\*batch, num_rx_ant, num_tx_ant, num_ofdm_symbols, num_subcarriers).

        Returns:
            complex, (\*batch, num_rx_ant, num_pilots), symbol-major. Cost: 8 num_tx_ant num_pilots FLOP an antenna.
        """
        check_shape("h", h, (None, self.num_tx_ant, *self.grid.shape))
        sent = h.flatten(-2).index_select(-1, self.pilot_index) * self.pilot_values(h.dtype)
        return sent.squeeze(-2) if self.num_tx_ant == 1 else sent.sum(dim=-2)

    def apply(self, h: Any) -> Any:
        """`project` for a tensor; for a function `torch.nn.Module.apply`, so that weight initialisers still pass through."""
        return self.project(h) if isinstance(h, torch.Tensor) else super().apply(h)

    def adjoint(self, x: torch.Tensor) -> torch.Tensor:
        r"""Adjoint of `project`: (\*batch, num_rx_ant, num_pilots) to (\*batch, num_rx_ant, num_tx_ant, T, F)."""
        check_shape("x", x, (None, self.num_pilots))
        spread = x.unsqueeze(-2) * self.pilot_values(x.dtype).conj()
        full = spread.new_zeros(*spread.shape[:-1], self.grid.num_resource_elements)
        return full.index_copy(-1, self.pilot_index, spread).unflatten(-1, self.grid.shape)

    def matrix(self, num_rx_ant: int = 1) -> torch.Tensor:
        """Dense matrix of `project` on flattened channels, (num_rx_ant num_pilots, num_rx_ant num_tx_ant T F)."""
        values = self.pilot_values()
        full = values.new_zeros(self.num_pilots, self.num_tx_ant, self.grid.num_resource_elements)
        full[torch.arange(self.num_pilots, device=values.device), :, self.pilot_index] = values.mT
        return torch.kron(torch.eye(num_rx_ant, dtype=full.dtype, device=full.device), full.flatten(1))

    def extract(self, y: torch.Tensor) -> torch.Tensor:
        r"""Pilot elements of a received grid: (\*batch, num_rx_ant, T, F) to (\*batch, num_rx_ant, num_pilots)."""
        check_shape("y", y, (None, *self.grid.shape))
        return y.flatten(-2).index_select(-1, self.pilot_index)

    # -- The observation. --

    def noiseless(self, h: torch.Tensor) -> torch.Tensor:
        r"""Received grid without noise, (\*batch, num_rx_ant, T, F); zero outside the pilots."""
        signal = self.project(check_tensor("h", h, kind="complex"))
        full = signal.new_zeros(*signal.shape[:-1], self.grid.num_resource_elements)
        return full.index_copy(-1, self.pilot_index, signal).unflatten(-1, self.grid.shape)

    def observe(self, h: torch.Tensor, no: Any, *, generator: torch.Generator) -> torch.Tensor:
        r"""Received grid with noise on every resource element; differentiable in ``h``, the pilots and ``no``.

        The noise is drawn on the generator's device, and drawn also where ``no`` is 0, so that one seed gives the same noise
        pattern at every SNR.

        Args:
            h: complex, (\*batch, num_rx_ant, num_tx_ant, num_ofdm_symbols, num_subcarriers).
            no: noise variance per resource element, a number or a tensor over the leading batch axes.
            generator: source of the noise.

        Returns:
            y: complex as ``h``, (\*batch, num_rx_ant, num_ofdm_symbols, num_subcarriers).

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: half precision or real ``h``, another number of antennas, NaN on
                a pilot element, a negative or complex ``no``.
        """
        signal = check_finite("h", self.project(check_tensor("h", h, kind="complex")))
        check_generator("generator", generator)
        real = h.real.dtype
        noise_power = check_noise(no, signal.shape[:-1], dtype=real, device=h.device)
        shape = (*signal.shape[:-1], self.grid.num_resource_elements)
        noise = torch.randn(*shape, 2, generator=generator, device=generator.device, dtype=real)
        noise = noise.to(h.device).mul_(noise_amplitude(noise_power, 2))
        # In place: the only full-size array is the noise itself. Adding on the pilot elements alone costs 1/10 of a pass.
        return torch.view_as_complex(noise).index_add_(-1, self.pilot_index, signal).unflatten(-1, self.grid.shape)

    # -- Power. --

    @property
    def pilot_power(self) -> float:
        """E|p|^2 over the elements and antennas that send."""
        power = self.pilots.detach().abs().square()
        return float(power.sum(dtype=torch.float64) / (power > 0).sum())

    @property
    def signal_power(self) -> float:
        """sum_a |p_a|^2 averaged over pilot elements: E|signal|^2 there for uncorrelated antennas of unit power."""
        return float(self.pilots.detach().abs().square().sum(dtype=torch.float64)) / self.num_pilots

    def no_from_snr_db(self, snr_db: Any, *, mean_power: float = 1.0) -> Any:
        """Noise variance for an SNR per pilot [dB]; number in, number out, tensor in, tensor out."""
        return snr.no_from_snr_db(snr_db, "pilot", self, mean_power=mean_power)

    def snr_db_from_no(self, no: Any, *, mean_power: float = 1.0) -> Any:
        """SNR per pilot [dB] of a noise variance."""
        return snr.snr_db_from_no(no, "pilot", self, mean_power=mean_power)

    def extra_repr(self) -> str:
        return f"{self.name}, num_tx_ant={self.num_tx_ant}, num_pilots={self.num_pilots}, grid={self.grid.shape}"
