"""Layers and helpers that several estimators and models share."""

from wichan.nn.buffers import ComplexBuffer

__all__ = ["ComplexBuffer"]
