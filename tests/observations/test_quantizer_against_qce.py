"""The package of the method's authors, qce, as an independent implementation of quantisers and Bussgang statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wichan.observations import QuantizedPilots, Quantizer
from wichan.random import complex_normal

pytestmark = pytest.mark.peers


def covariance(generator: torch.Generator) -> torch.Tensor:
    root = complex_normal((6, 6), generator=generator, dtype=torch.complex128)
    cov = root @ root.mH / 6 + 0.1 * torch.eye(6)
    return cov / cov.diagonal().real.mean()


def peer_quantizer(num_bits: int, snr_db: float) -> object:
    """Their uniform quantiser with our step: their table has four digits."""
    from qce.quantizers import uniform_midrise_quantizer

    no = 10 ** (-snr_db / 10)
    return uniform_midrise_quantizer(Quantizer(num_bits).step * np.sqrt((1 + no) / 2), num_bits)


@pytest.mark.parametrize("num_bits", range(1, 9))
def test_their_tables_equal_our_designs_to_their_digits(num_bits: int) -> None:
    from qce.quantizers import standard_distortion_factor, standard_quantization_step

    assert standard_quantization_step(num_bits) == pytest.approx(Quantizer(num_bits).step, abs=6e-5 if num_bits > 1 else 3e-4)
    # Theirs are Max's printed digits, off by 0.1 % at four and five bits.
    assert standard_distortion_factor(num_bits) == pytest.approx(Quantizer(num_bits).distortion, rel=1.2e-3)


@pytest.mark.parametrize("num_bits", [2, 3])
def test_their_lloyd_max_stops_near_ours(num_bits: int) -> None:
    from qce.quantizers import lloyd_max_quantizer

    theirs = lloyd_max_quantizer(10.0, num_bits).quantizer
    scale = np.sqrt(1.1 / 2)
    ours = Quantizer(num_bits, "lloyd-max")
    # Lloyd's iteration stops at a change of 1e-5 and converges linearly, by a factor of some 0.7 to 0.9 a step.
    np.testing.assert_allclose(theirs.labels, ours.labels.numpy() * scale, atol=3e-4)
    np.testing.assert_allclose(theirs.thresholds, ours.thresholds.numpy() * scale, atol=3e-4)


@pytest.mark.parametrize("num_bits", [2, 3, 6])
def test_same_samples(num_bits: int, generator: torch.Generator) -> None:
    y = complex_normal((500, 6), generator=generator, dtype=torch.complex128)
    got = QuantizedPilots(torch.eye(6, dtype=torch.complex128), num_bits).quantize(y, 0.1)
    peer = peer_quantizer(num_bits, 10.0)
    np.testing.assert_allclose(got.real, peer.quantize(y.real.numpy()), atol=1e-12)
    np.testing.assert_allclose(got.imag, peer.quantize(y.imag.numpy()), atol=1e-12)


@pytest.mark.parametrize("num_bits", [1, 2, 3])
def test_same_gains_and_covariances(num_bits: int, generator: torch.Generator) -> None:
    from qce.quantizers import bussgang_diagonal, quantized_covariance, quantized_variance

    cov, no = covariance(generator), 0.1
    obs = QuantizedPilots(torch.eye(6, dtype=torch.complex128), num_bits)
    variance = cov.diagonal().real
    # Their gain takes the step from their table of four digits; the slope of the gain in the step is below 1.
    tolerance = 1e-13 if num_bits == 1 else 1e-4
    np.testing.assert_allclose(
        obs.bussgang_gain(variance, no), bussgang_diagonal(variance.numpy(), num_bits, 10.0), atol=tolerance
    )
    peer = peer_quantizer(num_bits, 10.0)
    method = "exact" if num_bits == 1 else "white"
    theirs = quantized_covariance(cov.numpy(), num_bits, snr_db=10.0, quantizer=peer)
    np.testing.assert_allclose(obs.output_covariance(cov, no, method), theirs, atol=max(1e-12, 2 * tolerance))
    if num_bits > 1:
        np.testing.assert_allclose(obs.output_power(variance, no), quantized_variance(variance.numpy(), peer), atol=1e-12)


def test_same_lloyd_max_gains(generator: torch.Generator) -> None:
    from qce.quantizers import ScalarQuantizer, lloyd_max_bussgang_matrix

    cov = covariance(generator)
    obs = QuantizedPilots(torch.eye(6, dtype=torch.complex128), 3, kind="lloyd-max")
    ours, scale = obs.converters.quantizers[0], obs.scale(0.1)
    peer = ScalarQuantizer(ours.thresholds.numpy() * scale, ours.labels.numpy() * scale)
    theirs = np.diag(lloyd_max_bussgang_matrix(cov.numpy(), 3, peer)).real
    np.testing.assert_allclose(obs.bussgang_gain(cov.diagonal().real, 0.1), theirs, atol=1e-12)
