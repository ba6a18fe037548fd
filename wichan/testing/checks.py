"""Contract checks on the output, batches, noise and calibration, and the table of all checks.

A check takes a `Bench` and raises AssertionError with one line that says what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from wichan.estimators.base import Estimate
from wichan.testing import checks_manners as manners
from wichan.testing.bench import BATCH, Bench, Skipped, close, same_result
from wichan.testing.calibration import calibration_by_decile
from wichan.testing.tolerances import CALIBRATION_FRAMES, CALIBRATION_TOLERANCE, MONOTONE_SLACK

# -- The output. --


def output_type(bench: Bench) -> None:
    """The result is an `Estimate` of two tensors."""
    result = bench.run(bench.pair()[1], bench.no)
    assert isinstance(result, Estimate), f"forward returns {type(result).__name__}, not Estimate"
    assert all(isinstance(part, torch.Tensor) for part in result), "an entry of the estimate is no tensor"


def output_shape(bench: Bench) -> None:
    """h_hat and err_var have the channel's shape."""
    h, y = bench.pair()
    result = bench.run(y, bench.no)
    assert result.h_hat.shape == h.shape, f"h_hat has shape {tuple(result.h_hat.shape)}, the channel {tuple(h.shape)}"
    assert result.err_var.shape == h.shape, f"err_var has shape {tuple(result.err_var.shape)}, the channel {tuple(h.shape)}"


def output_dtype(bench: Bench) -> None:
    """Precision follows the input: complex64 and complex128."""
    for dtype, real in ((torch.complex64, torch.float32), (torch.complex128, torch.float64)):
        result = bench.run(bench.pair(dtype)[1], bench.no)
        assert result.h_hat.dtype == dtype, f"h_hat is {result.h_hat.dtype} for {dtype} input"
        assert result.err_var.dtype == real, f"err_var is {result.err_var.dtype} for {dtype} input"


def finite(bench: Bench) -> None:
    """No NaN or infinity."""
    result = bench.run(bench.pair()[1], bench.no)
    assert bool(torch.isfinite(result.h_hat).all()), "h_hat holds NaN or infinity"
    assert bool(torch.isfinite(result.err_var).all()), "err_var holds NaN or infinity"


def error_variance(bench: Bench) -> None:
    """err_var is real and not negative."""
    result = bench.run(bench.pair()[1], bench.no)
    assert not result.err_var.is_complex(), "err_var is complex"
    assert float(result.err_var.min()) >= 0, f"err_var goes down to {float(result.err_var.min()):.3g}"


def deterministic(bench: Bench) -> None:
    """The same input gives the same bits twice."""
    y = bench.pair()[1]
    same_result(bench.run(y, bench.no), bench.run(y, bench.no), "a second call")


# -- Batches and noise. --


def batch_independence(bench: Bench) -> None:
    """A frame's estimate does not depend on its neighbours in the batch."""
    for dtype in (torch.complex64, torch.complex128):
        y = bench.pair(dtype)[1]
        full = bench.run(y, bench.no)
        for i in range(BATCH):
            one = bench.run(y[i : i + 1], bench.no, (1,))
            close(one.h_hat[0], full.h_hat[i], dtype, "h_hat of a frame alone and in a batch")
            close(one.err_var[0], full.err_var[i], dtype, "err_var of a frame alone and in a batch")


def batch_axes(bench: Bench) -> None:
    """No batch axis and two batch axes work and agree with one."""
    h = bench.channels((2, 3))
    y = bench.observe(h, bench.no)
    full = bench.run(y, bench.no, (2, 3))
    assert full.h_hat.shape == h.shape, f"batch (2, 3) gives h_hat of shape {tuple(full.h_hat.shape)}"
    flat = bench.run(y.flatten(0, 1), bench.no, (6,))
    close(full.h_hat.flatten(0, 1), flat.h_hat, y.dtype, "h_hat with two batch axes and with one")
    close(full.err_var.flatten(0, 1), flat.err_var, y.dtype, "err_var with two batch axes and with one")
    single = bench.run(y[1, 2], bench.no, ())
    assert single.h_hat.shape == h.shape[2:], f"without a batch h_hat has shape {tuple(single.h_hat.shape)}"
    assert single.err_var.shape == h.shape[2:], f"without a batch err_var has shape {tuple(single.err_var.shape)}"
    close(single.h_hat, full.h_hat[1, 2], y.dtype, "h_hat without a batch axis and with two")


def noise_monotone(bench: Bench) -> None:
    """More noise, more uncertainty: the mean err_var grows with ``no``."""
    h = bench.channels()
    means = [
        float(bench.run(bench.observe(h, no), no).err_var.mean()) for no in (bench.no * step for step in (0.01, 0.1, 1, 10))
    ]
    for low, high in zip(means, means[1:], strict=False):
        assert high >= low * (1 - MONOTONE_SLACK), f"mean err_var falls from {low:.4g} to {high:.4g} when no grows tenfold"
    assert means[-1] > means[0], f"mean err_var stays {means[0]:.4g} while no grows a thousandfold"


def noise_per_sample(bench: Bench) -> None:
    """``no`` of shape (batch,) equals one call a frame."""
    h = bench.channels()
    no = bench.no * torch.logspace(-1, 1, BATCH, device=h.device)
    y = bench.observe(h, no)
    full = bench.run(y, no)
    for i in range(BATCH):
        one = bench.run(y[i : i + 1], float(no[i]), (1,))
        close(full.h_hat[i], one.h_hat[0], y.dtype, "h_hat with no per frame and one by one")
        close(full.err_var[i], one.err_var[0], y.dtype, "err_var with no per frame and one by one")


def noise_zero(bench: Bench) -> None:
    """``no = 0`` is allowed and gives finite numbers."""
    h = bench.channels()
    result = bench.run(bench.observe(h, 0.0), 0.0)
    assert all(bool(torch.isfinite(part).all()) for part in result), "no=0 gives NaN or infinity"
    assert float(result.err_var.min()) >= 0, "no=0 gives a negative err_var"


def zero_observation(bench: Bench) -> None:
    """An all-zero observation gives finite numbers, with and without noise."""
    y = torch.zeros_like(bench.pair()[1])
    for no in (bench.no, 0.0):
        result = bench.run(y, no)
        assert all(bool(torch.isfinite(part).all()) for part in result), f"y=0 with no={no:g} gives NaN or infinity"


def linear(bench: Bench) -> None:
    """An estimator that says ``is_linear`` is linear in ``y``."""
    if not getattr(bench.est, "is_linear", False):
        raise Skipped("the estimator does not say is_linear = True")
    first, second = bench.pair()[1], bench.pair()[1]
    factor = 1.5 - 2j
    mixed = bench.run(first + factor * second, bench.no).h_hat
    apart = bench.run(first, bench.no).h_hat + factor * bench.run(second, bench.no).h_hat
    close(mixed, apart, first.dtype, "the estimate of a sum and the sum of estimates")


def calibration(bench: Bench) -> None:
    """The mean normalised error is 1 in every decile of err_var."""
    results, truths, chunk = [], [], 500
    with torch.no_grad():
        for _ in range(CALIBRATION_FRAMES // chunk):
            h = bench.channels((chunk,))
            results.append(bench.run(bench.observe(h, bench.no), bench.no, (chunk,)))
            truths.append(h)
    h_hat, err_var = (torch.cat([result[i] for result in results]) for i in (0, 1))
    deciles = calibration_by_decile(h_hat, err_var, torch.cat(truths))
    worst = int((deciles - 1).abs().nan_to_num(math.inf).argmax())
    value = float(deciles[worst])
    assert abs(value - 1) <= CALIBRATION_TOLERANCE, f"mean normalised error is {value:.3f} in decile {worst + 1} of err_var"


CHECKS: dict[str, Callable[[Bench], None]] = {
    check.__name__: check
    for check in (
        output_type,
        output_shape,
        output_dtype,
        finite,
        error_variance,
        deterministic,
        batch_independence,
        batch_axes,
        noise_monotone,
        noise_per_sample,
        noise_zero,
        zero_observation,
        linear,
        manners.rejects_nan,
        manners.rejects_bad_noise,
        manners.rejects_wrong_shape,
        manners.rejects_wrong_dtype,
        manners.global_state,
        manners.inputs_unchanged,
        manners.tensors_registered,
        manners.state_dict,
        manners.deepcopy,
        manners.gradient,
        manners.compile,
        calibration,
    )
}
