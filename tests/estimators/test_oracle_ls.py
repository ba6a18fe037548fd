"""Least squares on a told support: literal formulas, exact error variance, rank deficiency, ways to tell, manners."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from wichan.channels import IRSCascade
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.estimators import OracleLS
from wichan.linalg import kron
from wichan.observations import IRSTraining, KroneckerDictionary
from wichan.random import complex_normal
from wichan.testing.calibration import calibration_by_decile

SIZES = [(4, 6), (3, 5), (6, 8)]


def normal(*shape: int, generator: torch.Generator, kind: str = "complex") -> torch.Tensor:
    """Gaussian numbers of unit power in double precision."""
    if kind == "real":
        return torch.randn(*shape, generator=generator, dtype=torch.float64)
    return complex_normal(shape, generator=generator, dtype=torch.complex128)


def case(kind: str, generator: torch.Generator, count: int = 5) -> tuple[KroneckerDictionary, torch.Tensor, torch.Tensor]:
    """Dictionary with synthesis, product supports (B, N1, N2, N3) of 1, 6, 27, 6 and 8 atoms, measurements."""
    d = KroneckerDictionary(
        [normal(*size, generator=generator, kind=kind) for size in SIZES],
        [normal(2, size[1], generator=generator, kind=kind) for size in SIZES],
    )
    mask = torch.ones(count, *d.num_atoms, dtype=torch.bool)
    for i, row in enumerate(mask):
        for axis, size in enumerate(d.num_atoms):
            row.index_fill_(axis, torch.randperm(size, generator=generator)[1 + (i + axis * (i % 2)) % 3 :], False)
    return d, mask, normal(count, 72, generator=generator, kind=kind)


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("form", ["modes", "full"])
def test_equals_the_literal_formulas(kind: str, form: str, generator: torch.Generator) -> None:
    d, mask, y = case(kind, generator)
    if form == "full":  # no product any more: one atom less where there are several
        for row in mask:
            if int(row.sum()) > 2:
                row.view(-1)[int(row.flatten().nonzero()[1])] = False
    no = torch.logspace(-2, 1, len(y), dtype=torch.float64)
    got = OracleLS(d, form)(y, no, support=mask)
    a, c = d.dense().numpy(), kron(*d.synthesis).numpy()
    for i in range(len(y)):
        at = mask[i].flatten().numpy()
        inverse = np.linalg.pinv(a[:, at])
        x = np.zeros(a.shape[1], dtype=a.dtype)
        x[at] = inverse @ y[i].numpy()
        covariance = float(no[i]) * inverse @ inverse.conj().T
        # Two ways to least squares in double precision, condition numbers up to 1e3.
        np.testing.assert_allclose(got.coefficients[i].flatten().numpy(), x, rtol=0, atol=1e-10)
        np.testing.assert_allclose(got.h_hat[i].flatten().numpy(), c @ x, rtol=0, atol=1e-9)
        np.testing.assert_allclose(got.coefficient_var[i].flatten().numpy()[at], np.diag(covariance).real, rtol=1e-9)
        variance = np.diag(c[:, at] @ covariance @ c[:, at].conj().T).real
        np.testing.assert_allclose(got.err_var[i].flatten().numpy(), variance, rtol=1e-9)
        assert bool((got.coefficient_var[i][~mask[i]] == 0).all())


def test_forms_agree_on_products_and_full_is_better_within(generator: torch.Generator) -> None:
    d, mask, y = case("complex", generator)
    modes, full = OracleLS(d)(y, 0.1, support=mask), OracleLS(d, "full")(y, 0.1, support=mask)
    torch.testing.assert_close(modes.h_hat, full.h_hat, rtol=1e-9, atol=1e-9)  # two ways to the same pseudo-inverse
    torch.testing.assert_close(modes.err_var, full.err_var, rtol=1e-9, atol=1e-9)
    diagonal = torch.zeros(6, 5, 8, dtype=torch.bool)
    diagonal[[0, 1], [0, 1], [0, 1]] = True  # two atoms, whose product support has eight
    modes, full = (OracleLS(d, form)(y, 0.1, support=diagonal) for form in ("modes", "full"))
    assert int((modes.coefficients[0] != 0).sum()) == 8
    assert int((full.coefficients[0] != 0).sum()) == 2
    assert bool((full.err_var < modes.err_var).all())


@pytest.mark.parametrize("form", ["modes", "full"])
def test_error_variance_is_exact(form: str, generator: torch.Generator) -> None:
    d, mask, _ = case("complex", generator, count=1)
    x = normal(4000, *d.num_atoms, generator=generator) * mask
    y = d.measure(x) + 0.3 * normal(4000, 72, generator=generator)
    got = OracleLS(d, form)(y, 0.09, support=mask)
    ratio = ((got.h_hat - d.channel(x)).abs().square() / got.err_var).mean(dim=0)
    # An exponential variable averaged over 4000 draws has a deviation of 1.6 %; 4.5 of them.
    assert float((ratio - 1).abs().max()) < 0.072
    deciles = calibration_by_decile(got.h_hat, got.err_var, d.channel(x))
    # All draws share one error variance an entry, so that deciles are fewer; 4.5 deviations of 3200 draws.
    assert float((deciles - 1).abs().nan_to_num(0.0).max()) < 0.08


@pytest.mark.parametrize("form", ["modes", "full"])
def test_dependent_columns_give_the_least_norm(form: str, generator: torch.Generator) -> None:
    factors = [normal(3, 6, generator=generator), normal(4, 5, generator=generator)]
    factors[1][:, 2] = 2 * factors[1][:, 0]  # dependent within the support below
    masks = torch.zeros(3, 6, dtype=torch.bool), torch.zeros(3, 5, dtype=torch.bool)
    masks[0][0, :5] = True  # five columns of three rows
    masks[0][1:, :2] = True
    masks[1][:2, [0, 2, 3]] = True
    masks[1][2, [0, 3]] = True  # independent, beside those that are not
    y = normal(3, 12, generator=generator)
    got = OracleLS(factors, form)(y, 0.1, support=masks)
    a = kron(*factors)
    for i in range(3):
        at = (masks[0][i][:, None] & masks[1][i]).flatten()
        inverse = torch.linalg.pinv(a[:, at], rtol=1e-10)
        # The same pseudo-inverse by other means.
        torch.testing.assert_close(got.h_hat[i].flatten()[at], inverse @ y[i], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(got.err_var[i].flatten()[at], 0.1 * inverse.abs().square().sum(dim=1), rtol=1e-9, atol=1e-10)


def test_support_is_told_in_several_ways(generator: torch.Generator) -> None:
    d, mask, y = case("complex", generator, count=6)
    modes = tuple(mask.movedim(k + 1, 1).flatten(2).any(dim=2) for k in range(3))
    y, batch = y.reshape(2, 3, -1), (2, 3)
    for form in ("modes", "full"):
        est = OracleLS(d, form)
        want = est(y, 0.1, support=mask.reshape(*batch, *d.num_atoms))
        got = est(y, 0.1, support=tuple(m.reshape(*batch, -1) for m in modes))
        assert torch.equal(got.h_hat, want.h_hat)
        one = est(y, 0.1, support=mask[3])
        torch.testing.assert_close(one.h_hat[1, 0], want.h_hat[1, 0], rtol=1e-10, atol=1e-10)  # other padding
        some = est(y, 0.1, support=mask.reshape(*batch, *d.num_atoms)[:1, :1])
        torch.testing.assert_close(some.h_hat[0, 0], want.h_hat[0, 0], rtol=1e-10, atol=1e-10)
        assert not torch.allclose(some.h_hat[1, 2], want.h_hat[1, 2])


def test_support_of_a_draw_over_an_irs(generator: torch.Generator) -> None:
    irs = IRSCascade(4, 16, 8, 2, angles="grid", grid_size=10)
    obs = IRSTraining(irs, num_pilots=4, num_patterns=8)
    d = obs.dictionary(grid=10)
    draw = irs.sample(20, generator=generator)
    h = obs.channel(draw).to(torch.complex128)
    y = obs.noiseless(h)
    for form in ("modes", "full"):
        got = OracleLS(d, form)(y, 0.0, support=draw)
        told = d.mode_support(draw) if form == "modes" else d.support(draw)
        assert torch.equal(got.h_hat, OracleLS(d, form)(y, 0.0, support=told).h_hat)
    # Least squares on the true atoms without noise: the draw is in single precision (1e-7), ill-conditioned modes of it 1e2.
    error = (got.h_hat - h).abs().square().flatten(1).sum(dim=1) / h.abs().square().flatten(1).sum(dim=1)
    assert float(error.median()) < 1e-9


# -- Manners. --


@pytest.mark.parametrize("form", ["modes", "full"])
def test_batch_precision_scale_zeros_and_no_noise(form: str, generator: torch.Generator) -> None:
    d, mask, y = case("complex", generator)
    est = OracleLS(d, form)
    want = est(y, 0.1, support=mask)
    for i in range(len(y)):
        alone = est(y[i], 0.1, support=mask[i])
        torch.testing.assert_close(alone.h_hat, want.h_hat[i], rtol=1e-9, atol=1e-10)  # other padding
        torch.testing.assert_close(alone.err_var, want.err_var[i], rtol=1e-9, atol=1e-10)
    single = est(y.to(torch.complex64), 0.1, support=mask)
    assert single.h_hat.dtype == torch.complex64
    torch.testing.assert_close(single.h_hat.to(torch.complex128), want.h_hat, rtol=1e-4, atol=1e-4)  # y rounded to 6e-8
    scaled = est(y * 1e-15, 1e-31, support=mask)
    torch.testing.assert_close(scaled.h_hat * 1e15, want.h_hat, rtol=1e-9, atol=1e-10)  # rounding of the scale
    torch.testing.assert_close(scaled.err_var * 1e30, want.err_var, rtol=1e-9, atol=1e-10)
    y[2] = 0
    some = est(y, 0.0, support=mask)
    assert bool((some.h_hat[2] == 0).all())
    torch.testing.assert_close(some.h_hat[3:], want.h_hat[3:], rtol=1e-9, atol=1e-10)  # the noise does not enter h_hat
    assert bool(torch.isfinite(some.err_var).all())


@pytest.mark.parametrize(
    ("support", "error", "message"),
    [
        (None, InvalidTypeError, "support must be a bool tensor or one a mode, got NoneType"),
        (torch.ones(6, 5, 8), InvalidTypeError, "support must be a bool tensor, got torch.float32"),
        (torch.ones(6, 5, 7, dtype=torch.bool), ShapeError, r"support has shape \(6, 5, 7\); it must be \(5, 6, 5, 8\)"),
        (torch.ones(4, 6, 5, 8, dtype=torch.bool), ShapeError, r"support has shape \(4, 6, 5, 8\)"),
        (torch.zeros(6, 5, 8, dtype=torch.bool), InvalidValueError, "support is empty for 5 of 5 instances"),
        ((torch.ones(6, dtype=torch.bool),), ShapeError, "support has 1 masks; the dictionary has 3 factors"),
        ([torch.ones(6, dtype=torch.bool), [True] * 5, 1], InvalidTypeError, r"support\[1\] must be a bool tensor, got list"),
    ],
)
@pytest.mark.parametrize("form", ["modes", "full"])
def test_bad_support_is_refused_in_one_line(
    form: str, support: Any, error: type, message: str, generator: torch.Generator
) -> None:
    d, _, y = case("complex", generator)
    with pytest.raises(error, match=message) as caught:
        OracleLS(d, form)(y, 0.1, support=support)
    assert "\n" not in str(caught.value)


def test_other_bad_input_is_refused_in_one_line(generator: torch.Generator) -> None:
    d, mask, y = case("complex", generator)
    with pytest.raises(UnknownNameError, match="form='mode' is unknown; did you mean 'modes'"):
        OracleLS(d, "mode")
    with pytest.raises(InvalidValueError, match="no=-1 must be at least 0"):
        OracleLS(d)(y, -1.0, support=mask)
    with pytest.raises(InvalidValueError, match="y holds 72 NaN"):
        OracleLS(d)(torch.cat([y[1:], y[:1] * math.nan]), 0.1, support=mask)
    with pytest.raises(ShapeError, match="the last axes must be"):
        OracleLS(d)(y[:, 1:], 0.1, support=mask)
