"""Dense linear pilots: y = A h + n against NumPy, batches, power, gradients and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError
from wichan.observations import DensePilots, OFDMGrid, OFDMPilots
from wichan.random import complex_normal


@pytest.fixture
def matrix(generator: torch.Generator) -> torch.Tensor:
    return complex_normal((5, 12), generator=generator)


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
@pytest.mark.parametrize("shape", [None, (2, 1, 2, 3)])
def test_measurements_equal_numpy(matrix: torch.Tensor, lead: tuple, shape: tuple | None, generator: torch.Generator) -> None:
    obs = DensePilots(matrix, shape)
    h = complex_normal((*lead, *obs.channel_shape), generator=generator)
    want = np.einsum("mn,...n->...m", matrix.numpy(), h.reshape(*lead, 12).numpy())
    np.testing.assert_allclose(obs.noiseless(h).numpy(), want, atol=1e-5)
    assert obs.observe(h, 0.1, generator=generator).shape == (*lead, 5)


def test_adjoint(matrix: torch.Tensor, generator: torch.Generator) -> None:
    obs = DensePilots(matrix, (3, 4))
    h = complex_normal((2, 3, 4), generator=generator, dtype=torch.complex128)
    x = complex_normal((2, 5), generator=generator, dtype=torch.complex128)
    torch.testing.assert_close((obs.project(h).conj() * x).sum(), (h.conj() * obs.adjoint(x)).sum())
    assert torch.equal(obs.matrix(), matrix)
    assert torch.equal(obs.extract(x), x)


def test_same_as_ofdm_pilots_with_their_matrix(generator: torch.Generator) -> None:
    pilots = OFDMPilots.kronecker(OFDMGrid(2, 6, 15e3), (0, 1), 2)
    obs = DensePilots(pilots.matrix(2), (2, 2, 2, 6))
    h = complex_normal((3, 2, 2, 2, 6), generator=generator)
    torch.testing.assert_close(obs.noiseless(h), pilots.project(h).flatten(-2))
    assert obs.signal_power == pytest.approx(pilots.signal_power)


def test_noise_and_snr(matrix: torch.Tensor, generator: torch.Generator) -> None:
    obs = DensePilots(matrix)
    no = obs.no_from_snr_db(3.0)
    h = complex_normal((20000, 12), generator=generator)
    noise = obs.observe(h, torch.full((20000,), no), generator=generator) - obs.noiseless(h)
    ratio = obs.noiseless(h).abs().square().mean() / noise.abs().square().mean()
    # 20000 x 5 samples on each side: within 0.05 dB.
    assert 10 * math.log10(ratio) == pytest.approx(3.0, abs=0.1)
    assert obs.snr_db_from_no(no) == pytest.approx(3.0)


def test_gradients_reach_channel_and_matrix(generator: torch.Generator) -> None:
    matrix = complex_normal((3, 4), generator=generator, dtype=torch.complex128).requires_grad_()
    h = complex_normal((2, 4), generator=generator, dtype=torch.complex128).requires_grad_()

    def run(matrix: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return DensePilots(matrix).observe(h, 0.2, generator=torch.Generator().manual_seed(1))

    assert torch.autograd.gradcheck(run, (matrix, h))


A = torch.ones(2, 4, dtype=torch.complex64)
G = torch.Generator()
BAD = [
    (lambda: DensePilots(A.real), InvalidTypeError, "matrix has dtype torch.float32"),
    (lambda: DensePilots(A[0]), ShapeError, r"matrix has shape \(4,\)"),
    (lambda: DensePilots(A * torch.nan), InvalidValueError, "matrix holds 8 NaN"),
    (lambda: DensePilots(A, (2, 3)), ShapeError, r"channel_shape=\(2, 3\) has 6 elements"),
    (lambda: DensePilots(A, (0, 4)), InvalidValueError, "channel_shape=0 must be at least 1"),
    (lambda: DensePilots(A).observe(A[:, :3], 1.0, generator=G), ShapeError, r"h has shape \(2, 3\)"),
    (lambda: DensePilots(A).observe(A * torch.nan, 1.0, generator=G), InvalidValueError, "h holds"),
    (lambda: DensePilots(A).observe(A.real, 1.0, generator=G), InvalidTypeError, "h has dtype"),
    (lambda: DensePilots(A).observe(A, -1.0, generator=G), InvalidValueError, "no=-1 must be at least 0"),
    (lambda: DensePilots(A).observe(A, torch.ones(3), generator=G), ShapeError, "no has shape"),
    (lambda: DensePilots(A).extract(A), ShapeError, "y has shape"),
    (lambda: DensePilots(A).adjoint(A), ShapeError, "x has shape"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=[message[:40] for _, _, message in BAD])
def test_bad_input_gets_one_line(call, kind, message) -> None:
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
