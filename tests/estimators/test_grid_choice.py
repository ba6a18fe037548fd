"""The grid is chosen as the data say: the true one where there is one, a finer one where angles fall between."""

from __future__ import annotations

import pytest
import torch

from wichan.channels import IRSCascade
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.estimators.grid_choice import choose_grid, default_candidates
from wichan.estimators.kronecker_sbl import KroneckerSBL
from wichan.observations import IRSTraining

QUICK = {"m_step": "mm", "max_iter": 40, "tol": 1e-3}


def data(angles: str, generator: torch.Generator, **options: object) -> tuple[IRSTraining, torch.Tensor, torch.Tensor]:
    obs = IRSTraining(IRSCascade(4, 16, 8, 2, angles=angles, **options), 4, 8)
    h = obs.channel(obs.irs.sample(12, generator=generator)).to(torch.complex128)
    no = obs.noiseless(h).abs().square().mean(-1) / 30
    return obs, obs.observe(h, no, generator=generator), no


@pytest.mark.parametrize("criterion", ["evidence", "held-out"])
def test_the_grid_that_the_angles_lie_on_is_chosen(criterion: str, generator: torch.Generator) -> None:
    obs, y, no = data("block", generator, grid_size=12)
    found = choose_grid(obs, y, no, [8, 10, 12, 16], criterion=criterion, **QUICK)
    assert found.grid == 12
    assert found.scores.shape == (4,) and found.each.shape == (4, 12)
    assert found.candidates == (8, 10, 12, 16)
    assert torch.allclose(found.each.mean(1), found.scores)


def test_angles_between_the_points_ask_for_a_finer_grid(generator: torch.Generator) -> None:
    obs, y, no = data("uniform", generator)
    found = choose_grid(obs, y, no, [8, 16], **QUICK)
    assert found.grid == 16


def test_scores_are_costs_a_measurement_and_candidates_may_differ_by_axis(generator: torch.Generator) -> None:
    obs, y, no = data("uniform", generator)
    grid = {"irs": 12, "ms": 8, "bs": 8}
    found = choose_grid(obs, y.reshape(3, 4, -1), no.reshape(3, 4), [grid, 8], **QUICK)
    expected = KroneckerSBL(obs.dictionary(grid), **QUICK)(y, no).cost / obs.num_measurements
    assert found.each.shape == (2, 3, 4)
    assert torch.allclose(found.each[0].flatten(), expected)
    assert found.grid in (grid, 8)


def test_the_default_grids_follow_the_terminals() -> None:
    obs = IRSTraining(IRSCascade(4, 64, (2, 16), 2), 2, 4)
    assert default_candidates(obs) == (16, 20, 24, 32, 48)


def test_bad_input_is_refused_in_one_line(generator: torch.Generator) -> None:
    obs, y, no = data("uniform", generator)
    with pytest.raises(InvalidTypeError, match="obs must be an IRSTraining"):
        choose_grid(object(), y, no)
    with pytest.raises(UnknownNameError, match="criterion"):
        choose_grid(obs, y, no, criterion="held")
    with pytest.raises(InvalidValueError, match="at least one grid"):
        choose_grid(obs, y, no, [])
    with pytest.raises(InvalidTypeError, match="list of grids"):
        choose_grid(obs, y, no, {"irs": 8})
    with pytest.raises(InvalidTypeError, match="list of grids"):
        choose_grid(obs, y, no, 8)
    with pytest.raises(ShapeError, match="y has shape"):
        choose_grid(obs, y[:, 1:], no)
    with pytest.raises(InvalidValueError, match="all zero"):
        choose_grid(obs, y * 0, no)
    few = IRSTraining(obs.irs, 4, 3)
    with pytest.raises(InvalidValueError, match="at least 4 patterns"):
        choose_grid(few, y[:, : few.num_measurements], no, criterion="held-out")
