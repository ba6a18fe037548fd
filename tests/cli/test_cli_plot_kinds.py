"""`wichan plot --kind`: every kind on every shipped data set, theory beside data, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from wichan import OFDMGrid
from wichan.channels import TDL, ULA
from wichan.cli import app
from wichan.cli.plot import KINDS
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.evaluation import PLOTS, ChannelView, Expected, dataset_view, plot_channels, plot_dataset

PNG = b"\x89PNG"
GRID = OFDMGrid(14, 24, 15e3)


def wichan(*args: str) -> Any:
    return CliRunner().invoke(app, args)


def simulated(folder: Path, *args: str) -> Path:
    done = wichan("simulate", *args, "-o", str(folder), "--workers", "1")
    assert done.exit_code == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def siso(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds") / "siso"
    return simulated(folder, "ofdm-siso", "--split", "test", "-n", "400", "--set", "grid.num_subcarriers=48")


@pytest.fixture(scope="module")
def mimo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds") / "mimo"
    return simulated(folder, "mimo-ofdm", "--split", "test", "-n", "12", "--set", "grid.num_subcarriers=24")


@pytest.fixture(scope="module")
def rrg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds") / "rrg"
    small = [f"--set={text}" for text in ("num_history=6", "array={rows: 2, columns: 2}", "uplink_bins=[0, 60]")]
    return simulated(folder, "csi-rrg", "--split", "train", "--set", "cell=cm_A_ds_100_ms_010", "-n", "6", *small)


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Imported channels of one antenna and one snapshot, without a recipe."""
    from wichan.store import import_file

    folder = tmp_path_factory.mktemp("kinds")
    np.savez(folder / "a.npz", h=np.exp(1j * np.arange(3 * 16)).reshape(3, 1, 1, 1, 16).astype(np.complex64))
    import_file(folder / "a.npz", folder / "d", columns=["h"])
    return folder / "d"


def test_help_knows_all_kinds() -> None:
    assert tuple(PLOTS) == KINDS


REFUSED = {
    ("siso", "angle-delay"): "at least 2 antenna positions",
    ("rrg", "constellation"): "received pilots",
    ("still", "doppler"): "at least 2 instants; the channels have 1",
    ("still", "delay-doppler"): "at least 2 instants",
    ("still", "angle-delay"): "at least 2 antenna positions",
    ("still", "constellation"): "received pilots",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["siso", "mimo", "rrg", "still"])
def test_every_kind_of_every_data_set(name: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder, png = request.getfixturevalue(name), tmp_path / "p.png"
    result = wichan("plot", str(folder), "--kind", kind, "-o", str(png), "--json")
    if (name, kind) in REFUSED:
        assert result.exit_code == 2
        assert [line for line in result.stderr.splitlines() if not line.startswith("warning: ")] == [
            f"error: {json.loads(result.stdout)['error']}"
        ]
        assert REFUSED[name, kind] in result.stderr
        assert not png.exists()
        return
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert (answer["path"], answer["kind"], answer["sample"]) == (str(png), kind, 0)
    assert png.read_bytes().startswith(PNG)
    assert png.stat().st_size < 120_000


def test_default_name_and_line(siso: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert wichan("plot", str(siso), "--kind", "pdp").stdout == "siso_pdp.png\n"
    assert wichan("plot", str(siso), "--kind", "heatmap", "--sample", "7").stdout == "siso_heatmap_sample_7.png\n"


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--kind", "dopler"], "did you mean 'doppler'?"),
        (["--kind", "pdp", "--sample", "400"], "at most 399"),
        (["--kind", "pdp", "--column", "no"], "known: h, y"),
        (["--kind", "pdp", "-o", "x.pdf"], "must end in .png"),
        (["--kind", "constellation", "--column", "y"], "received pilots"),
    ],
)
def test_refused_in_one_line(siso: Path, args: list[str], text: str) -> None:
    result = wichan("plot", str(siso), *args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert text in result.stderr


def test_theory_is_that_of_the_same_samples(siso: Path) -> None:
    """Mixed delay spreads and Dopplers: expectation over the very samples' conditions, here by hand."""
    view = dataset_view(siso)
    assert view.h.shape[0] == 400
    power = TDL("A", delay_spread=1e-7).profile.power
    delays = TDL("A", delay_spread=1e-7).profile.delay * view.conditions["delay_spread"].double()[:, None]
    mean = (power * delays).sum(1).mean()
    spread = float(((power * delays.square()).sum(1).mean() - mean.square()).sqrt())
    numbers = plot_dataset(siso, "pdp").numbers
    # The neighbouring-subcarrier formula: late paths of 2.9 us turn 0.27 rad at 15 kHz; measured 0.2 %.
    assert numbers["theory_rms_delay_spread"] == pytest.approx(spread, rel=0.01)
    # 400 fades of a dozen taps: 5 % of a power, less in a root.
    assert numbers["measured_rms_delay_spread"] == pytest.approx(spread, rel=0.08)
    top = view.conditions["max_doppler"].double()
    numbers = plot_dataset(siso, "doppler").numbers
    law = float((top.square().mean() / 2).sqrt())
    # x = 2 pi 1867 71e-6 = 0.84 rad at the fastest: x^2 / 16 of the square, 2 % of the root.
    assert numbers["theory_rms_doppler_spread"] == pytest.approx(law, rel=0.03)
    assert numbers["measured_rms_doppler_spread"] == pytest.approx(law, rel=0.1)


def test_numbers_of_fading_and_pilots(siso: Path) -> None:
    numbers = plot_dataset(siso, "cdf").numbers
    assert numbers["theory_mean_power"] == pytest.approx(1.0, abs=1e-6)
    assert numbers["largest_cdf_difference"] < 1.63 / 20  # Kolmogorov and Smirnov at 1 % for 400 independent fades
    pilots = plot_dataset(siso, "constellation").numbers
    # 400 x 64 pilot elements, noise variances from 1 to 0.003: the strongest ones count.
    assert pilots["measured_noise_variance"] == pytest.approx(pilots["stated_noise_variance"], rel=0.03)


def test_csi_rrg_gets_its_fading_back(rrg: Path) -> None:
    from wichan.store import open as open_dataset

    view = dataset_view(rrg)
    stored = open_dataset(rrg)[0]
    torch.testing.assert_close(view.h[0] * stored["scale"], stored["h_u_hist"])
    assert view.rx_array is not None and view.rx_array.num_ant == 8
    theory = plot_dataset(rrg, "heatmap").numbers["theory_mean_power"]
    (part,) = view.theory
    assert theory == pytest.approx(part.model.mean_power(), rel=1e-6)
    future = dataset_view(rrg, column="h_d_pred", motion=False)
    assert float(future.frequencies[0]) == pytest.approx(2.25e6)
    assert future.times.numel() == 4


def test_from_python(tmp_path: Path, generator: torch.Generator) -> None:
    model = TDL("D", delay_spread=300e-9, max_doppler=500.0)
    h, covariance = model.frequency_response(GRID, 300, generator=generator), model.covariance(GRID)
    picture = plot_channels("correlation", h, tmp_path / "deep" / "c.png", grid=GRID, covariance=covariance, title="a title")
    assert picture._repr_png_() == (tmp_path / "deep" / "c.png").read_bytes() == picture.png
    assert picture.numbers["measured_rms_delay_spread"] == pytest.approx(picture.numbers["theory_rms_delay_spread"], rel=0.1)
    law = plot_channels("cdf", ChannelView(h, theory=(Expected(covariance, 1.0, model),))).numbers
    los = model.profile.los_power
    assert law["theory_k_factor"] == pytest.approx(los / (1 - los), rel=1e-6)
    assert law["measured_k_factor"] == pytest.approx(los / (1 - los), rel=0.25)
    beams = plot_channels("angle-delay", h.expand(-1, 4, 1, -1, -1), grid=GRID, rx_array=ULA(4)).numbers
    assert beams["measured_effective_rank"] == pytest.approx(1.0, abs=1e-6)


def test_two_parts_of_theory_are_averaged() -> None:
    h = torch.ones(2, 1, 1, 14, 24, dtype=torch.complex64)
    parts = [TDL("A", delay_spread=s).covariance(GRID) for s in (50e-9, 200e-9)]
    view = ChannelView(h, theory=(Expected(parts[0], 0.25), Expected(parts[1], 0.75)))
    both = view.expect(lambda c: c.diagonal().mean() * c.terms[0].frequency.shape[-1])
    assert float(both) == pytest.approx(23.0)  # unit powers of 23 taps, whatever the weights
    assert ChannelView(h).expect(lambda c: c.mean_power()) is None


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda h: plot_channels("pdf", h), UnknownNameError, "did you mean 'pdp'?"),
        (lambda h: plot_channels("pdp", h[0]), ShapeError, "samples, rx, tx"),
        (lambda h: plot_channels("pdp", h, gird=GRID), InvalidTypeError, "'gird'"),
        (lambda h: plot_channels("pdp", h, grid=OFDMGrid(14, 12, 15e3)), ShapeError, "24"),
        (lambda h: plot_channels("pdp", h, covariance=torch.eye(24)), InvalidTypeError, "ChannelCovariance"),
        (lambda h: plot_channels("pdp", ChannelView(h), grid=GRID), InvalidValueError, "ChannelView"),
        (
            lambda h: plot_channels("pdp", h, covariance=TDL("A30").covariance(OFDMGrid(2, 24, 15e3))),
            ShapeError,
            "(1, 1, 14, 24)",
        ),
        (lambda h: plot_channels("pdp", h, "x.jpg"), InvalidValueError, ".png"),
    ],
    ids=range(8),
)
def test_python_calls_that_are_refused(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as raised:
        call(torch.ones(2, 1, 1, 14, 24, dtype=torch.complex64))
    assert text in str(raised.value)
