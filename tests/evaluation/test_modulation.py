"""Square QAM: labels, power, decisions."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from wichan.evaluation import QAM
from wichan.evaluation.modulation import MODULATIONS


@pytest.mark.parametrize("name", MODULATIONS)
def test_constellation_has_unit_power_and_gray_neighbours(name: str) -> None:
    qam = QAM(name)
    points = qam.points
    assert len(set(points.tolist())) == 2**qam.bits_per_symbol
    assert float(points.abs().square().mean()) == pytest.approx(1, rel=1e-6)
    distance = (points[:, None] - points).abs()
    closest = float(distance[distance > 1e-6].min())
    for a, b in itertools.combinations(range(len(points)), 2):
        if float(distance[a, b]) < 1.01 * closest:
            assert (a ^ b).bit_count() == 1  # neighbours differ in one bit


def test_16qam_is_that_of_ts_38211() -> None:
    """d = ((1 - 2 b0)(2 - (1 - 2 b2)) + j (1 - 2 b1)(2 - (1 - 2 b3))) / sqrt(10), clause 5.1.4."""
    for label in range(16):
        b = [label >> (3 - i) & 1 for i in range(4)]
        expected = ((1 - 2 * b[0]) * (2 - (1 - 2 * b[2])) + 1j * (1 - 2 * b[1]) * (2 - (1 - 2 * b[3]))) / math.sqrt(10)
        assert complex(QAM("16qam").points[label]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", MODULATIONS)
def test_decision_is_the_nearest_point(name: str, generator: torch.Generator) -> None:
    qam = QAM(name)
    received = 1.3 * torch.randn(4000, dtype=torch.complex64, generator=generator)
    nearest = (received[:, None] - qam.points).abs().argmin(dim=1)
    expected = (nearest[:, None] >> torch.arange(qam.bits_per_symbol - 1, -1, -1)) & 1
    assert torch.equal(qam.demap(received), expected.bool())
    assert torch.equal(qam.demap(received.conj().to(torch.complex128))[:, 0], expected[:, 0].bool())


def test_random_bits_come_back_and_are_fair(generator: torch.Generator) -> None:
    qam = QAM("64qam")
    bits = qam.random_bits((50, 400), generator=generator)
    assert torch.equal(qam.demap(qam.map(bits)), bits)
    assert float(bits.double().mean()) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(bits.numel()))  # 4 standard errors


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: QAM("16-qam"), UnknownNameError, "did you mean '16qam'"),
        (lambda: QAM("qpsk").map(torch.zeros(3, 2)), InvalidTypeError, "bits"),
        (lambda: QAM("qpsk").map(torch.zeros(3, 4, dtype=torch.int64)), InvalidValueError, "last axis must be 2"),
        (lambda: QAM("qpsk").map(torch.full((3, 2), 2)), InvalidValueError, "other than 0 and 1"),
        (lambda: QAM("qpsk").demap(torch.zeros(3)), InvalidTypeError, "symbols"),
    ],
)
def test_bad_input(call, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        call()
    assert "\n" not in str(caught.value)
