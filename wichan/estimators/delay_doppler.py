"""`DelayDopplerMixture`: the conditional mean over a codebook of delay profiles and Doppler spectra, told nothing."""

from __future__ import annotations

from typing import Any

import torch

from wichan.channels.covariance import ChannelCovariance, KroneckerTerm
from wichan.errors import (
    InvalidTypeError,
    InvalidValueError,
    check_finite,
    check_int,
    check_noise,
    check_real,
    check_shape,
    check_tensor,
)
from wichan.estimators.base import Estimate, Estimator
from wichan.estimators.delay_doppler_axes import Axis, delay_factors, doppler_factors
from wichan.estimators.mixture import SeparableMixture
from wichan.estimators.mixture_joint import JointMixture
from wichan.estimators.pilot_lattice import PilotLattice
from wichan.observations.ofdm import OFDMPilots
from wichan.random import make_generator

_LEAST_SIGNAL = 0.02  # share of the pilots' power that counts as signal at least
_CLEANINGS = 2  # rounds that take off the pilots what despreading lets through; more change the error by less than 1 %
_JOINT_SHAPES = 11  # of each kind where pilots are no lattice: every pair keeps a filter over the whole grid


class DelayDopplerMixture(Estimator):
    r"""Bayesian estimator that is told nothing but the noise, for any grid, pilot lattice and number of antennas.

    What a receiver does not know of a channel's statistics it can expect: random profiles and spectra are drawn as
    standardised cluster models draw them (`wichan.estimators.scattering`; no table such as TDL-A is among them), and a codebook
    of them is designed for the pilots at hand (`wichan.estimators.codebook`). A channel is then a Gaussian mixture over delay
    shape b, Doppler shape a and power s, and the estimate its conditional mean,

    .. math:: \hat h = \sum_{a,b,s} p(a, b, s \mid y)\; \mathrm{LMMSE}_{s T_a \otimes F_b}(y),

    with ``err_var`` the variance of that mixture (`wichan.estimators.mixture.SeparableMixture`). All receive and transmit
    antennas vote on (a, b, s) together. On wide bands, where a frame shows its paths one by one, the codebook of some tens of
    shapes is a smooth prior and no more.

    Transmit antennas that share pilot elements are told apart by despreading, through which a channel that varies within a
    group leaks into the others. What leaks follows from the estimate: it is taken off the pilots and the estimate made anew.

    It follows the scale and the phase of its input exactly: powers are counted from the frame's own pilots, with an even
    prior over ``scales_db`` around them.

    Args:
        obs: the pilots. Where they are a lattice (symbols x subcarriers, the same for every antenna up to a shift, equal power)
            everything is done for each axis. Elsewhere 11 x 11 shapes at most keep a filter each, without a choice of powers,
            and every receive antenna votes for itself.
        num_delay_shapes, num_doppler_shapes: size of the codebooks.
        scales_db: powers around the frame's own that are thought possible; fading makes that one uncertain.
        delay_spread: least and largest RMS delay spread that is thought possible [s], log-uniform.
        max_doppler: largest Doppler that is thought possible [Hz]; default 0.43 / (spacing of an antenna's pilot symbols).
        num_draws: profiles and spectra that each codebook is made from.
        seed: of the draws; the same seed gives the same codebook.

    Raises:
        InvalidTypeError, InvalidValueError: no pilots, no ``max_doppler`` for pilots in one symbol, wrong sizes.

    Cost: seconds to build. A frame and antenna: about 30 A B C S r FLOP for A Doppler shapes, B delay shapes, C powers, S pilot
    symbols and r modes of a delay shape, and 8 S J (r + T/2) FLOP for every (a, b) with a posterior above 1e-7, J about 2 r.

    Example:
        >>> from wichan.grid import OFDMGrid
        >>> obs = OFDMPilots(OFDMGrid(14, 24, 15e3), symbols=(2, 11), subcarrier_step=3)
        >>> est = DelayDopplerMixture(obs, num_delay_shapes=4, num_doppler_shapes=4, num_draws=50)
        >>> g = torch.Generator().manual_seed(7)
        >>> y = obs.observe(torch.ones(2, 1, 1, 14, 24, dtype=torch.complex64), 0.1, generator=g)
        >>> est(y, 0.1).h_hat.shape
        torch.Size([2, 1, 1, 14, 24])
    """

    told = ()
    scales: torch.Tensor
    wanted_times: torch.Tensor
    wanted_frequencies: torch.Tensor
    pilot_times: torch.Tensor
    pilot_frequencies: torch.Tensor

    def __init__(
        self,
        obs: OFDMPilots,
        *,
        num_delay_shapes: int = 48,
        num_doppler_shapes: int = 40,
        scales_db: tuple[float, ...] = (-4.0, 0.0, 4.0),
        delay_spread: tuple[float, float] = (20e-9, 500e-9),
        max_doppler: float | None = None,
        num_draws: int = 3000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_int("num_delay_shapes", num_delay_shapes, minimum=1)
        check_int("num_doppler_shapes", num_doppler_shapes, minimum=1)
        low, high = (check_real("delay_spread", value, minimum=1e-12, maximum=1e-3) for value in delay_spread)
        if low > high:
            raise InvalidValueError(f"delay_spread={tuple(delay_spread)} must be (least, largest)")
        if not isinstance(obs, OFDMPilots):
            raise InvalidTypeError(f"obs must be OFDMPilots, got {type(obs).__name__}")
        self.obs = obs
        self.lattice = _lattice(obs)
        self._prior = (check_int("num_draws", num_draws, minimum=1), (low, high), _top(obs, self.lattice, max_doppler))
        scales = 10 ** (torch.tensor([check_real("scales_db", s) for s in scales_db], dtype=torch.float64) / 10)
        self.register_buffer("scales", scales, persistent=False)
        generator = make_generator(seed, "delay-doppler-mixture")
        if self.lattice is None:
            size = (min(num_delay_shapes, _JOINT_SHAPES), min(num_doppler_shapes, _JOINT_SHAPES))
            self.mixture = self._joint(*size, generator)
        else:
            self.mixture = self._separable(self.lattice, num_delay_shapes, num_doppler_shapes, generator)
        for name, axis in (("times", self.time), ("frequencies", self.frequency)):
            self.register_buffer(f"wanted_{name}", axis.wanted, persistent=False)
            self.register_buffer(f"pilot_{name}", axis.pilots, persistent=False)
        self.to(obs.pilots.device)

    time: Axis
    frequency: Axis
    mixture: SeparableMixture | JointMixture

    def _shapes(self, delays: int, dopplers: int, generator: torch.Generator) -> tuple[list[Any], list[Any], torch.Tensor]:
        """Time factors, frequency factors and ln of their prior, (dopplers, delays)."""
        draws, delay_spread, top = self._prior
        grid = self.obs.grid
        frequencies, often = delay_factors(self.frequency, grid.subcarrier_spacing, delay_spread, draws, delays, generator)
        times, frequent = doppler_factors(self.time, grid.symbol_duration, top, draws, dopplers, generator)
        return times, frequencies, frequent.log()[:, None] + often.log()

    def _separable(self, lattice: PilotLattice, delays: int, dopplers: int, generator: torch.Generator) -> SeparableMixture:
        grid = self.obs.grid
        symbol, spacing = grid.symbol_duration, grid.subcarrier_spacing
        self.time = Axis.of(lattice.times / symbol, lattice.start_time / symbol, grid.num_ofdm_symbols)
        self.frequency = Axis.of(lattice.frequencies / spacing, lattice.start_frequency / spacing, grid.num_subcarriers)
        times, frequencies, prior = self._shapes(delays, dopplers, generator)
        prior = prior[..., None].expand(-1, -1, len(self.scales))
        return SeparableMixture(times, frequencies, prior, self.time.pilots, self.frequency.pilots, self.scales)

    def _joint(self, delays: int, dopplers: int, generator: torch.Generator) -> JointMixture:
        """A mixture for pilots anywhere: one receive antenna at a time, white over transmit antennas, one power."""
        grid, zero = self.obs.grid, torch.zeros(1, dtype=torch.float64)
        self.time = Axis.of(self.obs.pilot_symbols.cpu().double(), zero, grid.num_ofdm_symbols)
        self.frequency = Axis.of(self.obs.pilot_subcarriers.cpu().double(), zero, grid.num_subcarriers)
        times, frequencies, prior = self._shapes(delays, dopplers, generator)
        white = torch.eye(self.obs.num_tx_ant, dtype=torch.complex128)
        covariances = [
            ChannelCovariance([KroneckerTerm(white, t, f)], 1, self.obs.num_tx_ant).to(self.obs.pilots.device)
            for t in times
            for f in frequencies
        ]
        return JointMixture(self.obs, covariances, prior.flatten().to(self.obs.pilots.device), rtol=1e-12, no_floor=1e-12)

    def forward(self, y: torch.Tensor, no: Any, **conditions: Any) -> Estimate:
        r"""Estimate the channel.

        Args:
            y: complex64 or complex128, (\*batch, num_rx_ant, num_ofdm_symbols, num_subcarriers).
            no: noise variance, at least 0: a number, or a tensor over the batch axes, the same for all antennas of a frame.
            conditions: not used.

        Returns:
            `Estimate`: h_hat and err_var, (\*batch, num_rx_ant, num_tx_ant, num_ofdm_symbols, num_subcarriers).

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: another grid, NaN on a pilot, a negative ``no``.
        """
        check_shape("y", check_tensor("y", y, kind="complex"), (None, *self.obs.grid.shape))
        batch, num_rx_ant = y.shape[:-3], y.shape[-3]
        noise = check_noise(no, batch, dtype=y.real.dtype, device=y.device).expand(batch).reshape(-1)
        frames = y.reshape(-1, *y.shape[-3:])
        if isinstance(self.mixture, JointMixture):
            h_hat, err_var = self._anywhere(self.mixture, frames, noise)
        else:
            h_hat, err_var = self._on_lattice(self.mixture, frames, noise)
        shape = (*batch, num_rx_ant, self.obs.num_tx_ant, *self.obs.grid.shape)
        return Estimate(h_hat.reshape(shape), err_var.reshape(shape))

    def _on_lattice(self, mixture: SeparableMixture, y: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.lattice is not None
        pilots, gain = self.lattice(y)
        noise = noise * gain.to(noise.dtype)
        power = _signal_power(pilots.flatten(1), noise)
        scale = power[:, None, None, None]
        clean = pilots
        for left in reversed(range(1 + (_CLEANINGS if self.lattice.is_despread else 0))):
            mean, variance, _ = mixture(clean.flatten(1, 2) / scale.sqrt(), noise / power)
            mean = mean * scale.sqrt()
            if left:
                clean = pilots - self._leak(self.lattice, mean)
        return self._on_grid(mean), self._on_grid(variance * scale)

    def _leak(self, lattice: PilotLattice, rows: torch.Tensor) -> torch.Tensor:
        """What despreading adds to the pilots of a channel that varies within a group, (n, rx, tx, S, K)."""
        at_pilots = rows.index_select(-2, self.pilot_times).index_select(-1, self.pilot_frequencies)
        despread, _ = lattice(OFDMPilots.noiseless(self.obs, self._on_grid(rows)))
        return despread - at_pilots.unflatten(1, (-1, self.obs.num_tx_ant))

    def _on_grid(self, rows: torch.Tensor) -> torch.Tensor:
        """Take from (n, antennas, rows, rows) what each transmit antenna calls the grid."""
        parts = rows.unflatten(1, (-1, self.obs.num_tx_ant)).unbind(2)
        picked = [
            part.index_select(-2, t).index_select(-1, f)
            for part, t, f in zip(parts, self.wanted_times, self.wanted_frequencies, strict=True)
        ]
        return torch.stack(picked, dim=2)

    def _anywhere(self, mixture: JointMixture, y: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pilots = check_finite("y", self.obs.extract(y)).flatten(0, 1)
        noise = noise.repeat_interleave(y.shape[1])
        power = _signal_power(pilots, noise) / self.obs.signal_power
        mean, variance, _ = mixture((pilots / power.sqrt()[:, None])[:, None], (noise / power).double())
        scale = power[:, None, None, None, None]
        return mean * scale.sqrt(), variance * scale

    def extra_repr(self) -> str:
        shape = tuple(self.mixture.log_weights.shape)
        return f"components={shape}, {'lattice' if self.lattice is not None else 'pilots anywhere'}"


def _lattice(obs: OFDMPilots) -> PilotLattice | None:
    """The pilots as a lattice, or None if they are none."""
    try:
        return PilotLattice(obs)
    except InvalidValueError:
        return None


def _signal_power(pilots: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Mean power of pilots (n, p) without the noise, above 0; a frame without any signal counts its noise."""
    seen = torch.view_as_real(pilots.resolve_conj()).square().sum(-1).mean(1)
    power = torch.maximum(seen - noise, _LEAST_SIGNAL * seen)
    return torch.where(power > 0, power, torch.where(noise > 0, noise, torch.ones_like(noise)))


def _top(obs: OFDMPilots, lattice: PilotLattice | None, max_doppler: float | None) -> float:
    if max_doppler is not None:
        return check_real("max_doppler", max_doppler, minimum=0.0)
    # Of one antenna: others may send at other times, and symbols that are despread together count as one.
    times = obs.pilot_symbols * obs.grid.symbol_duration if lattice is None else lattice.times
    if len(times) < 2:
        raise InvalidValueError(
            "max_doppler=None needs pilots of an antenna at 2 times at least; with one, say the largest Doppler [Hz]"
        )
    return 0.43 / float(times.diff().min())
