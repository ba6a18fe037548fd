r"""Elements of a surface: reflections from phases, phases of few bits, and elements that fail.

The element numbering is that of `wichan.channels.IRSCascade`, row by row. `surface_array` gives a surface as an antenna array
in that order, so that a clustered delay line or a ray tracer can be one of its hops.
"""

from __future__ import annotations

import math

import torch

from wichan.channels.arrays import AntennaArray
from wichan.errors import InvalidValueError, ShapeError, check_finite, check_generator, check_int, check_real, check_tensor
from wichan.random import uniform


def reflection_from_phases(phases: torch.Tensor, amplitude: torch.Tensor | float = 1.0) -> torch.Tensor:
    r"""Reflection :math:`\beta e^{j\varphi}`.

    Args:
        phases: real [rad], any shape.
        amplitude: a number in [0, 1], or a real tensor of them that broadcasts to ``phases``.

    Returns:
        complex tensor of the shape and precision of ``phases``, differentiable in both.

    Raises:
        InvalidTypeError, InvalidValueError: phases that are not real or finite, an amplitude outside [0, 1].
    """
    check_finite("phases", check_tensor("phases", phases, kind="real"))
    if isinstance(amplitude, torch.Tensor):
        check_finite("amplitude", check_tensor("amplitude", amplitude, kind="real"))
        if not torch.compiler.is_compiling() and amplitude.numel():
            low, high = (float(bound) for bound in torch.aminmax(amplitude.detach()))
            if low < 0 or high > 1:
                raise InvalidValueError(f"amplitude={low if low < 0 else high:g} must be between 0 and 1")
        size = amplitude.to(phases).broadcast_to(phases.shape)
    else:
        size = torch.full_like(phases, check_real("amplitude", amplitude, minimum=0.0, maximum=1.0))
    return torch.complex(size * phases.cos(), size * phases.sin())


def quantize_phases(phases: torch.Tensor, num_bits: int) -> torch.Tensor:
    r"""Round phases to the nearest of :math:`2^b` levels :math:`2\pi k / 2^b`, with the gradient of the identity.

    Args:
        phases: real [rad], any shape.
        num_bits: bits b of an element, 1 to 16; 1 bit gives reflections of +1 and -1.

    Returns:
        levels in [0, 2 pi), the shape and dtype of ``phases``. The gradient passes straight through, so that phases can be
        learned through the rounding. With uniformly distributed phases the mean of the rounding error's phasor is
        :math:`\mathrm{sinc}(2^{-b})`: 0.64, 0.90, 0.97 for 1, 2, 3 bits, and coherent power falls with its square.

    Raises:
        InvalidTypeError, InvalidValueError: phases that are not real or finite, bits outside 1 to 16.
    """
    check_finite("phases", check_tensor("phases", phases, kind="real"))
    levels = 1 << check_int("num_bits", num_bits, minimum=1, maximum=16)
    step = 2 * math.pi / levels
    rounded = torch.remainder((phases.detach() / step).round(), levels) * step
    # Adding the phase and its detached self is exact: (p - p) is zero.
    return rounded + (phases - phases.detach())


def draw_elements(shape: tuple[int, ...], failure_rate: float, *, generator: torch.Generator) -> torch.Tensor:
    """State of elements that fail independently: 1 where one works, 0 where it is dark, complex64 ``shape``."""
    check_real("failure_rate", failure_rate, minimum=0.0, maximum=1.0)
    check_generator("generator", generator)
    return (uniform(shape, generator=generator) >= failure_rate).to(torch.complex64)


def stuck_reflection(reflection: torch.Tensor, failed: torch.Tensor, stuck: torch.Tensor | complex = 0.0) -> torch.Tensor:
    r"""Reflection of a surface some of whose elements no longer follow their control.

    Args:
        reflection: the wanted one, complex (\*batch, L).
        failed: bool, broadcasts with ``reflection``: True where an element is stuck.
        stuck: what stuck elements reflect: a number, or a complex tensor that broadcasts; 0: they are dark.

    Returns:
        complex, the broadcast shape, differentiable in ``reflection`` where elements work.

    Raises:
        InvalidTypeError, ShapeError: a reflection that is not complex, a mask that is not bool or does not fit.
    """
    check_tensor("reflection", reflection, kind="complex")
    if check_tensor("failed", failed).dtype != torch.bool:
        raise InvalidValueError(f"failed has dtype {failed.dtype}; it must be torch.bool")
    if failed.shape[-1:] != reflection.shape[-1:]:
        raise ShapeError(f"failed has shape {tuple(failed.shape)}; reflection asks for {tuple(reflection.shape[-1:])} elements")
    return torch.where(failed, torch.as_tensor(stuck, dtype=reflection.dtype, device=reflection.device), reflection)


def surface_array(shape: int | tuple[int, int]) -> AntennaArray:
    """A surface as an antenna array in the element order of `IRSCascade`.

    Args:
        shape: number of elements of a linear surface (along y), or (rows, cols): the row runs along z, the column along y.

    Returns:
        isotropic elements in half a wavelength, element 0 at the origin, in the y-z plane facing x.
    """
    if isinstance(shape, (tuple, list)) and len(shape) != 2:
        raise ShapeError(f"shape={tuple(shape)} must be a number or a pair (rows, cols)")
    rows, cols = shape if isinstance(shape, (tuple, list)) else (1, shape)
    rows, cols = check_int("rows", rows, minimum=1), check_int("cols", cols, minimum=1)
    row = torch.arange(rows, dtype=torch.float64).repeat_interleave(cols) / 2
    col = torch.arange(cols, dtype=torch.float64).repeat(rows) / 2
    return AntennaArray(torch.stack([torch.zeros_like(row), col, row], dim=-1), name=f"surface-{rows}x{cols}")
