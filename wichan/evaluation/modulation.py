"""Square QAM with Gray labels: bits to symbols and, by hard decision, back."""

from __future__ import annotations

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, check_choice, check_int, check_tensor

#: name -> bits a symbol.
MODULATIONS = {"qpsk": 2, "16qam": 4, "64qam": 6, "256qam": 8}


class QAM:
    r"""A square constellation of unit mean power, labelled as in TS 38.211 clause 5.1.

    Even bits choose the real part and odd bits the imaginary part. Each part is a Gray-labelled amplitude, built from the
    last of its m bits to the first:

    .. math:: v_m = 1 - 2 b_m, \qquad v_l = (1 - 2 b_l)\,(2^{m-l} - v_{l+1}), \qquad x = \frac{v_1}{\sqrt{2 (4^m - 1) / 3}}

    Args:
        name: ``"qpsk"``, ``"16qam"``, ``"64qam"`` or ``"256qam"``.

    Attributes:
        bits_per_symbol: 2 m.

    Raises:
        UnknownNameError: another name.

    Example:
        >>> qam = QAM("16qam")
        >>> symbols = qam.map(torch.tensor([[0, 0, 1, 1], [1, 0, 0, 0]]))
        >>> [complex(round(x.real, 3), round(x.imag, 3)) for x in symbols.tolist()]
        [(0.949+0.949j), (-0.316+0.316j)]
        >>> qam.demap(symbols).int().tolist()
        [[0, 0, 1, 1], [1, 0, 0, 0]]
    """

    def __init__(self, name: str = "16qam") -> None:
        check_choice("modulation", name, MODULATIONS)
        self.name = name
        self.bits_per_symbol = MODULATIONS[name]
        self._levels = self.bits_per_symbol // 2
        self._scale = float((2 * (4**self._levels - 1) / 3) ** -0.5)

    def __repr__(self) -> str:
        return f"QAM({self.name!r})"

    @property
    def points(self) -> torch.Tensor:
        """The constellation, complex64, (2^bits_per_symbol,); a point's position is its label, first bit highest."""
        shifts = torch.arange(self.bits_per_symbol - 1, -1, -1)
        return self.map(torch.arange(2**self.bits_per_symbol)[:, None] >> shifts & 1)

    def map(self, bits: torch.Tensor) -> torch.Tensor:
        r"""Symbols of labels.

        Args:
            bits: 0 and 1, bool or integer, (\*, bits_per_symbol).

        Returns:
            complex64, (\*). Cost: 4 bits_per_symbol FLOP a symbol.

        Raises:
            InvalidTypeError, InvalidValueError: another dtype, another number of bits, or a value that is no bit.
        """
        if not isinstance(bits, torch.Tensor) or bits.is_floating_point() or bits.is_complex():
            kind = bits.dtype if isinstance(bits, torch.Tensor) else type(bits).__name__
            raise InvalidTypeError(f"bits must be a bool or integer tensor, got {kind}")
        if bits.dim() < 1 or bits.shape[-1] != self.bits_per_symbol:
            raise InvalidValueError(
                f"bits has shape {tuple(bits.shape)}; the last axis must be {self.bits_per_symbol} for {self.name}"
            )
        if bits.dtype != torch.bool and bits.numel() and bool(((bits < 0) | (bits > 1)).any()):
            raise InvalidValueError("bits holds values other than 0 and 1")
        signs = 1 - 2 * bits.unflatten(-1, (self._levels, 2)).to(torch.float32)
        value = signs[..., -1, :]
        for level in range(self._levels - 2, -1, -1):
            value = signs[..., level, :] * (2 ** (self._levels - 1 - level) - value)
        return torch.view_as_complex((value * self._scale).contiguous())

    def demap(self, symbols: torch.Tensor) -> torch.Tensor:
        r"""Labels of the nearest points; a value on a border goes to the bit 0.

        Args:
            symbols: complex, (\*), finite.

        Returns:
            bool, (\*, bits_per_symbol). Cost: 3 bits_per_symbol FLOP a symbol.

        Raises:
            InvalidTypeError: real or half-precision symbols.
        """
        check_tensor("symbols", symbols, kind="complex")
        value = torch.view_as_real(symbols.resolve_conj()) / self._scale
        planes = [value < 0]
        for level in range(1, self._levels):
            # |v_l| = 2^(m-l) - v_(l+1), so what is left after a level has the sign of the next bit.
            value = 2 ** (self._levels - level) - value.abs()
            planes.append(value < 0)
        return torch.cat(planes, dim=-1)

    def random_bits(self, shape: tuple[int, ...], *, generator: torch.Generator) -> torch.Tensor:
        r"""Draw independent fair bits, bool, (\*shape, bits_per_symbol), on the generator's device."""
        size = (*(check_int("shape", length, minimum=0) for length in shape), self.bits_per_symbol)
        return torch.randint(2, size, generator=generator, device=generator.device, dtype=torch.uint8).bool()
