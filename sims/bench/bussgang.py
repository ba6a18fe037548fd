"""Mixtures of Bussgang filters beside gmm-estimator (no quantisation) and qce (1, 2, 3 bits): same prior, same observations."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from harness import Row, median_seconds

from wichan.channels import SpatialGaussian
from wichan.estimators import BussgangGMM
from wichan.observations import QuantizedPilots
from wichan.priors import GMM

COUNT, SNR_DB = 10_000, 10.0


def _fitted(size: int) -> tuple[GMM, torch.Tensor]:
    """A prior of as many components as antennas, fitted to one-cluster channels, and other channels."""
    model, generator = SpatialGaussian(size), torch.Generator().manual_seed(2)
    train, test = (model.sample(COUNT, generator=generator).h[..., 0] for _ in range(2))
    return GMM(size, max_iter=30).fit(train), test


def _peer(prior: GMM, num_bits: float, no: float) -> Callable[[np.ndarray], np.ndarray]:
    """The peer with the prior's parameters in place of a fit of its own."""
    from gmm_estimator import GmmEstimator
    from qce.estimators import BussgangGmmEstimator
    from qce.quantizers import uniform_midrise_quantizer, uniform_quantization_step

    size = prior.dim
    peer = (GmmEstimator if math.isinf(num_bits) else BussgangGmmEstimator)(n_components=len(prior.weights), zero_mean=True)
    peer.weights_, peer.means_ = prior.weights.numpy(), np.zeros((len(prior.weights), size), complex)
    peer.covariances_, peer.n_features_in_ = prior.covariances().numpy(), size
    noise = no * np.eye(size)
    if math.isinf(num_bits):
        return lambda y: peer.estimate(y, noise)
    quantizer = None
    if num_bits > 1:
        quantizer = uniform_midrise_quantizer(float(uniform_quantization_step(SNR_DB, num_bits)), num_bits)
    return lambda y: peer.estimate_quantized(y, noise, n_bits=num_bits, quantizer=quantizer, snr_db=SNR_DB)


def _in_turn(ours: Callable[[], Any], peer: Callable[[], Any], repeats: int) -> tuple[float, float, float, float]:
    """Median wall and CPU seconds of both, in turn, five calls of ours at a time; the caller has warmed both up."""
    walls: tuple[list[float], list[float]] = ([], [])
    cpus: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for which, (work, calls) in enumerate(((ours, 5), (peer, 1))):
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(calls):
                work()
            walls[which].append((time.perf_counter() - wall) / calls)
            cpus[which].append((time.process_time() - cpu) / calls)
    return tuple(statistics.median(values) for values in (*walls, *cpus))  # type: ignore[return-value]


def _real_gemm_rate(size: int) -> float:
    """Rate [FLOP/s] of the real product that gives the posterior, as large as fits into the caches."""
    left, right = torch.randn(size, 1024), torch.randn(1024, 1024)
    return 2 * size * 1024 * 1024 / median_seconds(lambda: left @ right, 15)


def bussgang(repeats: int) -> list[Row]:
    """Estimates of 10^4 observations with N = K = 32 and 64 at 10 dB, A = I: filters at hand ("hot") or to be built ("cold").

    The floor is the arithmetic that is left, one real product for the posterior and one filter an observation, at the rate
    of this machine's real matrix products.
    """
    rows, no = [], 10 ** (-SNR_DB / 10)
    for size in (32, 64):
        prior, h = _fitted(size)
        floor = (2 * size * size**2 + 8 * size**2) / _real_gemm_rate(size)
        for num_bits in (math.inf, 1, 2, 3):
            obs = QuantizedPilots(torch.eye(size, dtype=torch.complex128), num_bits)
            r = obs.observe(h, no, generator=torch.Generator().manual_seed(3))
            # What the peer does: the arcsine law, or distortion that is white over the converters.
            method = "exact" if num_bits == 1 else "white"
            est, peer, wide = BussgangGMM(prior, obs, method=method), _peer(prior, num_bits, no), r.to(torch.complex128).numpy()
            ours, theirs = est(r, no).h_hat, torch.from_numpy(peer(wide))
            fast, slow, cpu, peer_cpu = _in_turn(lambda e=est, x=r: e(x, no), lambda p=peer, x=wide: p(x), min(repeats, 3))
            cold = median_seconds(lambda o=obs, x=r, m=method, q=prior: BussgangGMM(q, o, method=m)(x, no), repeats)
            name = "gmm-estimator" if math.isinf(num_bits) else "qce"
            setting = f"N = K = {size}, {'no quantisation' if math.isinf(num_bits) else f'{num_bits} bit'}"
            rows.append(Row("mixture of filters", f"{setting}, hot", "obs", fast / COUNT, name, slow / COUNT, ">= 10x", floor))
            rows.append(Row("mixture of filters", f"{setting}, cold", "obs", cold / COUNT, name, slow / COUNT, "", floor))
            errors = [float((x - h).abs().square().mean()) for x in (ours, theirs)]
            print(
                f"{setting}: CPU {cpu:.4f} s and {peer_cpu:.3f} s, {peer_cpu / cpu:.3g}x; "
                f"MSE {errors[0]:.6f} and {errors[1]:.6f}, apart by {abs(errors[0] / errors[1] - 1):.1e}",
                flush=True,
            )
    return rows
