"""The posterior behind sparse Bayesian learning: the literal dense formulas for every method, and its calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from wichan.estimators.sbl_posterior import GaussianPosterior, contract
from wichan.linalg import kron
from wichan.observations import KroneckerDictionary
from wichan.random import complex_normal

SHAPES = {1: [(6, 9)], 2: [(3, 5), (4, 6)], 3: [(3, 5), (2, 4), (4, 6)]}


def normal(*shape: int, generator: torch.Generator, kind: str = "complex") -> torch.Tensor:
    """Gaussian numbers of unit power in double precision."""
    if kind == "real":
        return torch.randn(*shape, generator=generator, dtype=torch.float64)
    return complex_normal(shape, generator=generator, dtype=torch.complex128)


def dictionary(modes: int, kind: str, generator: torch.Generator, synthesis: bool = True) -> KroneckerDictionary:
    factors = [normal(*shape, generator=generator, kind=kind) for shape in SHAPES[modes]]
    made = [normal(3, shape[1], generator=generator, kind=kind) for shape in SHAPES[modes]] if synthesis else None
    return KroneckerDictionary(factors, made)


def literal(a: np.ndarray, c: np.ndarray, y: np.ndarray, no: float, gamma: np.ndarray) -> dict[str, Any]:
    """Posterior, cost and noise update as the textbook writes them, with an inverse and the whole covariance."""
    s = no * np.eye(len(a)) + (a * gamma) @ a.conj().T
    inverse = np.linalg.inv(s)
    g = np.diag(gamma)
    covariance = g - g @ a.conj().T @ inverse @ a @ g
    mean = g @ a.conj().T @ inverse @ y
    variance = np.diag(covariance).real
    on = gamma > 0
    residual = np.linalg.norm(y - a @ mean) ** 2
    return {
        "mean": mean,
        "variance": variance,
        "cost": np.linalg.slogdet(s)[1] + (y.conj() @ inverse @ y).real,
        "noise": (residual + no * (1 - variance[on] / gamma[on]).sum()) / len(a),
        "channel": np.diag(c @ covariance @ c.conj().T).real,
    }


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("modes", [1, 2, 3])
@pytest.mark.parametrize("method", ["modes", "support", "dense", "auto"])
def test_posterior_equals_the_literal_formulas(kind: str, modes: int, method: str, generator: torch.Generator) -> None:
    d = dictionary(modes, kind, generator)
    y = normal(3, d.num_measurements, generator=generator, kind=kind)
    gamma = torch.rand(3, *d.num_atoms, generator=generator, dtype=torch.float64)
    gamma[1] *= torch.rand(d.num_atoms, generator=generator) < 0.2  # most atoms off: another set of equations under "auto"
    no = torch.tensor([0.3, 0.02, 1.5], dtype=torch.float64)
    kernel = GaussianPosterior(d.factors, method)
    rows = d.to_grid(y)
    got = kernel.moments(rows, no, gamma, kernel.correlate(rows))
    channel = kernel.channel_variance(d.synthesis, no, gamma)
    a, c = d.dense().numpy(), kron(*d.synthesis).numpy()
    for i in range(3):
        want = literal(a, c, y[i].numpy(), float(no[i]), gamma[i].flatten().numpy())
        found = {
            "mean": got.mean[i],
            "variance": got.variance[i],
            "cost": got.cost[i],
            "noise": got.noise[i],
            "channel": channel[i],
        }
        for name, value in found.items():
            # Two orders of summing in double precision behind an inverse with a condition number of about 1e4.
            np.testing.assert_allclose(
                value.flatten().numpy(),
                np.atleast_1d(want[name]),
                rtol=1e-10,
                atol=1e-10 * np.abs(want[name]).max(),
                err_msg=name,
            )


def test_error_variance_is_that_of_draws_from_the_prior(generator: torch.Generator) -> None:
    # With the true prior variances the posterior is exact: the mean of |h - h_hat|^2 over draws is the channel variance.
    d, count = dictionary(2, "complex", generator), 20000
    gamma = torch.rand(1, *d.num_atoms, generator=generator, dtype=torch.float64).expand(count, -1, -1)
    x = normal(count, *d.num_atoms, generator=generator) * gamma.sqrt()
    no = torch.full((count,), 0.3, dtype=torch.float64)
    y = d.to_grid(d.measure(x) + 0.3**0.5 * normal(count, d.num_measurements, generator=generator))
    kernel = GaussianPosterior(d.factors)
    mean = kernel.moments(y, no, gamma, kernel.correlate(y)).mean
    want = kernel.channel_variance(d.synthesis, no[:1], gamma[:1])[0]
    got = (d.channel(x) - d.channel(mean)).abs().square().mean(dim=0)
    # An exponential variable averaged over 20000 draws has a deviation of 0.7 %; 4.5 of them over 9 entries.
    torch.testing.assert_close(got, want, rtol=0.032, atol=0)


def test_large_channels_are_done_in_parts(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    d = dictionary(3, "complex", generator)
    gamma = torch.rand(4, *d.num_atoms, generator=generator, dtype=torch.float64)
    no = torch.full((4,), 0.1, dtype=torch.float64)
    for method in ("modes", "support"):
        want = GaussianPosterior(d.factors, method).channel_variance(d.synthesis, no, gamma)
        with monkeypatch.context() as patch:
            patch.setattr("wichan.estimators.sbl_posterior._CHUNK_BYTES", {"cpu": 1})
            got = GaussianPosterior(d.factors, method).channel_variance(d.synthesis, no, gamma)
        # The same sums, one row of the first factor and one instance at a time.
        torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("real", [False, True])
def test_contraction_equals_einsum(real: bool, generator: torch.Generator) -> None:
    x, matrices = normal(2, 3, 4, 5, generator=generator), [normal(n + 2, n, generator=generator) for n in (3, 4, 5)]
    for state in (x, x.real.contiguous()):
        want = torch.einsum("bijk,pi,qj,rk->bpqr", state.to(x.dtype), *matrices)
        # Rounding of sums of at most 60 terms.
        torch.testing.assert_close(contract(state, matrices, real=real), want.real if real else want, rtol=1e-12, atol=1e-12)
