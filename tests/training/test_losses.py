"""Losses: values against plain loops and closed forms, and where their gradients go."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from wichan.estimators import Estimate
from wichan.random import complex_normal
from wichan.training import LOSSES, make_loss

SHAPE = (3, 2, 1, 4, 5)


@pytest.fixture
def pair(generator: torch.Generator) -> tuple[Estimate, torch.Tensor]:
    h = complex_normal(SHAPE, generator=generator, dtype=torch.complex128)
    h_hat = h + complex_normal(SHAPE, 0.1, generator=generator, dtype=torch.complex128)
    err_var = 0.05 + torch.rand(SHAPE, generator=generator, dtype=torch.float64)
    return Estimate(h_hat, err_var), h


def by_hand(name: str, estimate: Estimate, h: torch.Tensor) -> float:
    """The table of the module, element by element."""
    h_hat, err_var, truth = (x.numpy() for x in (estimate.h_hat, estimate.err_var, h))
    frames = [np.ravel(np.abs(a - b) ** 2) for a, b in zip(h_hat, truth, strict=True)]
    if name == "mse":
        return float(np.mean(frames))
    if name == "nmse":
        return float(np.sum(frames) / np.sum(np.abs(truth) ** 2))
    if name == "log-mse":
        return float(np.mean([math.log(frame.mean()) for frame in frames]))
    return float(
        np.mean(
            [
                np.log(v) + e / v
                for frame, variance in zip(frames, err_var, strict=True)
                for e, v in zip(frame, variance.ravel(), strict=True)
            ]
        )
    )


@pytest.mark.parametrize("name", LOSSES)
def test_values_against_plain_loops(name: str, pair: tuple[Estimate, torch.Tensor]) -> None:
    assert float(make_loss(name)(*pair)) == pytest.approx(by_hand(name, *pair), rel=1e-12)  # float64


def test_a_sum_adds_up(pair: tuple[Estimate, torch.Tensor]) -> None:
    total = float(make_loss("log-mse + nll + mse")(*pair))
    assert total == pytest.approx(sum(by_hand(name, *pair) for name in ("log-mse", "nll", "mse")), rel=1e-12)


def test_nll_is_least_at_the_true_variance(generator: torch.Generator) -> None:
    h = torch.zeros(64, 1, 1, 8, 8, dtype=torch.complex128)
    h_hat = complex_normal(h.shape, 0.3, generator=generator, dtype=torch.complex128)
    mean = float(h_hat.abs().square().mean())
    values = [float(make_loss("nll")(Estimate(h_hat, torch.full(h.shape, mean * f).double()), h)) for f in (0.9, 1.0, 1.1)]
    assert values[1] < min(values[0], values[2])
    assert values[1] == pytest.approx(math.log(mean) + 1, rel=1e-12)  # entropy of the Gaussian, less ln(pi)


def gradients(name: str, pair: tuple[Estimate, torch.Tensor]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    h_hat, err_var = (x.clone().requires_grad_() for x in pair[0])
    make_loss(name)(Estimate(h_hat, err_var), pair[1]).backward()
    return h_hat.grad, err_var.grad


def test_in_a_sum_nll_trains_the_error_alone(pair: tuple[Estimate, torch.Tensor]) -> None:
    mean, variance = gradients("log-mse+nll", pair)
    assert torch.equal(mean, gradients("log-mse", pair)[0])
    assert torch.equal(variance, gradients("nll", pair)[1])
    assert gradients("nll", pair)[0] is not None  # alone it trains both
    assert gradients("mse", pair)[1] is None


def test_gradients_hold_where_the_error_is_zero(pair: tuple[Estimate, torch.Tensor]) -> None:
    exact = Estimate(pair[1].clone(), pair[0].err_var)
    for name in LOSSES:
        grad = gradients(name, (exact, pair[1]))[0]
        assert torch.isfinite(torch.view_as_real(grad)).all()


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("msee", UnknownNameError, "did you mean 'mse'"),
        ("mse+", UnknownNameError, "loss=''"),
        ("mse+nll+mse", InvalidValueError, "names a term twice"),
        (3, InvalidTypeError, "loss must be a name, got int"),
    ],
)
def test_wrong_names(name: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match="^[^\n]*$") as caught:
        make_loss(name)  # type: ignore[arg-type]
    assert text in str(caught.value)
