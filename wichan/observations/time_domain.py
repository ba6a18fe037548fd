"""Pilots that are sent as an OFDM waveform, through paths instead of one number per resource element."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from wichan.channels.rays import Rays
from wichan.errors import (
    InvalidTypeError,
    InvalidValueError,
    ShapeError,
    check_choice,
    check_finite,
    check_generator,
    check_int,
    check_noise,
    check_real,
    check_shape,
    check_tensor,
)
from wichan.grid import OFDMGrid
from wichan.observations.base import noise_amplitude
from wichan.observations.ofdm import OFDMPilots
from wichan.observations.waveform import Waveform, fast_size, shifted_rays

DATA = ("qpsk", "none")
NEIGHBOURS = ("data", "silence")


class TimeDomainPilots(OFDMPilots):
    r"""OFDM pilots behind a real transmitter, multipath and receiver: what ``OFDMPilots(..., domain="time")`` builds.

    Pilots and data go through an IFFT and a cyclic prefix, every path delays and turns the waveform sample by sample, the
    receiver cuts its windows out (late by ``timing_offset``, off the carrier by ``carrier_offset``) and takes an FFT:

    .. math:: y_r(s, k) = \frac{1}{N} \sum_{n=0}^{N-1} e^{-j 2\pi f_k n T_u / N}\; e^{j 2\pi \epsilon t_n}
        \sum_{c,a} g_{c,r,a}(t_n)\, x_a(t_n - \tau_c) + n_r(s, k),\qquad t_n = s T_s + T_{cp} + \delta + n T_u / N .

    The received grid has the same format as in the frequency domain, so every estimator runs on it unchanged. It equals the
    frequency-domain observation where paths stand still during a symbol, arrive within the cyclic prefix and the receiver
    is in time and on the carrier. Elsewhere it holds interference between symbols and between subcarriers too, of pilots
    *and* data. `channel` says what an estimator can hope to find, `interference` what remains.

    Signs: a positive ``timing_offset`` :math:`\delta` is a window that starts late, a ramp :math:`e^{+j 2\pi f \delta}`; the
    tail of the window then holds the next symbol. A negative one starts in the cyclic prefix, a ramp as from a longer
    delay, and costs nothing while :math:`\tau - \delta \le T_{cp}`. A positive ``carrier_offset`` :math:`\epsilon` turns like
    a positive Doppler shift, :math:`e^{+j 2\pi \epsilon t}`.

    Noise: white samples stay white behind the FFT, so ``no`` is the variance on a resource element, and one seed gives the
    noise that `OFDMPilots.observe` draws. The SNR convention stays "pilot": interference is not in it.

    Args:
        grid: the lattice; the cyclic prefix is ``grid.cyclic_prefix``, of any length in samples.
        symbols, subcarrier_step: as in `OFDMPilots`, and so are the other arguments of a pattern.
        fft_size: samples in a window, at least the number of subcarriers; default the next power of two. It decides how
            much interference of the others the edges of the band hear, nothing else (see `wichan.observations.waveform`).
        data: ``"qpsk"``: elements without a pilot carry random QPSK, each antenna its own, of power 1 in sum; ``"none"``:
            they are silent.
        neighbours: what the symbols before and after the frame are: ``"data"`` (random QPSK) or ``"silence"``. Default: data
            with ``data="qpsk"``, else silence.
        timing_offset: [s], how much later than nominal the receiver's windows start, within one symbol.
        carrier_offset: [Hz], how far the received carrier lies above the receiver's.
        pilots: the other arguments of `OFDMPilots`.

    Raises:
        InvalidValueError, InvalidTypeError, ShapeError: a size, offset or name that is not allowed, and what `OFDMPilots`
            refuses.

    Cost: see `wichan.observations.waveform`.

    Example:
        >>> from wichan.channels import TDL
        >>> grid = OFDMGrid(num_ofdm_symbols=14, num_subcarriers=120, subcarrier_spacing=15e3)
        >>> obs = OFDMPilots(grid, symbols=(2, 11), subcarrier_step=3, domain="time")
        >>> g = torch.Generator().manual_seed(7)
        >>> rays = TDL("A", delay_spread=100e-9, max_doppler=300.0).sample(8, generator=g)
        >>> y = obs.observe(rays, no=0.01, generator=g, timing_offset=-0.5e-6)
        >>> y.shape, obs.channel(rays, timing_offset=-0.5e-6).shape
        (torch.Size([8, 1, 14, 120]), torch.Size([8, 1, 1, 14, 120]))
    """

    domain = "time"

    def __init__(
        self,
        grid: OFDMGrid,
        symbols: Sequence[int] | None = None,
        subcarrier_step: int = 1,
        *,
        domain: str = "time",
        fft_size: int | None = None,
        data: str = "qpsk",
        neighbours: str | None = None,
        timing_offset: float = 0.0,
        carrier_offset: float = 0.0,
        **pilots: Any,
    ) -> None:
        check_choice("domain", domain, ("time",))
        super().__init__(grid, symbols, subcarrier_step, **pilots)
        least = grid.num_subcarriers
        size = fast_size(least) if fft_size is None else check_int("fft_size", fft_size, minimum=least)
        self.waveform = Waveform(grid, size)
        self.data = check_choice("data", data, DATA)
        default = "data" if self.data == "qpsk" else "silence"
        self.neighbours = default if neighbours is None else check_choice("neighbours", neighbours, NEIGHBOURS)
        self.timing_offset = check_real("timing_offset", timing_offset)
        self.carrier_offset = check_real("carrier_offset", carrier_offset)
        self._offsets(None, None, torch.Size(), torch.device("cpu"))  # refuse what is out of range now, not at the first use

    # -- What is sent, what arrives. --

    def sent(
        self,
        batch_shape: Sequence[int] = (),
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.complex64,
        device: torch.device | str | None = None,
    ) -> torch.Tensor:
        r"""Symbols of a frame and of its two neighbours: pilots, fresh random data, and silence elsewhere.

        Args:
            batch_shape: leading axes.
            generator: source of the data; not needed where nothing is random.
            dtype: complex dtype.
            device: where the symbols go; default that of the pilots.

        Returns:
            complex, (\*batch_shape, num_tx_ant, 1 + num_ofdm_symbols + 1, num_subcarriers). Differentiable in the pilots.
        """
        device = self.mask.device if device is None else device
        lead = (*batch_shape, self.num_tx_ant)
        times, width = self.grid.shape
        values = self.pilot_values(dtype).to(device)
        frame = values.new_zeros(self.num_tx_ant, times * width).index_copy(-1, self.pilot_index.to(device), values)
        frame = torch.nn.functional.pad(frame.unflatten(-1, (times, width)), (0, 0, 1, 1))
        if self.data == "none" and self.neighbours == "silence":
            return frame.expand(*lead, times + 2, width)
        signs = torch.randint(
            0, 2, (*lead, times + 2, width, 2), generator=_needed(generator), device=_needed(generator).device
        )
        real = values.real.dtype
        symbols = torch.view_as_complex((signs.to(device, real) * 2 - 1) * math.sqrt(0.5 / self.num_tx_ant))
        carries = (~self.mask.to(device)) if self.data == "qpsk" else torch.zeros_like(self.mask, device=device)
        edge = carries.new_full((1, width), self.neighbours == "data")
        return frame + symbols * torch.cat([edge, carries, edge]).to(real)

    def noiseless(  # type: ignore[override]  # paths instead of a channel on the grid
        self,
        rays: Rays,
        sent: torch.Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        timing_offset: Any = None,
        carrier_offset: Any = None,
    ) -> torch.Tensor:
        r"""Received grid without noise, with all interference.

        Args:
            rays: paths of a batch of links (`wichan.channels.Rays`), as ``model.sample(...)`` draws them.
            sent: symbols as `sent` makes them, (\*batch, num_tx_ant, 1 + num_ofdm_symbols + 1, num_subcarriers); batch axes
                may be left out. Default: fresh ones from ``generator``.
            generator: source of the data; needed where ``sent`` is not given and something is random.
            timing_offset: [s], a number or a tensor over the leading batch axes; default the observation's.
            carrier_offset: [Hz], likewise.

        Returns:
            complex as the rays' gains, (\*batch, num_rx_ant, num_ofdm_symbols, num_subcarriers). Differentiable in gains,
            Dopplers, array responses, offsets and pilots, and in delays where no sample crosses the edge of a symbol.

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: a channel on the grid instead of paths, NaN, another number of
                antennas, paths or offsets that reach beyond the neighbouring symbols, a missing generator.
        """
        heard = self._heard(rays, timing_offset, carrier_offset)
        if sent is None:
            sent = self.sent(rays.batch_shape, generator=generator, dtype=rays.gain.dtype, device=rays.gain.device)
        return self.waveform.receive(heard, self._check_sent(sent, rays))

    def observe(  # type: ignore[override]
        self,
        rays: Rays,
        no: Any,
        *,
        generator: torch.Generator,
        sent: torch.Tensor | None = None,
        timing_offset: Any = None,
        carrier_offset: Any = None,
    ) -> torch.Tensor:
        r"""Received grid with interference, and noise on every resource element.

        Noise is drawn first and data after it: one seed gives the noise of the frequency-domain observation. Differentiable
        in what `noiseless` is, and in ``no``.

        Args:
            rays: paths of a batch of links.
            no: noise variance per resource element, a number or a tensor over the leading batch axes.
            generator: source of noise and data.
            sent, timing_offset, carrier_offset: as in `noiseless`.

        Returns:
            y: complex as the rays' gains, (\*batch, num_rx_ant, num_ofdm_symbols, num_subcarriers).

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: what `noiseless` refuses, a negative or complex ``no``.
        """
        heard = self._heard(rays, timing_offset, carrier_offset)
        check_generator("generator", generator)
        gain = rays.gain
        lead = (*rays.batch_shape, rays.num_rx_ant)
        noise_power = check_noise(no, lead, dtype=gain.real.dtype, device=gain.device)
        shape = (*lead, self.grid.num_resource_elements, 2)
        noise = torch.randn(*shape, generator=generator, device=generator.device, dtype=gain.real.dtype)
        noise = noise.to(gain.device).mul_(noise_amplitude(noise_power, 2))
        if sent is None:
            sent = self.sent(rays.batch_shape, generator=generator, dtype=gain.dtype, device=gain.device)
        signal = self.waveform.receive(heard, self._check_sent(sent, rays))
        return signal + torch.view_as_complex(noise).unflatten(-1, self.grid.shape)

    # -- What there is to find, and what is in the way. --

    def channel(self, rays: Rays, *, timing_offset: Any = None, carrier_offset: Any = None) -> torch.Tensor:
        r"""What multiplies each element's own symbol: the channel that an estimator should find.

        The diagonal of the frequency-domain system matrix: the channel averaged over the window, with the ramp of the timing
        offset, the turn of the carrier offset (and its loss, a sinc), and only the part of the window in which a path brings
        the symbol itself. Without any of these it is the channel on the grid.

        Args:
            rays: paths of a batch of links.
            timing_offset, carrier_offset: as in `noiseless`.

        Returns:
            complex, (\*batch, num_rx_ant, num_tx_ant, num_ofdm_symbols, num_subcarriers).
        """
        return self.waveform.own_gain(self._heard(rays, timing_offset, carrier_offset))

    def interference(
        self, rays: Rays, sent: torch.Tensor, *, timing_offset: Any = None, carrier_offset: Any = None
    ) -> torch.Tensor:
        r"""What other elements and other symbols leave on each element, (\*batch, num_rx_ant, T, F).

        `noiseless` less `channel` times the element's own symbols; its mean power is what `doppler_distortion` and
        `late_path_distortion` predict for a fully loaded grid.
        """
        offsets = {"timing_offset": timing_offset, "carrier_offset": carrier_offset}
        own = sent[..., 1:-1, :].unsqueeze(-4) * self.channel(rays, **offsets)
        return self.noiseless(rays, sent, **offsets) - own.sum(-3)

    # -- Checks. --

    def _heard(self, rays: Any, timing_offset: Any, carrier_offset: Any) -> Rays:
        if not isinstance(rays, Rays):
            raise InvalidTypeError(
                f"rays must be wichan.channels.Rays, got {type(rays).__name__}: in the time domain a channel is its paths, "
                "as model.sample(...) draws them"
            )
        check_tensor("rays.gain", rays.gain, kind="complex")
        if rays.num_tx_ant != self.num_tx_ant:
            raise ShapeError(f"rays have num_tx_ant={rays.num_tx_ant}; the pilots ask for {self.num_tx_ant}")
        for name in ("gain", "delay", "doppler", "rx_response", "tx_response"):
            if (value := getattr(rays, name)) is not None:
                check_finite(f"rays.{name}", value)
        timing, carrier = self._offsets(timing_offset, carrier_offset, rays.batch_shape, rays.gain.device)
        heard = shifted_rays(rays, timing, carrier)
        if not torch.compiler.is_compiling() and heard.delay.numel():
            low, high = self.waveform.reach
            first, last = (float(edge) for edge in torch.aminmax(heard.delay.detach()))
            if first <= low or last > high:
                worst = last if last > high else first
                raise InvalidValueError(
                    f"rays.delay - timing_offset holds {worst:g} s; only the symbols next to one's own are heard, "
                    f"{low:g} to {high:g} s"
                )
        return heard

    def _offsets(self, timing: Any, carrier: Any, batch: torch.Size, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = (self.timing_offset if timing is None else timing, self.carrier_offset if carrier is None else carrier)
        limits = (self.grid.symbol_duration, self.grid.subcarrier_spacing * self.waveform.fft_size / 2)
        checked = []
        for name, unit, value, limit in zip(("timing_offset", "carrier_offset"), ("s", "Hz"), chosen, limits, strict=True):
            tensor = _over_batch(name, value, batch, device)
            worst = 0.0 if torch.compiler.is_compiling() or not tensor.numel() else float(tensor.detach().abs().max())
            if worst >= limit:
                bound = "one OFDM symbol" if unit == "s" else "half the sampling rate"
                raise InvalidValueError(f"{name} reaches {worst:g} {unit}; it must stay below {bound}, {limit:g} {unit}")
            checked.append(tensor)
        return checked[0], checked[1]

    def _check_sent(self, sent: Any, rays: Rays) -> torch.Tensor:
        check_tensor("sent", sent, kind="complex")
        check_shape("sent", sent, (self.num_tx_ant, self.grid.num_ofdm_symbols + 2, self.grid.num_subcarriers))
        check_finite("sent", sent)
        lead = sent.shape[:-3]
        if lead and tuple(lead) != tuple(rays.batch_shape):
            raise ShapeError(f"sent has batch axes {tuple(lead)}; the rays have {tuple(rays.batch_shape)}")
        return sent.to(rays.gain.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, domain='time', fft_size={self.waveform.fft_size}, data={self.data!r}"


def _needed(generator: torch.Generator | None) -> torch.Generator:
    return check_generator("generator", generator)


def _over_batch(name: str, value: Any, batch: torch.Size, device: torch.device) -> torch.Tensor:
    """An offset as a float64 tensor, () or over all batch axes."""
    if not isinstance(value, torch.Tensor):
        return torch.tensor(check_real(name, value), dtype=torch.float64, device=device)
    check_finite(name, check_tensor(name, value, kind="real"))
    fits = value.dim() <= len(batch) and all(have in (1, want) for have, want in zip(value.shape, batch, strict=False))
    if not fits:
        raise ShapeError(f"{name} has shape {tuple(value.shape)}; it must fit the batch {tuple(batch)}")
    wide = value.to(device, torch.float64)
    return wide.reshape(*wide.shape, *([1] * (len(batch) - wide.dim()))).expand(batch) if wide.dim() else wide
