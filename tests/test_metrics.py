"""NMSE in its two forms, MSE, per-sample sums and calibration against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError
from wichan.metrics import (
    calibration,
    error_and_energy,
    mse,
    nmse,
    nmse_db,
    nmse_mean_of_ratios,
    nmse_mean_of_ratios_db,
)
from wichan.random import complex_normal

SHAPE = (3, 2, 1, 4, 5)  # batch, rx, tx, symbols, subcarriers
NAN = float("nan")


def pair(generator: torch.Generator, dtype: torch.dtype = torch.complex64) -> tuple[torch.Tensor, torch.Tensor]:
    h = torch.randn(*SHAPE, dtype=dtype, generator=generator)
    return h + 0.1 * torch.randn(*SHAPE, dtype=dtype, generator=generator), h


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_both_normalised_errors_follow_their_definitions(dtype: torch.dtype, generator: torch.Generator) -> None:
    h_hat, h = pair(generator, dtype)
    wide = torch.complex128
    error = (h_hat.to(wide) - h.to(wide)).abs().square().flatten(1).sum(1)
    energy = h.to(wide).abs().square().flatten(1).sum(1)
    tol = 1e-6 if torch.finfo(dtype).eps > 1e-12 else 1e-13  # h_hat - h is rounded in the input's precision
    assert nmse(h_hat, h).dtype == torch.float64
    assert math.isclose(float(nmse(h_hat, h)), float(error.sum() / energy.sum()), rel_tol=tol)
    assert math.isclose(float(nmse_mean_of_ratios(h_hat, h)), float((error / energy).mean()), rel_tol=tol)
    assert math.isclose(float(mse(h_hat, h)), float(error.sum()) / h.numel(), rel_tol=tol)
    sums = error_and_energy(h_hat, h)
    assert sums.error.shape == sums.energy.shape == (3,)
    assert torch.allclose(sums.error, error, rtol=tol) and torch.allclose(sums.energy, energy, rtol=tol)
    assert math.isclose(float(nmse_db(h_hat, h)), 10 * math.log10(float(nmse(h_hat, h))), rel_tol=1e-12)
    ratios = nmse_mean_of_ratios(h_hat, h)
    assert math.isclose(float(nmse_mean_of_ratios_db(h_hat, h)), 10 * math.log10(float(ratios)), rel_tol=1e-12)


def test_the_two_normalised_errors_differ_as_their_names_say() -> None:
    h = torch.stack([torch.full((1, 1, 1, 2), 10.0), torch.full((1, 1, 1, 2), 1.0)])
    h_hat = h + 1.0  # error 2 in both samples; energies 200 and 2
    assert float(nmse(h_hat, h)) == 4 / 202
    assert float(nmse_mean_of_ratios(h_hat, h)) == (2 / 200 + 2 / 2) / 2
    # One trailing axis a sample gives the same here; all five axes as one sample give the ratio of sums.
    assert float(nmse_mean_of_ratios(h_hat, h, sample_dims=1)) == (2 / 200 + 2 / 2) / 2
    assert float(nmse_mean_of_ratios(h_hat, h, sample_dims=5)) == 4 / 202


@pytest.mark.parametrize(("dim", "shape"), [(0, (2, 1, 4, 5)), ((-1, -2), (3, 2, 1)), ([0, 1, 2, 3, 4], ())])
def test_reduced_axes(dim: int | tuple[int, ...], shape: tuple[int, ...], generator: torch.Generator) -> None:
    h_hat, h = pair(generator, torch.complex128)
    error, energy = (h_hat - h).abs().square(), h.abs().square()
    assert nmse(h_hat, h, dim).shape == nmse_db(h_hat, h, dim).shape == mse(h_hat, h, dim).shape == shape
    assert torch.allclose(nmse(h_hat, h, dim), error.sum(dim) / energy.sum(dim), rtol=1e-12)
    assert torch.allclose(mse(h_hat, h, dim), error.mean(dim), rtol=1e-12)


def test_a_perfect_estimate_is_minus_infinity_db(generator: torch.Generator) -> None:
    _, h = pair(generator)
    assert float(nmse(h, h)) == 0.0 and float(nmse_db(h, h)) == -math.inf


def test_sums_run_in_double_precision() -> None:
    # In float32 a sum of ones stalls at 2^24 when 1 is added to 2^24; and 1e30 squared overflows.
    h = torch.cat([torch.tensor([4096.0]), torch.ones(1000)])
    assert float(nmse(torch.zeros_like(h), h)) == 1.0
    assert float(mse(torch.zeros_like(h), h)) == (4096.0**2 + 1000) / 1001
    large = torch.full((4,), 1e30)
    assert math.isclose(float(nmse(2 * large, large)), 1.0, rel_tol=1e-6)


@settings(max_examples=30)
@given(scale=st.floats(1e-15, 1e15), phase=st.floats(0, 6.3), seed=st.integers(0, 999))
def test_a_common_complex_factor_changes_nothing(scale: float, phase: float, seed: int) -> None:
    h_hat, h = pair(torch.Generator().manual_seed(seed), torch.complex128)
    factor = scale * complex(math.cos(phase), math.sin(phase))
    for metric in (nmse, nmse_mean_of_ratios):
        assert math.isclose(float(metric(factor * h_hat, factor * h)), float(metric(h_hat, h)), rel_tol=1e-10)


def test_gradients_also_at_zero_error(generator: torch.Generator) -> None:
    h_hat, h = pair(generator, torch.complex128)
    leaves = (h_hat[:2, :1].detach().requires_grad_(), h[:2, :1].detach().requires_grad_())
    for metric in (nmse, nmse_mean_of_ratios, mse, lambda a, b: nmse_db(a, b, dim=-1)):
        assert torch.autograd.gradcheck(metric, leaves)
    leaf = h.clone().requires_grad_()
    nmse(leaf, h).backward()
    assert leaf.grad is not None and float(leaf.grad.abs().max()) == 0.0


def test_compiled_equals_eager(generator: torch.Generator) -> None:
    h_hat, h = pair(generator)
    for metric in (nmse, nmse_mean_of_ratios_db):
        compiled = torch.compile(metric, fullgraph=True, backend="aot_eager")
        assert torch.allclose(compiled(h_hat, h), metric(h_hat, h), rtol=1e-14)


@pytest.mark.parametrize("metric", [nmse, nmse_db, nmse_mean_of_ratios, nmse_mean_of_ratios_db, mse, error_and_energy])
def test_bad_input_is_refused(metric: object, generator: torch.Generator) -> None:
    assert callable(metric)
    h_hat, h = pair(generator)
    broken = h_hat.clone()
    broken[0, 0, 0, 0, 0] = NAN
    with pytest.raises(InvalidValueError, match=r"^h_hat holds 1 NaN or infinite of 120 values"):
        metric(broken, h)
    with pytest.raises(InvalidValueError, match=r"^h holds 1 NaN"):
        metric(h_hat, broken)
    with pytest.raises(ShapeError, match=r"h_hat has shape \(3, 2, 1, 4, 5\) but h has shape \(1, 2, 1, 4, 5\)"):
        metric(h_hat, h[:1])
    with pytest.raises(ShapeError, match="at least one element"):
        metric(h_hat[:0], h[:0])
    with pytest.raises(InvalidTypeError, match="int64"):
        metric(torch.ones(SHAPE, dtype=torch.int64), h)
    with pytest.raises(InvalidTypeError, match="got list"):
        metric([1.0], h)
    huge = torch.full(SHAPE, 1e200, dtype=torch.float64)
    with pytest.raises(InvalidValueError, match="overflow"):
        metric(-huge, huge)


def test_a_silent_reference_is_refused(generator: torch.Generator) -> None:
    h_hat, h = pair(generator)
    h[1] = 0
    assert float(nmse(h_hat, h)) > 0  # the ensemble still has energy
    with pytest.raises(InvalidValueError, match="zero energy in 1 of 3"):
        nmse_mean_of_ratios(h_hat, h)
    with pytest.raises(InvalidValueError, match="zero energy in 40 of 120"):
        nmse(h_hat.unsqueeze(-1), h.unsqueeze(-1), dim=-1)
    with pytest.raises(InvalidValueError, match="zero energy in 1 of 1"):
        nmse(h_hat, torch.zeros_like(h))
    assert float(error_and_energy(h_hat, h).energy[1]) == 0.0


def test_bad_axes_are_refused(generator: torch.Generator) -> None:
    h_hat, h = pair(generator)
    with pytest.raises(InvalidValueError, match="dim=5"):
        nmse(h_hat, h, dim=5)
    with pytest.raises(InvalidValueError, match="none twice"):
        mse(h_hat, h, dim=(0, -5))
    with pytest.raises(InvalidValueError, match="at least one axis"):
        nmse(h_hat, h, dim=())
    with pytest.raises(InvalidValueError, match="sample_dims=6"):
        error_and_energy(h_hat, h, sample_dims=6)


# -- Calibration -------------------------------------------------------------------------------------------------------


def gaussian_errors(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    shape = (200, 1, 1, 10, 20)  # 4000 errors in each of 10 bins
    err_var = torch.exp(2 * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(torch.float32)
    h = complex_normal(shape, generator=generator)
    return h + err_var.sqrt() * complex_normal(shape, generator=generator), err_var, h


def test_a_truthful_estimator_is_calibrated(generator: torch.Generator) -> None:
    h_hat, err_var, h = gaussian_errors(generator)
    result = calibration(h_hat, err_var, h)
    assert result.counts.tolist() == [4000] * 10
    # Five standard deviations of a mean over 4000: Exp(1) has deviation 1, a coverage p has sqrt(p (1 - p)).
    assert float((result.normalized_error - 1).abs().max()) < 5 / math.sqrt(4000)
    assert float((result.coverage_50 - 0.5).abs().max()) < 5 * math.sqrt(0.25 / 4000)
    assert float((result.coverage_90 - 0.9).abs().max()) < 5 * math.sqrt(0.09 / 4000)
    assert bool((result.mean_err_var.diff() > 0).all())
    assert math.isclose(float(result.mean_err_var.mean()), float(err_var.double().mean()), rel_tol=1e-9)


def test_a_wrong_claim_shows_in_its_own_bins(generator: torch.Generator) -> None:
    h_hat, err_var, h = gaussian_errors(generator)
    proud = torch.where(err_var > err_var.median(), err_var / 2, err_var)  # claims half of the variance above the median
    order = calibration(h_hat, err_var, h).normalized_error
    result = calibration(h_hat, proud, h)
    assert abs(float(order[9]) - 1) < 0.1 and abs(float(result.normalized_error[9]) - 2) < 0.2
    assert abs(float(result.normalized_error[0]) - 1) < 0.1
    assert abs(float(result.coverage_90[9]) - (1 - math.exp(-math.log(10) / 2))) < 0.05  # 1 - 10^(-1/2)
    assert abs(float(result.coverage_50[9]) - (1 - math.exp(-math.log(2) / 2))) < 0.05


def test_bins_are_exact_on_a_small_case() -> None:
    err_var = torch.tensor([4.0, 1.0, 3.0, 2.0, 5.0])
    h = torch.zeros(5, dtype=torch.complex128)
    h_hat = torch.tensor([0, 1, 3, 1, 0.1], dtype=torch.complex128)
    result = calibration(h_hat, err_var, h, num_bins=2)
    assert result.counts.tolist() == [3, 2]  # err_var 1, 2, 3 and 4, 5
    assert torch.allclose(result.mean_err_var, torch.tensor([2.0, 4.5], dtype=torch.float64))
    assert torch.allclose(result.normalized_error, torch.tensor([(1 + 0.5 + 3) / 3, (0 + 0.002) / 2], dtype=torch.float64))
    # Thresholds ln 2 = 0.69 and ln 10 = 2.30.
    assert torch.allclose(result.coverage_50, torch.tensor([1 / 3, 1.0], dtype=torch.float64))
    assert torch.allclose(result.coverage_90, torch.tensor([2 / 3, 1.0], dtype=torch.float64))


def test_calibration_takes_an_expanded_variance(generator: torch.Generator) -> None:
    h_hat, _, h = gaussian_errors(generator)
    per_sample = torch.rand(200, 1, 1, 1, 1, generator=generator) + 0.1
    short, full = (calibration(h_hat, variance, h) for variance in (per_sample, per_sample.expand(h.shape).contiguous()))
    assert all(torch.equal(a, b) for a, b in zip(short, full, strict=True))


def test_calibration_refuses_bad_input(generator: torch.Generator) -> None:
    h_hat, h = pair(generator)
    ones = torch.ones(SHAPE)
    bad = ones.clone()
    bad[0, 0, 0, 0, :2] = torch.tensor([0.0, -1.0])
    with pytest.raises(InvalidValueError, match="err_var holds 2 of 120 values that are not above 0"):
        calibration(h_hat, bad, h)
    with pytest.raises(InvalidValueError, match="err_var holds 1 NaN"):
        calibration(h_hat, torch.where(bad == 0, NAN, ones), h)
    with pytest.raises(InvalidValueError, match="h_hat holds 120 NaN"):
        calibration(h_hat * NAN, ones, h)
    with pytest.raises(ShapeError, match="must broadcast"):
        calibration(h_hat, ones[:2], h)
    with pytest.raises(InvalidTypeError, match="h_hat has dtype torch.float32"):
        calibration(h_hat.real, ones, h)
    with pytest.raises(InvalidTypeError, match="err_var has dtype torch.complex64"):
        calibration(h_hat, h, h)
    with pytest.raises(InvalidValueError, match="num_bins=121 must be at most 120"):
        calibration(h_hat, ones, h, num_bins=121)
    with pytest.raises(ShapeError, match="must be equal"):
        calibration(h_hat[:1], ones, h)
