"""The studies of Kronecker-structured learning: their problems, metrics and second implementation, and that they run."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from wichan.estimators import SBL, KroneckerSBL
from wichan.observations import KroneckerDictionary

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "sims"))
irs_sim = pytest.importorskip("kronecker_sbl_irs")
synthetic_sim = pytest.importorskip("kronecker_sbl_synthetic")
convergence_sim = pytest.importorskip("kronecker_sbl_convergence")
irs_case = pytest.importorskip("kronecker.irs_case")
metrics = pytest.importorskip("kronecker.metrics")
page = pytest.importorskip("kronecker.page")
plain = pytest.importorskip("kronecker.plain")
published = pytest.importorskip("kronecker.published")
runs = pytest.importorskip("kronecker.runs")
synthetic = pytest.importorskip("kronecker.synthetic")

SMALL = {"rows": (5, 8, 10), "nonzeros": (2,), "snr_db": (25.0,), "size": 10}


def lines(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# -- Problems. --


@pytest.mark.parametrize("values", ["kronecker", "free"])
def test_every_realisation_has_the_snr_and_a_kronecker_support(values):
    levels = (5.0, 30.0)
    found = synthetic.draw(3, 4, nonzeros=(3,), snr_db=levels, values=values)[0]
    clean = synthetic.measure(found.factors, found.x).flatten(1)
    snr = 10 * (clean.square().mean(1) / found.no).log10()
    torch.testing.assert_close(snr, torch.tensor(found.points, dtype=torch.float64), atol=1e-9, rtol=0)  # rounding
    support = torch.einsum("ni,nj,nk->nijk", *(mask.double() for mask in found.support)) > 0
    assert torch.equal(found.x != 0, support)
    assert [int(mask.sum(1).unique()) for mask in found.support] == [3, 3, 3]
    # The noise that was drawn is the same at both levels: 1,440 samples lie within 5 sqrt(2 / 1440) of their power.
    noise = (found.y - clean) / found.no[:, None].sqrt()
    torch.testing.assert_close(noise[:4], noise[4:], atol=1e-9, rtol=0)
    assert (noise.square().mean(1) - 1).abs().max() < 5 * math.sqrt(2 / 1440)


def test_values_are_a_kronecker_product_only_where_asked():
    for values, rank in (("kronecker", 1), ("free", 3)):
        x = synthetic.draw(0, 1, values=values)[0].x[0]
        assert int(torch.linalg.matrix_rank(x.flatten(1))) == rank


def test_fewer_rows_are_the_first_of_more_and_keep_the_noise_power():
    few, most = synthetic.draw(1, 2, rows=(14, 12, 15), first_rows=(6, 14))
    assert few.points == (6, 6)
    assert torch.equal(few.no, most.no)
    assert torch.equal(few.factors[0], most.factors[0][:6])
    assert torch.equal(few.y, most.y[:, : 6 * 12 * 15])


def test_problems_depend_on_the_number_of_the_dictionary_only():
    one, again, other = (synthetic.draw(number, 2)[0] for number in (1, 1, 2))
    assert torch.equal(one.y, again.y)
    assert not torch.equal(one.factors[0], other.factors[0])


# -- Metrics. --


def test_recovery_counts_what_is_above_the_level():
    x = torch.tensor([[[1.0, 0.0005], [0.25, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    support = torch.tensor([[[True, True], [True, True]]] * 2)
    assert metrics.recovery(x, support, 1e-3).tolist() == [0.5, 0.0]  # found {0, 2}, true {0, 1, 2, 3}; nothing found
    assert metrics.recovery(x, support, 1e-4)[0] == 0.75


def test_pattern_nmse_is_the_mean_over_patterns_not_of_the_sum():
    h = torch.ones(1, 2, 3, 2, 1) * torch.tensor([1.0, 10.0])[:, None]
    h_hat = h.clone()
    h_hat[:, :, :, 0] += 1.0
    assert metrics.pattern_nmse(h_hat, h).tolist() == [0.5]


def test_symbol_error_rate_is_that_of_counted_symbols(generator):
    options = {"dtype": torch.complex128, "generator": generator}
    h, error = torch.randn(1, 4, 3, 1, 1, **options), torch.randn(1, 4, 3, 1, 1, **options)
    estimate, no = h + error, torch.tensor([2.0], dtype=torch.float64)
    u, level, v = torch.linalg.svd(estimate[0, :, :, 0, 0])
    left, right = u[:, 0], v[0].conj()
    count = 200_000
    sent = torch.randint(0, 4, (count,), generator=generator)
    alphabet = torch.exp(1j * math.pi * (torch.arange(4) / 2 + 0.25)).to(torch.complex128)
    noise = (no / 2).sqrt() * torch.view_as_complex(torch.randn(count, 2, dtype=torch.float64, generator=generator))
    received = (left.conj() @ h[0, :, :, 0, 0] @ right) * alphabet[sent] + noise
    decided = (received[:, None] - level[0] * alphabet).abs().argmin(1)
    counted = float((decided != sent).double().mean())
    found = float(metrics.qpsk_ser(estimate, h, no))
    assert 0.01 < found < 0.7
    assert abs(counted - found) < 5 * math.sqrt(found * (1 - found) / count)  # five standard deviations of the count


def test_symbol_error_rate_without_an_estimate_is_a_guess_and_small_rates_do_not_vanish():
    h = torch.ones(2, 2, 2, 1, 1, dtype=torch.complex128)
    found = metrics.qpsk_ser(torch.stack([h[0], 0 * h[0]]), h, torch.tensor([0.05, 0.05], dtype=torch.float64))
    # Gain 2, so that both parts are sqrt(2) and 2 Q(2 / sqrt(0.05)) is what is lost, to first order.
    assert float(found[0]) == pytest.approx(math.erfc(2 / math.sqrt(0.05) / math.sqrt(2)), rel=1e-6)
    assert float(found[1]) == 0.75


# -- The second implementation, against dense formulas, and the library against it. --


def arrays(seed, complex_valued, rows=(3, 4, 5), atoms=(4, 6, 5)):
    random = np.random.default_rng(seed)

    def normal(*shape):
        real = random.standard_normal(shape)
        return real + 1j * random.standard_normal(shape) if complex_valued else real

    return [normal(m, n) for m, n in zip(rows, atoms, strict=True)], [random.random(n) for n in atoms], normal(*rows)


@pytest.mark.parametrize("complex_valued", [False, True])
def test_plain_posterior_is_the_dense_one(complex_valued):
    factors, gammas, y = arrays(5, complex_valued)
    mean, variance, cost = plain.posterior(factors, gammas, y, 0.3)
    full = np.kron(np.kron(factors[0], factors[1]), factors[2])
    prior = plain.outer(gammas).ravel()
    cov = (full * prior) @ full.conj().T + 0.3 * np.eye(60)
    white = np.linalg.solve(cov, np.column_stack([y.ravel(), full]))
    # Equal formulas in another order, in double precision with a condition number near 1e4.
    np.testing.assert_allclose(mean.ravel(), prior * (full.conj().T @ white[:, 0]), atol=1e-10)
    dense = prior - prior**2 * np.einsum("mn,mn->n", full.conj(), white[:, 1:]).real
    np.testing.assert_allclose(variance.ravel(), dense, atol=1e-10)
    value = np.linalg.slogdet(cov)[1] + (y.ravel().conj() @ white[:, 0]).real
    assert cost == pytest.approx(value, rel=1e-10)


def test_a_general_eigenvalue_routine_is_wrong_where_a_factor_has_fewer_rows_than_atoms():
    tall, gammas, y = arrays(2, False, rows=(6, 7, 8), atoms=(4, 6, 5))
    right, variance, _ = plain.posterior(tall, gammas, y, 0.1)
    general, spread, _ = plain.posterior_general(tall, gammas, y, 0.1)
    np.testing.assert_allclose(general, right, atol=1e-8)
    np.testing.assert_allclose(spread, variance, atol=1e-8)
    wide, gammas, y = arrays(2, False, rows=(8, 12, 15), atoms=(15, 15, 15))
    _, variance, _ = plain.posterior(wide, gammas, y, 0.1)
    _, spread, _ = plain.posterior_general(wide, gammas, y, 0.1)
    assert np.linalg.norm(spread - variance) > 0.01 * np.linalg.norm(variance)


@pytest.mark.parametrize("complex_valued", [False, True])
@pytest.mark.parametrize("m_step", ["svd", "am", "single", "mm"])
def test_the_library_iterates_as_the_plain_one(m_step, complex_valued):
    factors, _, y = arrays(11, complex_valued)
    dictionary = KroneckerDictionary([torch.as_tensor(factor) for factor in factors])
    observed = torch.as_tensor(y).reshape(1, -1)
    # Pruned nowhere; the library ends the inner loop of "am" at a relative change of 1e-5, powers stand for singular vectors.
    tolerance = {"am": 3e-4, "svd": 1e-6}.get(m_step, 1e-9)
    for steps in (1, 5):
        trace = plain.solve(factors, y, 0.2, m_step, max_iter=steps, tol=0.0)
        found = KroneckerSBL(dictionary, m_step, max_iter=steps, tol=0.0, prune=0.0, start=1.0)(observed, 0.2)
        want, got = plain.outer(trace.gammas), plain.outer([gamma[0].numpy() for gamma in found.gammas])
        assert np.linalg.norm(got - want) < tolerance * np.linalg.norm(want)
        assert np.linalg.norm(found.coefficients[0].numpy() - trace.mean) < tolerance * np.linalg.norm(trace.mean)
        assert float(found.cost) == pytest.approx(trace.costs[-1], rel=tolerance)


def test_dense_learning_is_the_plain_one():
    found = synthetic.draw(0, 1, **SMALL)[0]
    factors = [factor.numpy() for factor in found.factors]
    full = np.kron(np.kron(factors[0], factors[1]), factors[2])
    _, gamma, count = plain.dense_sbl(full, found.y[0].numpy(), float(found.no), max_iter=5, tol=0.0)
    answer = SBL(KroneckerDictionary(found.factors), max_iter=5, tol=0.0, prune=0.0, start=1.0)(found.y, found.no)
    assert count == 5
    # Both in double precision, by other factorisations.
    np.testing.assert_allclose(answer.gammas[0].numpy().ravel(), gamma, atol=1e-9 * gamma.max())


# -- What is told of the runs. --


def test_a_run_is_kept_until_its_settings_change(tmp_path):
    kept, calls = runs.Runs(tmp_path), []

    def compute():
        calls.append(1)
        return {"5": {"nmse": [0.001, 0.5, 0.003], "srr": [1.0, 0.0, 0.5]}}

    first = kept.rows("s", "a b", {"trials": 3}, compute)
    assert kept.rows("s", "a b", {"trials": 3}, compute) == first
    assert len(calls) == 1
    kept.rows("s", "a b", {"trials": 4}, compute)
    runs.Runs(tmp_path, fresh=True).rows("s", "a b", {"trials": 4}, compute)
    assert len(calls) == 3
    told = first[0].told
    assert (told["median"], told["success"], told["srr"]) == (0.003, 2 / 3, 0.5)
    assert told["nmse"] == pytest.approx(0.168)


def test_published_curves_have_a_value_for_every_point():
    points = {"snr": published.SNR_DB, "rows": published.ROWS, "nonzeros": published.NONZEROS}
    for study, columns in published.SYNTHETIC.items():
        for curves in columns.values():
            assert {len(curve) for curve in curves.values()} == {len(points[study])}
    assert {len(c) for curves in published.IRS.values() for c in curves.values()} == {len(published.IRS_SNR_DB)}
    names = set(synthetic_sim.MAIN) | {"sbl"}
    assert {name for columns in published.SYNTHETIC.values() for curves in columns.values() for name in curves} <= names
    assert set(published.IRS["nmse"]) <= {*irs_sim.NAMES, "sbl", "pc-sbl"}


# -- The scripts. --


@pytest.mark.slow
def test_the_synthetic_studies_run_and_fill_the_page(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results" / "kronecker_sbl_synthetic"
    parts = ["snr", "rows", "published-rows", "noise", "noise-full", "small", "small-15"]
    assert synthetic_sim.main(["--quick", "--out", str(folder), "--parts", *parts]) == 0
    shown = capsys.readouterr().out
    assert "support recovery rate over M1" in shown
    found = lines(folder / "synthetic.csv")
    assert {row["study"] for row in found} == set(parts)
    assert all(math.isfinite(float(row["nmse"])) for row in found)
    at = {(row["study"], row["estimator"], row["point"]): row for row in found}
    assert at["snr", "kron-sbl-svd", "5"]["published nmse"] == "0.129"
    svd = at["snr", "kron-sbl-svd", "5"]
    assert f"| kron-sbl-svd | {page.number(svd['nmse'])} (0.13) | {page.number(svd['median'])} |" in page.snr(Path("results"))
    assert Path("docs/figures/kronecker_sbl_synthetic.png").stat().st_size > 10_000
    assert "general eig" in page.general_eig(Path("results"))
    for block in (page.noise, page.small):
        assert "| kron-sbl-am " in block(Path("results"))
    with pytest.raises(FileNotFoundError, match="no study free"):
        page.free(Path("results"))


def test_a_second_call_computes_nothing(tmp_path, monkeypatch):
    arguments = ["--quick", "--out", str(tmp_path), "--parts", "noise"]
    assert synthetic_sim.main(arguments) == 0
    before = lines(tmp_path / "synthetic.csv")
    monkeypatch.setattr(synthetic_sim, "measured", None)
    assert synthetic_sim.main(arguments) == 0
    assert lines(tmp_path / "synthetic.csv") == before
    with pytest.raises(TypeError):
        synthetic_sim.main([*arguments, "--fresh"])


@pytest.mark.slow
def test_the_irs_case_runs_and_fills_the_page(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results" / "kronecker_sbl_irs"
    assert irs_sim.main(["--quick", "--out", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "kron-sbl-pc 0.8 below kron-sbl-svd at" in shown
    found = lines(folder / "irs.csv")
    assert {row["estimator"] for row in found} == {*irs_sim.NAMES, irs_sim.PERFECT}
    at = {(row["estimator"], row["point"]): row for row in found}
    # The oracle knows the support: at 20 dB it is far below an estimate of zero.
    assert float(at["oracle-ls", "20"]["nmse"]) < 0.1
    assert float(at["perfect CSI", "20"]["ser"]) <= float(at["oracle-ls", "20"]["ser"])
    assert at["kron-sbl-pc 0.8", "4"]["published nmse"] == "0.31"
    told = page.irs(Path("results"))
    assert "(0.31 / 0.43)" in told  # published and prototype, pattern coupling of 0.8 at 4 dB
    assert Path("docs/figures/kronecker_sbl_irs.png").stat().st_size > 10_000


def test_the_irs_case_is_the_physical_cascade_at_the_exact_snr():
    found = irs_case.draw_trials(0, 2, (4.0, 20.0))
    clean = found.training.noiseless(found.h)
    assert clean.shape == (4, 288)
    snr = 10 * (clean.abs().square().mean(1) / found.no).log10()
    torch.testing.assert_close(snr, torch.tensor([4.0, 4.0, 20.0, 20.0], dtype=torch.float64), atol=1e-9, rtol=0)
    assert [int(mask.sum(1).unique()) for mask in found.support] == [3, 1, 3]
    # On-grid paths: least squares on the support explains all of the noiseless observation.
    matrix = found.dictionary.dense()
    support = torch.einsum("i,j,k->ijk", *(mask[0].double() for mask in found.support)).flatten() > 0
    few = matrix[:, support]
    rest = clean[0] - few @ torch.linalg.lstsq(few, clean[0][:, None]).solution[:, 0]
    assert float(rest.norm() / clean[0].norm()) < 1e-10


def test_the_convergence_study_runs_and_no_proven_descent_rises(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results" / "kronecker_sbl_convergence"
    assert convergence_sim.main(["--quick", "--out", str(folder)]) == 0
    found = lines(folder / "convergence.csv")
    rises = {row["estimator"]: float(row["rises"]) for row in found if row["rises"]}
    assert {rises[f"kron-sbl-{m_step}"] for m_step in ("am", "single", "mm")} == {0.0}
    assert rises["sbl"] == 0.0
    assert "raised the cost, mean over trials: kron-sbl-svd" in page.convergence(Path("results"))
    assert Path("docs/figures/kronecker_sbl_convergence.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("value", "shown"), [("", ""), (0, "0"), (0.0314, "0.031"), (1.6e-4, "1.6e-4"), (3.2, "3.2"), (156.2, "156")]
)
def test_numbers_of_the_page(value, shown):
    assert page.number(value) == shown


def test_rises_of_a_cost_are_counted_beyond_rounding():
    costs = torch.tensor([[3.0, 2.0, 2.0 + 1e-12, 2.5, 1.0]], dtype=torch.float64)
    assert convergence_sim.rises(costs).tolist() == [1]
