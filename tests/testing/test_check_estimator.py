"""`check_estimator` passes a sound estimator and finds every defect that a broken one has."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.estimators import LS, Estimate, Estimator
from wichan.grid import OFDMGrid
from wichan.observations import DensePilots, OFDMPilots
from wichan.random import complex_normal
from wichan.testing import CHECKS, calibration_by_decile, check_estimator

GRID = OFDMGrid(4, 12, 15e3)
OBS = OFDMPilots(GRID, (0, 2, 3), 2)


class Toy(Estimator):
    """A sound estimator: the building ground of the broken ones."""

    def __init__(self) -> None:
        super().__init__()
        self.ls = LS(OBS)
        self.register_buffer("gain", torch.ones(()))

    def forward(self, y: torch.Tensor, no: Any, **conditions: Any) -> Estimate:
        h_hat, err_var = self.ls(y, no)
        return Estimate(h_hat * self.gain, err_var)


def broken(forward: Callable[..., Any]) -> type[Toy]:
    """A `Toy` whose result is spoiled by ``forward(self, y, no, sound result)``."""

    class Broken(Toy):
        def forward(self, y: torch.Tensor, no: Any, **conditions: Any) -> Any:
            return forward(self, y, no, Toy.forward(self, y, no))

    return Broken


def swallow(kind: type[Exception]) -> type[Toy]:
    """A `Toy` that answers something where it should refuse."""

    class Swallowing(Toy):
        def forward(self, y: torch.Tensor, no: Any, **conditions: Any) -> Estimate:
            try:
                return Toy.forward(self, y, no)
            except kind:
                return Toy.forward(self, torch.zeros(8, 1, 4, 12, dtype=torch.complex64), 0.1)

    return Swallowing


class Loose(Toy):
    """Keeps a tensor where saving and moving do not see it."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = torch.zeros(())


class Forgetful(Toy):
    """Its state cannot be loaded."""

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        return None


class Shared(Toy):
    """Its deep copies share their tensors."""

    def __deepcopy__(self, memo: dict) -> Shared:
        return copy.copy(self)


class Stateful(Toy):
    """Every call changes the next."""

    def forward(self, y: torch.Tensor, no: Any, **conditions: Any) -> Estimate:
        result = super().forward(y, no)
        self.gain = self.gain * 1.001
        return result


def use_global_rng(self: Toy, y: torch.Tensor, no: Any, sound: Estimate) -> Estimate:
    torch.rand(1)
    return sound


def use_numpy_rng(self: Toy, y: torch.Tensor, no: Any, sound: Estimate) -> Estimate:
    np.random.rand()  # noqa: NPY002 (the defect under test)
    return sound


def modify_y(self: Toy, y: torch.Tensor, no: Any, sound: Estimate) -> Estimate:
    with torch.no_grad():
        y.mul_(2)
    return sound


def batch_mean(self: Toy, y: torch.Tensor, no: Any, sound: Estimate) -> Estimate:
    return sound._replace(h_hat=sound.h_hat - sound.h_hat.mean(dim=0, keepdim=True))


def first_no_only(self: Toy, y: torch.Tensor, no: Any, sound: Estimate) -> Estimate:
    level = no.flatten()[0] if isinstance(no, torch.Tensor) else no
    return Toy.forward(self, y, level)


def half_output(self: Toy, y: torch.Tensor, no: Any, sound: Estimate) -> Estimate:
    return Estimate(sound.h_hat.to(torch.complex64), sound.err_var.float())


def nan_without_noise(self: Toy, y: torch.Tensor, no: Any, sound: Estimate) -> Estimate:
    level = torch.as_tensor(no, dtype=y.real.dtype).mean()
    return sound._replace(err_var=sound.err_var * (level / level))


def nan_for_zero(self: Toy, y: torch.Tensor, no: Any, sound: Estimate) -> Estimate:
    scale = y.abs().amax(dim=(-3, -2, -1), keepdim=True).unsqueeze(-1)
    return sound._replace(h_hat=sound.h_hat / scale * scale)


def shrinking(self: Toy, y: torch.Tensor, no: Any, sound: Estimate) -> Estimate:
    level = torch.as_tensor(no, dtype=y.real.dtype)
    level = level.reshape(level.shape + (1,) * (sound.err_var.dim() - level.dim()))
    return sound._replace(err_var=(1 / (1 + level)).expand(sound.err_var.shape).clone())


def saturating(self: Toy, y: torch.Tensor, no: Any, sound: Estimate) -> Estimate:
    self.is_linear = True  # what it claims
    return sound._replace(h_hat=sound.h_hat / (1 + sound.h_hat.abs()))


DEFECTS = [
    (broken(lambda self, y, no, sound: tuple(sound)), "output_type"),
    (broken(lambda self, y, no, sound: Estimate(sound.h_hat[..., 0, :, :], sound.err_var)), "output_shape"),
    (broken(lambda self, y, no, sound: Estimate(sound.h_hat, sound.err_var.mean(dim=-1))), "output_shape"),
    (broken(half_output), "output_dtype"),
    (broken(lambda self, y, no, sound: Estimate(sound.h_hat / 0, sound.err_var)), "finite"),
    (broken(lambda self, y, no, sound: Estimate(sound.h_hat, sound.err_var - 0.5)), "error_variance"),
    (Stateful, "deterministic"),
    (broken(batch_mean), "batch_independence"),
    (broken(lambda self, y, no, sound: Estimate(*(x.reshape(-1, *x.shape[-4:]) for x in sound))), "batch_axes"),
    (broken(shrinking), "noise_monotone"),
    (broken(lambda self, y, no, sound: Estimate(sound.h_hat, torch.ones_like(sound.err_var))), "noise_monotone"),
    (broken(first_no_only), "noise_per_sample"),
    (broken(nan_without_noise), "noise_zero"),
    (broken(nan_for_zero), "zero_observation"),
    (broken(saturating), "linear"),
    (swallow(InvalidValueError), "rejects_nan"),
    (swallow(InvalidValueError), "rejects_bad_noise"),
    (swallow(ShapeError), "rejects_wrong_shape"),
    (swallow(InvalidTypeError), "rejects_wrong_dtype"),
    (broken(use_global_rng), "global_state"),
    (broken(use_numpy_rng), "global_state"),
    (broken(modify_y), "inputs_unchanged"),
    (broken(lambda self, y, no, sound: Estimate(y.unsqueeze(-3), sound.err_var)), "inputs_unchanged"),
    (Loose, "tensors_registered"),
    (Forgetful, "state_dict"),
    (Shared, "deepcopy"),
    (broken(lambda self, y, no, sound: Estimate(sound.h_hat.detach(), sound.err_var.detach())), "gradient"),
]


def white(count: int, generator: torch.Generator) -> torch.Tensor:
    return complex_normal((count, 1, 1, 4, 12), generator=generator)


def test_a_sound_estimator_passes(generator: torch.Generator) -> None:
    report = check_estimator(Toy(), OBS, generator=generator, compiled=True)
    assert set(report.passed) | set(report.skipped) == set(CHECKS)
    assert set(report.skipped) == {"linear", "calibration"}
    assert not report.failed
    assert "23 checks passed, 0 failed, 2 skipped" in str(report)


@pytest.mark.parametrize(("kind", "check"), DEFECTS, ids=[f"{i}-{check}" for i, (_, check) in enumerate(DEFECTS)])
def test_a_defect_is_found_by_name(kind: type[Toy], check: str, generator: torch.Generator) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    with pytest.raises(AssertionError) as caught:
        check_estimator(kind(), OBS, generator=generator)
    torch.set_rng_state(torch_state)
    np.random.set_state(numpy_state)  # noqa: NPY002
    assert f"failed  {check}: " in str(caught.value)


def test_every_check_but_the_optional_ones_has_a_defect_that_fails_it() -> None:
    assert {check for _, check in DEFECTS} == set(CHECKS) - {"compile", "calibration"}


def test_compile_check_finds_a_difference(generator: torch.Generator) -> None:
    def forward(self: Toy, y: torch.Tensor, no: Any, sound: Estimate) -> Estimate:
        return sound._replace(h_hat=sound.h_hat * (2 if torch.compiler.is_compiling() else 1))

    with pytest.raises(AssertionError, match="failed  compile: compiled and eager h_hat differ"):
        check_estimator(broken(forward)(), OBS, generator=generator, compiled=True)


class PerElement(Estimator):
    """Conditional mean for y = h + n with unit-power h; ``factor`` spoils the error variance of the weaker half."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, y: torch.Tensor, no: Any, **conditions: Any) -> Estimate:
        level = torch.as_tensor(no, dtype=y.real.dtype)
        level = level.reshape(level.shape + (1,) * (y.dim() - level.dim()))
        # Subcarriers 6 to 11 carry four times the power.
        power = torch.ones(12, dtype=y.real.dtype)
        power[6:] = 4
        gain = power / (power + level)
        spoil = torch.where(power == 1, self.factor, 1.0)
        err_var = (level * gain * spoil).expand(y.shape)
        return Estimate((y * gain).unsqueeze(-3), err_var.unsqueeze(-3))


def two_powers(count: int, generator: torch.Generator) -> torch.Tensor:
    h = white(count, generator)
    h[..., 6:] *= 2
    return h


REFUSALS = {name: "the toy checks nothing" for name in CHECKS if name.startswith("rejects_")}


def test_calibration_passes_and_fails_where_it_should(generator: torch.Generator) -> None:
    options: dict = {"generator": generator, "channel": two_powers, "no": 0.3, "skip": REFUSALS}
    assert "calibration" in check_estimator(PerElement(), GRID, **options).passed
    for factor in (0.85, 1.15):
        with pytest.raises(AssertionError, match="failed  calibration: mean normalised error is"):
            check_estimator(PerElement(factor), GRID, **options)
    assert "calibration" in check_estimator(PerElement(0.5), GRID, calibrated=False, **options).skipped


def test_dense_observations_and_conditions(generator: torch.Generator) -> None:
    obs = DensePilots(complex_normal((6, 4), generator=generator))

    class Pinv(Estimator):
        is_linear = True

        def forward(self, y: torch.Tensor, no: Any, **conditions: Any) -> Estimate:
            assert conditions == {"speed": 3.0}
            inverse = torch.linalg.pinv(obs.matrix()).to(y.dtype)
            level = torch.as_tensor(no, dtype=y.real.dtype)
            level = level.reshape(level.shape + (1,) * (y.dim() - level.dim()))
            err_var = level * inverse.abs().square().sum(dim=-1)
            return Estimate(y @ inverse.mT, err_var.expand(*y.shape[:-1], 4))

    report = check_estimator(Pinv(), obs, generator=generator, conditions=lambda batch: {"speed": 3.0}, skip=REFUSALS)
    assert "linear" in report.passed and "batch_axes" in report.passed


def test_training_mode_is_put_back(generator: torch.Generator) -> None:
    est = Toy().train()
    check_estimator(est, OBS, generator=generator)
    assert est.training


def test_skip_needs_a_known_name_and_keeps_its_reason(generator: torch.Generator) -> None:
    report = check_estimator(Toy(), OBS, generator=generator, skip={"gradient": "not differentiable"})
    assert report.skipped["gradient"] == "not differentiable"
    with pytest.raises(UnknownNameError, match="did you mean 'gradient'"):
        check_estimator(Toy(), OBS, generator=generator, skip={"gradeint": "typo"})


def test_bad_arguments(generator: torch.Generator) -> None:
    with pytest.raises(InvalidTypeError, match="est must be an Estimator"):
        check_estimator(lambda y, no: None, OBS, generator=generator)  # type: ignore[arg-type]
    with pytest.raises(InvalidTypeError, match="generator must be"):
        check_estimator(Toy(), OBS, generator=3)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="no=0 must be greater than 0"):
        check_estimator(Toy(), OBS, generator=generator, no=0.0)


def test_deciles_equal_a_loop(generator: torch.Generator) -> None:
    h, h_hat = (complex_normal((50, 7), generator=generator) for _ in range(2))
    err_var = torch.rand(50, 7, generator=generator) + 0.1
    got = calibration_by_decile(h_hat, err_var, h)
    pairs = sorted(zip(err_var.flatten().tolist(), (h - h_hat).abs().square().flatten().tolist(), strict=True))
    for i in range(10):
        part = pairs[35 * i : 35 * (i + 1)]
        assert got[i].item() == pytest.approx(sum(error / var for var, error in part) / 35, rel=1e-5)


def test_deciles_without_variance() -> None:
    h = torch.ones(20, dtype=torch.complex64)
    assert calibration_by_decile(h, torch.zeros(20), h).tolist() == [1.0] * 10
    assert calibration_by_decile(h * 2, torch.zeros(20), h).tolist() == [float("inf")] * 10
    with pytest.raises(ShapeError, match="must have one shape"):
        calibration_by_decile(h, torch.zeros(19), h)
    with pytest.raises(ShapeError, match="10 bins need at least as many"):
        calibration_by_decile(h[:5], torch.zeros(5), h[:5])
