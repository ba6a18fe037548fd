"""Pictures of channels under reflection patterns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wichan.errors import InvalidValueError, ShapeError
from wichan.evaluation.plots.patterns import OF_INSTANTS, check_instants, pattern_figure


def test_a_picture_of_all_patterns_is_written(tmp_path: Path) -> None:
    h = torch.randn(4, 3, 7, 2, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    pattern_figure(h, tmp_path / "p.png", title="seven patterns in two rows")
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"


def test_a_silent_channel_has_a_picture(tmp_path: Path) -> None:
    pattern_figure(torch.zeros(2, 2, 2, 1, dtype=torch.complex64), tmp_path / "z.png")
    assert (tmp_path / "z.png").stat().st_size > 1000


def test_a_wrong_shape_is_told(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="rx, tx, patterns, subcarriers"):
        pattern_figure(torch.zeros(2, 2, 2, dtype=torch.complex64), tmp_path / "z.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", OF_INSTANTS)
def test_patterns_are_no_instants(kind: str) -> None:
    check_instants(kind, "ofdm-siso", "ofdm")
    with pytest.raises(InvalidValueError, match="reflection patterns"):
        check_instants(kind, "irs-mimo", "irs")
