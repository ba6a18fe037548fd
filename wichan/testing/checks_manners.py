"""Contract checks on bad input and on manners: what an estimator must refuse, and what it must leave alone."""

from __future__ import annotations

import copy
import io
import math
import warnings

import numpy as np
import torch

from wichan.errors import InvalidTypeError, InvalidValueError
from wichan.testing.bench import BATCH, Bench, close, refuses, same_result

# -- Bad input. --


def rejects_nan(bench: Bench) -> None:
    """One NaN or infinity in an element that is read raises InvalidValueError."""
    for bad in (math.nan, math.inf):
        y = bench.pair()[1].clone()
        y[bench.seen(y)] = bad
        refuses(bench, y, bench.no, InvalidValueError, f"{bad} in y")


def rejects_bad_noise(bench: Bench) -> None:
    """A negative, NaN, complex or text ``no`` is refused."""
    y = bench.pair()[1]
    for bad in (-bench.no, math.nan, torch.full((BATCH,), -1.0)):
        refuses(bench, y, bad, InvalidValueError, f"no={bad if isinstance(bad, float) else 'negative tensor'}")
    refuses(bench, y, torch.ones(BATCH, dtype=torch.complex64), InvalidTypeError, "a complex no")
    refuses(bench, y, "1", InvalidTypeError, "no given as text")


def rejects_wrong_shape(bench: Bench) -> None:
    """A wrong last axis of ``y``, and a ``no`` that does not fit the batch, are refused."""
    y = bench.pair()[1]
    refuses(bench, y[..., :-1], bench.no, InvalidValueError, "y with one element missing in the last axis")
    refuses(bench, torch.cat([y, y], dim=-1), bench.no, InvalidValueError, "y with twice the last axis")
    refuses(bench, y, torch.full((BATCH + 1,), bench.no), InvalidValueError, "no of another batch size")


def rejects_wrong_dtype(bench: Bench) -> None:
    """Half precision, real and non-tensor ``y`` are refused."""
    y = bench.pair()[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that complex half is experimental
        half = torch.zeros(y.shape, dtype=torch.complex32, device=y.device)
    refuses(bench, half, bench.no, InvalidTypeError, "half-precision y")
    refuses(bench, y.real, bench.no, InvalidTypeError, "real y")
    refuses(bench, y.cpu().numpy(), bench.no, InvalidTypeError, "y as a NumPy array")


# -- Manners. --


def global_state(bench: Bench) -> None:
    """torch's and NumPy's global generators are left alone."""
    y = bench.pair()[1]
    before, before_numpy = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002 (looked at, never drawn from)
    bench.run(y, bench.no)
    after_numpy = np.random.get_state()  # noqa: NPY002
    assert torch.equal(before, torch.get_rng_state()), "torch's global generator was used"
    same = all(np.array_equal(a, b) for a, b in zip(before_numpy, after_numpy, strict=True))
    assert same, "NumPy's global generator was used"


def inputs_unchanged(bench: Bench) -> None:
    """``y`` and ``no`` are not modified."""
    y, no = bench.pair()[1], torch.full((BATCH,), bench.no)
    kept_y, kept_no = y.clone(), no.clone()
    result = bench.run(y, no)
    assert torch.equal(y, kept_y), "y was modified"
    assert torch.equal(no, kept_no), "no was modified"
    assert result.h_hat.data_ptr() != y.data_ptr(), "h_hat shares its memory with y"


def tensors_registered(bench: Bench) -> None:
    """Tensors live in buffers or parameters, so that they move and are saved."""
    for name, module in bench.est.named_modules():
        loose = [key for key, value in vars(module).items() if isinstance(value, torch.Tensor)]
        assert not loose, f"{'.'.join(filter(None, (name, loose[0])))} is a plain tensor; register it as a buffer"


def state_dict(bench: Bench) -> None:
    """Saving and loading the state gives back the same estimator."""
    y = bench.pair()[1]
    want = bench.run(y, bench.no)
    file = io.BytesIO()
    torch.save(bench.est.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)  # noqa: TID251 (bytes written two lines above, and no code in them)
    other = copy.deepcopy(bench.est)
    with torch.no_grad():
        for value in other.state_dict().values():
            if value.is_floating_point():
                value.zero_()
    other.load_state_dict(state)
    same_result(bench.run(y, bench.no, est=other), want, "a saved and loaded state")


def deepcopy(bench: Bench) -> None:
    """A deep copy works by itself and gives the same result."""
    y = bench.pair()[1]
    want = bench.run(y, bench.no)
    other = copy.deepcopy(bench.est)
    same_result(bench.run(y, bench.no, est=other), want, "a deep copy")
    mine = {value.data_ptr() for value in bench.est.state_dict().values() if value.numel()}
    shared = [name for name, value in other.state_dict().items() if value.numel() and value.data_ptr() in mine]
    assert not shared, f"{shared[0]} is shared between an estimator and its deep copy"


def gradient(bench: Bench) -> None:
    """The gradient with respect to ``y`` exists, is finite and is not zero."""
    y = bench.pair()[1].clone().requires_grad_(True)
    result = bench.run(y, bench.no)
    (result.h_hat.abs().square().sum() + result.err_var.sum()).backward()
    assert y.grad is not None, "no gradient reaches y"
    assert bool(torch.isfinite(torch.view_as_real(y.grad)).all()), "the gradient with respect to y is not finite"
    assert bool((y.grad != 0).any()), "the gradient with respect to y is zero"


def compile(bench: Bench) -> None:
    """``torch.compile`` (backend "eager") gives what eager gives."""
    y = bench.pair()[1]
    want = bench.run(y, bench.no)
    got = bench.run(y, bench.no, est=torch.compile(bench.est, backend="eager"))
    close(got.h_hat, want.h_hat, y.dtype, "compiled and eager h_hat")
    close(got.err_var, want.err_var, y.dtype, "compiled and eager err_var")
