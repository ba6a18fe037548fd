"""Detail of an evaluation: resource elements, calibration by decile, bit errors and SINR after an equaliser."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.special import exp1

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.evaluation import DetailOptions, calibration, evaluate, post_equalization_sinr
from wichan.evaluation.detection import DrawSource, Link, systematic
from wichan.evaluation.modulation import QAM
from wichan.random import complex_normal
from wichan.simulate import load_recipe, stream

PNG = b"\x89PNG\r\n\x1a\n"
SMALL: dict[str, Any] = {"grid.num_subcarriers": 24}
MIMO: dict[str, Any] = {"grid.num_subcarriers": 8}


def small(**overrides: Any) -> Any:
    return load_recipe("ofdm-siso", SMALL | overrides)


@pytest.fixture(scope="module")
def siso() -> Any:
    options = DetailOptions(modulation="qpsk", num_elements=60)
    names = {"ls": "ls", "pooled": "lmmse-pooled", "bare": lambda y, no: torch.zeros_like(y)[:, :, None] + 1}
    return evaluate(small(), names, points=[0.0, 10.0, 20.0], num_channels=400, num_resamples=300, detail=options)


@pytest.fixture(scope="module")
def mimo() -> Any:
    recipe = load_recipe("mimo-ofdm", MIMO)
    return evaluate(recipe, ["ls", "lmmse-pooled"], points=[5.0, 20.0], num_channels=40, reference=None, num_resamples=200)


def known_channel(modulation: str, no: float, h: torch.Tensor, generator: torch.Generator) -> tuple[float, float, float]:
    """Bit error rate, mean of log2(1 + SINR) and of the SINR of a receiver that knows ``h``; all elements but the first."""
    mask = torch.zeros(h.shape[-2:], dtype=torch.bool)
    mask[0, 0] = True
    link = Link(mask, QAM(modulation), None, h.shape[2], h.shape[2])
    draws = DrawSource(link.qam, (h.shape[2], h.shape[1], link.num_elements), 3, 0).take(h.shape[0])
    wrong, information, sinr = link.measure(h, [], torch.full((h.shape[0],), no), draws)[:, 0].sum(dim=1).tolist()
    frames = h.shape[0]
    return wrong / (frames * link.bits_per_frame), information / (frames * link.symbols_per_frame), sinr / frames


# -- Bit errors and SINR against closed forms --


def q(x: float) -> float:
    return 0.5 * math.erfc(x / math.sqrt(2))


@pytest.mark.parametrize("snr_db", [3.0, 8.0, 13.0])
def test_flat_channel_follows_the_q_function(snr_db: float, generator: torch.Generator) -> None:
    snr = 10 ** (snr_db / 10)
    h = torch.full((400, 1, 1, 10, 100), 1j, dtype=torch.complex64)
    a = math.sqrt(snr / 5)
    exact = {"qpsk": q(math.sqrt(snr)), "16qam": 0.75 * q(a) + 0.5 * q(3 * a) - 0.25 * q(5 * a)}  # Gray labels
    for name, expected in exact.items():
        ber, information, _ = known_channel(name, 1 / snr, h, generator)
        bits = 400 * 999 * (2 if name == "qpsk" else 4)
        assert ber == pytest.approx(expected, abs=4 * math.sqrt(2 * expected / bits))  # bits of a symbol are no more than alike
        assert information == pytest.approx(math.log2(1 + snr), rel=1e-5)


def test_rayleigh_fading_follows_its_closed_forms(generator: torch.Generator) -> None:
    count, snr = 400, 10.0
    h = complex_normal((count, 1, 1, 10, 100), generator=generator)
    ber, information, _ = known_channel("qpsk", 1 / snr, h, generator)
    per_bit = snr / 2
    expected = 0.5 * (1 - math.sqrt(per_bit / (1 + per_bit)))
    bits = 2 * count * 999  # two a symbol, which share its fading: at most twice the variance of independent ones
    assert ber == pytest.approx(expected, abs=4 * math.sqrt(2 * expected / bits))
    capacity = math.exp(1 / snr) * float(exp1(1 / snr)) / math.log(2)
    # A standard deviation of log2(1 + SINR) of about 1.4 over 400,000 independent elements, four standard errors.
    assert information == pytest.approx(capacity, abs=4 * 1.5 / math.sqrt(count * 999))


def test_unitary_channel_has_no_interference(generator: torch.Generator) -> None:
    unitary = torch.linalg.qr(complex_normal((3, 3), generator=generator))[0][None, :, :, None, None]
    ber, information, _ = known_channel("qpsk", 0.2, unitary.expand(200, -1, -1, 10, 30).contiguous(), generator)
    expected = q(math.sqrt(5.0))
    assert ber == pytest.approx(expected, abs=4 * math.sqrt(expected / (200 * 299 * 6)))
    assert information == pytest.approx(math.log2(6.0), rel=1e-5)


def test_evaluation_of_a_known_channel_follows_rayleigh(siso: Any) -> None:
    link = siso.link()
    for p, snr_db in enumerate(siso.points):
        per_bit = 10 ** (snr_db / 10) / 2
        expected = 0.5 * (1 - math.sqrt(per_bit / (1 + per_bit)))
        # A 95 % interval doubled in width covers all but 1 in 10,000 draws of one point.
        half = float(link.ber.high[p, -1] - link.ber.low[p, -1])
        assert float(link.ber.value[p, -1]) == pytest.approx(expected, abs=half)


def test_one_antenna_s_sinr_follows_from_estimate_and_truth(siso: Any) -> None:
    """The bare estimator says h = 1 everywhere: SINR = |h|^2 / (|h - 1|^2 + no) in closed form for each element."""
    options = DetailOptions(num_elements=None)
    bare = {"bare": lambda y, no: torch.ones_like(y)[:, :, None]}
    result = evaluate(small(), bare, points=[10.0], num_channels=40, batch_size=20, reference=None, detail=options)
    total, count = 0.0, 0
    data = ~result.detail.mask
    for batch in stream(small(snr_db=10.0), batch_size=20, split="test", num_batches=2):
        h = batch.h[:, 0, 0, data].to(torch.complex128)
        sinr = h.abs().square() / ((h - 1).abs().square() + batch.no[:, None].double())
        total, count = total + float(torch.log2(1 + sinr).sum()), count + sinr.numel()
    assert float(result.sinr_db.value[0, 0]) == pytest.approx(10 * math.log10(2 ** (total / count) - 1), abs=1e-4)
    assert result.detail.num_bits == (40 * int(data.sum()) * 4,)


@pytest.mark.parametrize(("tx", "streams"), [(1, 1), (2, 2), (3, 1), (3, 2)])
def test_link_uses_estimate_and_err_var_and_takes_antennas_in_turn(tx: int, streams: int, generator: torch.Generator) -> None:
    h = complex_normal((4, 2, tx, 3, 5), generator=generator)
    h_hat = h + complex_normal(h.shape, 0.1, generator=generator)
    err_var = torch.rand(h.shape, generator=generator)
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[1] = True
    link = Link(mask, QAM("qpsk"), None, streams, tx)
    draws = DrawSource(link.qam, (streams, 2, 10), 3, 0).take(4)
    information = link.measure(h, [(h_hat, err_var)], torch.full((4,), 0.1), draws)[1]
    for estimate, variance, row in ((h_hat, err_var, 0), (h, None, 1)):
        expected = torch.zeros(4, dtype=torch.float64)
        for k, place in enumerate((~mask).flatten().nonzero().flatten().tolist()):
            active = [(k + s) % tx for s in range(streams)]
            true, known, claimed = (
                None if x is None else x.flatten(-2)[:, :, active, place][..., None, None] for x in (h, estimate, variance)
            )
            expected += torch.log2(1 + post_equalization_sinr(true, known, claimed, 0.1)).sum(dim=(1, 2, 3))
        torch.testing.assert_close(information[row], expected, rtol=1e-4, atol=1e-4)  # single precision


# -- What the numbers are like --


def test_better_estimates_make_fewer_errors(siso: Any, mimo: Any) -> None:
    for result in (siso, mimo):
        ls, lmmse = (result.estimators.index(n) for n in (("ls", "pooled") if result is siso else ("ls", "lmmse-pooled")))
        assert bool((result.ber.value[:, ls] > result.ber.value[:, lmmse]).all())
        assert bool((result.sinr_db.value[:, ls] < result.sinr_db.value[:, lmmse]).all())
        link = result.link()
        assert bool((link.loss_db.low[:, :-1] > 0).all())  # paired: the known channel is never worse
        assert bool((link.loss_db.value[:, -1] == 0).all())
        for interval in link:
            assert bool((interval.low <= interval.value).all())
            assert bool((interval.value <= interval.high).all())
    assert result.detail.options.num_streams == 2  # 4 antennas to 2: as many as both ends serve


def test_four_streams_on_two_antennas_are_a_choice() -> None:
    recipe = load_recipe("mimo-ofdm", MIMO)
    options = DetailOptions("qpsk", num_streams=4)
    result = evaluate(recipe, ["ls"], points=[20.0], num_channels=10, reference=None, num_resamples=50, detail=options)
    two = evaluate(recipe, ["ls"], points=[20.0], num_channels=10, reference=None, num_resamples=50)
    # Streams that antennas cannot tell apart: of 4 at 2 antennas the mean squared errors add up to at least 2.
    assert float(result.link().sinr_db.value[0, -1]) < float(two.link().sinr_db.value[0, -1]) - 5
    assert result.detail.num_bits == (10 * result.detail.options.num_elements * 4 * 2,)


def test_resource_elements_add_up_to_the_nmse(siso: Any) -> None:
    maps = siso.resource_elements
    assert maps.shape == (3, 4, 14, 24)
    # Elements have nearly equal energy over 400 channels, so the plain mean is near the ratio of sums.
    torch.testing.assert_close(maps.mean(dim=(-2, -1)), siso.statistics.nmse.value, rtol=0.03, atol=0)
    ls = maps[2, siso.estimators.index("ls")]
    assert float(ls[siso.detail.mask].mean()) == pytest.approx(0.01, rel=0.15)  # no at 20 dB; 400 channels x 32 pilots
    assert float(ls[0].mean()) > 10 * float(ls[2].mean())  # the edge is extrapolated


def test_reliability_tells_who_knows_its_error(siso: Any) -> None:
    table, genie = siso.reliability, siso.estimators.index("lmmse-genie")
    assert table.normalized_error.shape == (3, 4, 10)
    # 400 channels, 40 a decile, whose errors are strongly correlated inside: a standard error of up to 16 %.
    assert bool(((table.normalized_error[:, genie] - 1).abs() < 0.5).all())
    assert bool(((table.coverage_90[:, genie] - 0.9).abs() < 0.1).all())
    assert bool((table.mean_err_var[:, genie].diff(dim=-1) >= 0).all())
    bare = siso.estimators.index("bare")
    assert bool(table.mean_err_var[:, bare].isnan().all())
    assert not bool(table.counts[:, bare].any())


def test_calibration_says_how_large_errors_are(generator: torch.Generator) -> None:
    h, h_hat = complex_normal((40,), generator=generator), complex_normal((40,), generator=generator)
    err_var = torch.arange(40, 0, -1, dtype=torch.float64)
    squared = (h - h_hat).to(torch.complex128).abs().square()
    expected = torch.stack([squared[30:], squared[20:30], squared[10:20], squared[:10]]).mean(dim=1)  # smallest claim first
    torch.testing.assert_close(calibration(h_hat, err_var, h, num_bins=4).mean_error, expected)


def test_batches_do_not_matter_and_points_share_their_data(siso: Any) -> None:
    again = evaluate(
        small(),
        ["ls", "lmmse-genie"],
        points=[0.0, 10.0, 20.0],
        num_channels=400,
        num_resamples=300,
        batch_size=150,
        detail=DetailOptions(modulation="qpsk", num_elements=60),
    )
    columns = [siso.estimators.index(name) for name in ("ls", "lmmse-genie")]
    # Float32 products in other batches: a symbol on a border may flip, one bit in 48,000.
    torch.testing.assert_close(again.ber.value, siso.ber.value[:, columns], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(again.sinr_db.value, siso.sinr_db.value[:, columns], rtol=0, atol=1e-3)
    torch.testing.assert_close(again.link().sinr_db.value[:, -1], siso.link().sinr_db.value[:, -1], rtol=0, atol=1e-4)


def test_detail_leaves_the_nmse_alone(siso: Any) -> None:
    plain = evaluate(small(), ["ls"], points=[0.0, 20.0], num_channels=30, num_resamples=50, detail=False)
    full = evaluate(small(), ["ls"], points=[0.0, 20.0], num_channels=30, num_resamples=50)
    torch.testing.assert_close(plain.statistics, full.statistics, rtol=1e-12, atol=0)
    assert plain.table() == full.table()
    assert plain.drawable == ()
    for name in ("ber", "sinr_db", "resource_elements", "reliability"):
        with pytest.raises(InvalidValueError, match="detail=True"):
            getattr(plain, name)
    assert "ber" not in plain.rows()[0]
    assert "detail" not in plain.to_dict()


def test_systematic_places_are_spread_and_fair(generator: torch.Generator) -> None:
    offset = torch.rand(3000, generator=generator, dtype=torch.float64)
    places = systematic(offset, 7, 31)
    assert bool((places.diff(dim=1) > 0).all())
    assert 0 <= int(places.min()) <= int(places.max()) <= 30
    share = torch.bincount(places.flatten(), minlength=31) / 3000
    assert bool(((share - 7 / 31).abs() < 4 * math.sqrt(7 / 31 / 3000)).all())  # 4 standard errors
    assert torch.equal(systematic(offset[:2], 31, 31), torch.arange(31).expand(2, 31))


def test_draws_do_not_depend_on_how_they_are_taken() -> None:
    whole = DrawSource(QAM("qpsk"), (2, 3, 5), 1, 0).take(150)
    parts = DrawSource(QAM("qpsk"), (2, 3, 5), 1, 0)
    for taken in (range(0, 1), range(1, 100), range(100, 150)):
        for some, all_of_it in zip(parts.take(len(taken)), whole, strict=True):
            assert torch.equal(some, all_of_it[taken.start : taken.stop])


def test_no_wrong_bit_has_no_upper_bound() -> None:
    perfect = iter([batch.h for batch in stream(small(snr_db=80.0), batch_size=8, split="test", num_batches=1)])
    result = evaluate(small(), {"sure": lambda y, no: next(perfect)}, points=[80.0], num_channels=8, reference=None)
    assert float(result.ber.value[0, 0]) == 0
    assert math.isnan(float(result.ber.high[0, 0]))
    assert "<" in result.table("ber")
    assert result.rows()[0]["ber_high"] is None


def test_pilots_everywhere_leave_no_data(tmp_path: Path) -> None:
    full = small(**{"grid.num_ofdm_symbols": 4, "pilots.symbols": [0, 1, 2, 3], "pilots.subcarrier_step": 1})
    result = evaluate(full, ["ls"], points=[10.0], num_channels=6, reference=None, num_resamples=20)
    assert result.detail.link is None
    assert result.drawable == ("resource_elements", "calibration")
    assert "ber" not in result.rows()[0]
    for call in (lambda: result.ber, lambda: result.table("sinr"), lambda: result.figure(tmp_path / "x.png", "ber")):
        with pytest.raises(InvalidValueError, match="every resource element carries a pilot"):
            call()


# -- Tables, files, pictures --


def test_tables_of_the_other_metrics(siso: Any) -> None:
    lines = siso.table("ber").splitlines()
    assert lines[0] == "Bit error rate of ofdm-siso against SNR [dB]"
    row = next(line for line in lines if line.startswith("pooled"))
    assert row.split()[1] == f"{float(siso.ber.value[0, 1]):.2e}"
    assert lines[-3].startswith("known channel")
    assert lines[-1].endswith("uncoded qpsk, 1 stream after LMMSE equalisation")
    assert siso.table("sinr").startswith("Effective SINR [dB]")
    assert siso.table("nmse") == siso.table() == str(siso)


@pytest.mark.parametrize("width", [60, 100])
@pytest.mark.parametrize("metric", ["ber", "sinr"])
def test_rich_table_fits(siso: Any, metric: str, width: int) -> None:
    from rich.console import Console

    from wichan.evaluation import rich_table

    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    console.print(rich_table(siso, width, metric))
    text = console.file.getvalue()
    assert "known channel" in text
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= width


def test_csv_and_json_hold_the_detail(siso: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(siso.to_csv())))
    assert len(rows) == 12
    row = next(r for r in rows if r["estimator"] == "ls" and float(r["point"]) == 10.0)
    assert float(row["ber"]) == float(siso.ber.value[1, 0])
    assert float(row["ber_low"]) <= float(row["ber"]) <= float(row["ber_high"])
    assert float(row["sinr_db_perfect"]) > float(row["sinr_db"])
    assert float(row["loss_db"]) == pytest.approx(float(row["sinr_db_perfect"]) - float(row["sinr_db"]))
    value = json.loads(siso.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert value["detail"] == {"modulation": "qpsk", "num_elements": 60, "num_streams": 1, "point": 10.0}
    deciles = value["estimators"][0]["points"][2]["deciles"]
    assert deciles["normalized_error"] == siso.reliability.normalized_error[2, 0].tolist()
    assert value["estimators"][2]["name"] == "bare"
    assert value["estimators"][2]["points"][0]["deciles"] is None


def test_pictures(siso: Any, mimo: Any, tmp_path: Path) -> None:
    paths = mimo.save(tmp_path, "m", kinds=mimo.drawable)
    names = ["m.csv", "m.json", "m.png", "m_resource_elements.png", "m_calibration.png", "m_ber.png", "m_sinr.png"]
    assert [path.name for path in paths] == names
    assert all(path.read_bytes().startswith(PNG) for path in paths[2:])
    shown = siso.figure(tmp_path / "0.png", "resource_elements", point=0.0).read_bytes()
    assert shown != siso.figure(tmp_path / "20.png", "resource_elements", point=20.0).read_bytes()
    assert siso.figure(tmp_path / "c.png", "calibration").read_bytes().startswith(PNG)  # with an estimator without err_var


# -- Bad input --


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"modulation": "16-qam"}, UnknownNameError, "did you mean '16qam'"),
        ({"num_elements": 0}, InvalidValueError, "num_elements=0"),
        ({"num_streams": 2}, InvalidValueError, "num_streams=2 must be at most 1"),
        ({"point": 12.0}, InvalidValueError, "point=12.0 is not among the points: 5, 10"),
        ({"point": "A"}, InvalidValueError, "point='A' is not among"),
    ],
)
def test_bad_options(options: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        evaluate(small(), ["ls"], points=[5.0, 10.0], num_channels=4, reference=None, detail=DetailOptions(**options))
    assert "\n" not in str(caught.value)


def test_bad_requests(siso: Any, tmp_path: Path) -> None:
    for call, kind, text in [
        (lambda: evaluate(small(), ["ls"], detail="yes"), InvalidTypeError, "detail must be"),
        (lambda: siso.table("bler"), UnknownNameError, "metric='bler'"),
        (lambda: siso.figure(tmp_path / "x.png", "bler"), UnknownNameError, "kind='bler'"),
        (lambda: siso.save(tmp_path, kinds=["x"]), UnknownNameError, "kinds='x'"),
        (lambda: siso.figure(tmp_path / "x.png", "calibration", point=3.0), InvalidValueError, "point=3.0"),
        (lambda: siso.figure(tmp_path / "x.pdf", "sinr"), InvalidValueError, "must end in .png"),
    ]:
        with pytest.raises(kind, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("estimator", "kind", "text"),
    [
        (lambda y, no: y[:, :, None] * float("nan"), InvalidValueError, "NaN or infinity"),
        (lambda y, no: (y[:, :, None], y), ShapeError, "err_var"),
        (lambda y, no: (y[:, :, None], -torch.ones(1)), InvalidValueError, "err_var"),
    ],
)
def test_bad_estimator(estimator: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        evaluate(small(), {"mine": estimator}, points=[5.0], num_channels=4, reference=None)
    assert "'mine'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_err_var_may_be_zero_or_one_number() -> None:
    calls = {
        "sure": lambda y, no: (y[:, :, None], torch.zeros(1)),
        "number": lambda y, no: (y[:, :, None], torch.full((1,), 0.5)),
    }
    result = evaluate(small(), calls, points=[5.0], num_channels=6, reference=None, num_resamples=20)
    assert bool(result.reliability.mean_err_var[0, 0].isnan().all())  # a claim of 0 divides nothing
    assert bool((result.reliability.mean_err_var[0, 1] == 0.5).all())
