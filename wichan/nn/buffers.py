"""Complex module constants that survive ``.double()``, ``.to(float32)``, autocast and saving."""

from __future__ import annotations

import torch
from torch import nn


class ComplexBuffer:
    """Class attribute that stores a complex tensor as a real ``[..., 2]`` buffer of the module.

    PyTorch leaves complex buffers alone in ``.double()`` and drops their imaginary part in ``.to(torch.float32)``. A real
    buffer with a last axis of 2 follows both, is saved in ``state_dict`` under ``NAME_ri``, and is read back as complex.

    Example:
        >>> class Filter(nn.Module):
        ...     weight = ComplexBuffer()
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.weight = torch.ones(2, dtype=torch.complex64)
        >>> Filter().double().weight.dtype
        torch.complex128
    """

    def __init__(self, *, persistent: bool = True) -> None:
        self.persistent = persistent

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = f"{name}_ri"

    def __get__(self, module: nn.Module | None, owner: type | None = None) -> torch.Tensor:
        if module is None:
            return self  # type: ignore[return-value]
        return torch.view_as_complex(getattr(module, self.name))

    def __set__(self, module: nn.Module, value: torch.Tensor) -> None:
        real = torch.view_as_real(value.resolve_conj()).contiguous()
        if self.name in module._buffers:
            module._buffers[self.name] = real
        else:
            module.register_buffer(self.name, real, persistent=self.persistent)
