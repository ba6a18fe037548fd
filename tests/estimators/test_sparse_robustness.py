"""Where sparse estimators meet the limits of a precision, of threads and of casts."""

from __future__ import annotations

import threading

import pytest
import torch

from wichan.channels import IRSCascade
from wichan.errors import UnknownNameError
from wichan.estimators import Calibrated, KroneckerSBL, OffGridKroneckerSBL, choose_grid
from wichan.observations import IRSTraining


def block_problem() -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Real factors, a block of eight coefficients, and its noisy measurements in double precision."""
    generator = torch.Generator().manual_seed(0)  # one of those where all M-steps find the block
    factors = [torch.randn(m, n, generator=generator, dtype=torch.float64) for m, n in ((6, 12), (8, 12), (5, 8))]
    x = torch.zeros(12, 12, 8, dtype=torch.float64)
    x[3:5, 6:8, 2:4] = 1.0
    clean = torch.einsum("ai,bj,ck,ijk->abc", *factors, x).flatten()
    return factors, clean + 0.1 * torch.randn(clean.shape, generator=generator, dtype=torch.float64), x


@pytest.mark.parametrize("m_step", ["am", "svd", "mm", "single"])
def test_coupled_variances_stay_in_single_precision(m_step: str) -> None:
    factors, y, x = block_problem()
    est = KroneckerSBL(factors, m_step, couple=(0, 2))
    wide, narrow = est(y, 0.01), est(y.float(), 0.01)
    assert torch.isfinite(narrow.h_hat).all() and torch.isfinite(narrow.err_var).all()
    # 240 measurements at 25 dB: both find the block; precisions part where iterations stop, a tenth of the error is ample.
    errors = [float((found.h_hat.double() - x).norm() / x.norm()) for found in (wide, narrow)]
    assert errors[0] < 0.1
    assert abs(errors[1] - errors[0]) < 0.1 * errors[0] + 1e-3


@pytest.mark.parametrize("m_step", ["svd", "am", "mm", "single"])
@pytest.mark.parametrize("unit", [1e-10, 1e-14])
def test_a_start_far_above_the_data_is_bounded(m_step: str, unit: float) -> None:
    factors, y, _ = block_problem()
    found = KroneckerSBL(factors, m_step, start=1.0)((y * unit).float(), 0.01 * unit**2)
    assert torch.isfinite(found.h_hat).all()
    assert float(found.h_hat.norm()) > 0.1 * unit  # zeros would be an answer without a word


def test_threads_that_start_later_keep_their_number() -> None:
    factors, y, _ = block_problem()
    before = torch.get_num_threads()
    seen: list[int] = []
    try:
        torch.set_num_threads(2)
        KroneckerSBL(factors, max_iter=3)(torch.stack([y] * 4), 0.01)
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
    finally:
        torch.set_num_threads(before)
    assert seen == [2]


def test_autocast_changes_nothing() -> None:
    factors, y, _ = block_problem()
    est = KroneckerSBL(factors, max_iter=5)
    plain = est(y.float(), 0.01)
    with torch.autocast("cpu", torch.bfloat16):
        cast = est(y.float(), 0.01)
    torch.testing.assert_close(cast.h_hat, plain.h_hat, rtol=0, atol=0)


def surface(law: str = "cluster") -> tuple[IRSCascade, IRSTraining]:
    irs = IRSCascade(4, 16, 8, 3, angles=law)
    return irs, IRSTraining(irs, num_pilots=4, num_patterns=6)


@pytest.mark.parametrize("no", [0.0, 1e-6])
def test_paths_are_refined_without_noise(no: float) -> None:
    irs, obs = surface()
    generator = torch.Generator().manual_seed(0)
    y = obs.observe(irs.sample(4, generator=generator), no, generator=generator)
    found = OffGridKroneckerSBL(obs, 8, max_iter=20, max_paths=10)(y, no)
    assert torch.isfinite(found.h_hat).all() and torch.isfinite(found.err_var).all()


def test_an_unknown_option_of_the_grid_is_told() -> None:
    with pytest.raises(UnknownNameError, match="max_itr.*max_iter"):
        OffGridKroneckerSBL(surface()[1], 8, max_itr=3)


@pytest.mark.parametrize("criterion", ["evidence", "held-out"])
def test_a_grid_is_chosen_without_batch_axes(criterion: str) -> None:
    irs, obs = surface("uniform")
    generator = torch.Generator().manual_seed(1)
    y = obs.observe(irs.sample(1, generator=generator), 1.0, generator=generator)
    alone = choose_grid(obs, y[0], 1.0, [8, 10], criterion=criterion)
    batch = choose_grid(obs, y, 1.0, [8, 10], criterion=criterion)
    torch.testing.assert_close(alone.scores, batch.scores)


def test_a_calibrated_estimator_can_be_cast() -> None:
    irs, obs = surface()
    generator = torch.Generator().manual_seed(2)
    h = obs.channel(irs.sample(24, generator=generator))
    est = Calibrated(KroneckerSBL(obs.dictionary(8), max_iter=20), obs).fit(h, torch.full((24,), 1.0), generator=generator)
    y = obs.observe(h, 1.0, generator=generator)
    before = est(y, 1.0).err_var
    # Factors and features in single precision: about 1e-6 each, times the iterations.
    torch.testing.assert_close(est.float()(y, 1.0).err_var, before, rtol=1e-2, atol=0)
