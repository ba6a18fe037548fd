"""Learned estimators in an evaluation: released by name, anybody's by path, and refused where they do not fit."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from wichan.errors import InvalidValueError, StoreError, WichanError
from wichan.estimators import LS, AdaFortiTran, CeViT, Estimate, Estimator, FortiTran, LearnedEstimator, Linear
from wichan.evaluation import BASELINES, Setting, evaluate
from wichan.evaluation.learned import build_learned, trained
from wichan.evaluation.names import named
from wichan.grid import OFDMGrid
from wichan.observations import OFDMPilots
from wichan.simulate import load_recipe
from wichan.training import save_weights, zoo

SMALL: dict[str, Any] = {"grid.num_subcarriers": 24}
NETWORK = {"width": 8, "layers": 1, "heads": 2}
NOTES = {"config": {"stream": "ofdm-siso", "data": None}, "steps": 40, "seconds": 90.0}


def recipe(**overrides: Any) -> Any:
    return load_recipe("ofdm-siso", SMALL | overrides)


def pilots(**options: Any) -> OFDMPilots:
    """The recipe's positions; other symbols, since only positions matter."""
    return OFDMPilots(OFDMGrid(14, 24, 15e3), (2, 5, 8, 11), 3, values=1j, **options)


def interpolating() -> Linear:
    """The learned linear estimator with the weights of least squares, so that its error is known."""
    obs = pilots()
    est = Linear(obs, scale_input=False)
    unit = torch.zeros(obs.num_pilots, obs.grid.num_resource_elements, dtype=torch.complex64)
    unit[torch.arange(obs.num_pilots), est.pilot_order] = obs.pilots.flatten()[est.pilot_order]
    h_hat, _ = LS(obs)(unit.unflatten(-1, obs.grid.shape)[:, None], 0.0)
    with torch.no_grad():
        est.network.weight.copy_(h_hat[:, 0, 0].real.mT.flatten(-2).T)
        est.network.bias.zero_()
    return est


def network(kind: str) -> LearnedEstimator:
    made = {
        "linear": interpolating,
        "fortitran": lambda: FortiTran(pilots(), **NETWORK),
        "adafortitran": lambda: AdaFortiTran(pilots(), **NETWORK),
        "cevit": lambda: CeViT(pilots(), patch=(6, 4), hidden=8, **NETWORK),
    }
    return made[kind]().eval()


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All four kinds, as if they were released."""
    folder = tmp_path / "models"
    for kind in ("linear", "cevit", "fortitran", "adafortitran"):
        (folder / kind).mkdir(parents=True)
        save_weights(network(kind), folder / kind / "weights.safetensors", NOTES)
        lines = ["title: x", f"kind: {kind}", "trained_on: ofdm-siso", "command: x", "wall_time: 2 h on two cores", "headline:"]
        (folder / kind / "config.yaml").write_text("\n".join(lines))
    monkeypatch.setattr(zoo, "model_folder", lambda: folder)
    return folder


def run(estimators: Any, **options: Any) -> Any:
    settings = {"points": [10.0], "num_channels": 24, "num_resamples": 100, "reference": None, "detail": False}
    return evaluate(recipe(), estimators, **(settings | options))


def values(result: Any) -> dict[str, float]:
    return dict(zip(result.estimators, result.nmse_db.value[0].tolist(), strict=True))


def test_released_weights_by_name(models: Path) -> None:
    result = run(["ls", "linear", "cevit", "fortitran", "adafortitran"])
    nmse = values(result)
    # The same matrix in two orders of summation, in single precision.
    assert nmse["linear"] == pytest.approx(nmse["ls"], abs=1e-4)
    assert len({round(value, 3) for value in nmse.values()}) == 4
    told = dict(zip(result.estimators, result.told, strict=True))
    assert told["fortitran"] == told["linear"] == ()
    assert told["adafortitran"] == told["cevit"] == ("delay_spread", "max_doppler")
    assert result.notes["cevit"] == "released weights of cevit, trained on ofdm-siso for 2 h on two cores"


def test_a_network_is_told_the_truth(models: Path) -> None:
    """The table's number is that of the network called by hand with the conditions of each frame."""
    by_hand = network("adafortitran")
    seen: list[dict[str, torch.Tensor]] = []

    def spy(y: torch.Tensor, no: torch.Tensor, **conditions: torch.Tensor) -> Estimate:
        seen.append(conditions)
        return by_hand.for_observation(Setting.of(recipe()).observation)(y, no, **conditions)

    spy.told = ("delay_spread", "max_doppler")  # type: ignore[attr-defined]
    nmse = values(run({"adafortitran": None, "spy": spy}))
    assert nmse["adafortitran"] == pytest.approx(nmse["spy"], abs=1e-6)
    assert len(seen[0]["max_doppler"].unique()) > 5


def test_weights_by_path(models: Path) -> None:
    own = models.parent / "runs"
    own.mkdir()
    first = save_weights(network("linear"), own / "best.safetensors", NOTES)
    result = run(["linear", f"mine={first}", str(first), f"folder={own}"])
    assert result.estimators == ("linear", "mine", "best", "folder")
    nmse = values(result)
    assert len(set(nmse.values())) == 1
    assert result.notes["mine"] == f"weights of {first}, trained on ofdm-siso for 40 steps in 1.5 min"
    assert values(run({"a": str(first), "b": "linear"}))["a"] == nmse["mine"]
    # A released model that no baseline is named after.
    (models / "linear").rename(models / "linear-24")
    assert values(run(["linear-24"]))["linear-24"] == nmse["mine"]


class Guessing(Estimator):
    """Stands for the wrapper that estimates conditions from the pilots."""

    def __init__(self, estimator: LearnedEstimator, obs: OFDMPilots) -> None:
        super().__init__()
        self.estimator, self.obs = estimator, obs

    told = ()

    def forward(self, y: torch.Tensor, no: Any, **conditions: Any) -> Estimate:
        assert not conditions
        return self.estimator(y, no, delay_spread=1e-7, max_doppler=300.0)


@pytest.mark.parametrize("kind", ["cevit", "adafortitran"])
def test_blind_variants_are_told_nothing(models: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setitem(sys.modules, "wichan.estimators.conditions", SimpleNamespace(WithEstimatedConditions=Guessing))
    built = BASELINES[f"{kind}-blind"](Setting.of(recipe()))
    assert built.told == ()
    assert isinstance(built.estimator, Guessing)
    assert torch.equal(built.estimator.obs.pilots, Setting.of(recipe()).observation.pilots)
    assert built.note.endswith("conditions are estimated from the pilots")
    nmse = values(run([kind, f"{kind}-blind"]))
    assert nmse[kind] != nmse[f"{kind}-blind"]


@pytest.mark.parametrize(
    ("overrides", "theirs"),
    [
        ({"grid.num_subcarriers": 12}, "a grid of 14 x 12, 15 kHz, 16 pilots"),
        ({"pilots.symbols": [2, 11]}, "16 pilots in symbols 2, 11 at"),
        ({"grid.subcarrier_spacing": 30e3}, "14 x 24, 30 kHz"),
        ({"pilots.subcarrier_offset": 1}, "at subcarriers 1, 4, ..., 22"),
    ],
)
def test_weights_for_another_grid(models: Path, overrides: dict[str, Any], theirs: str) -> None:
    mine = "estimator 'adafortitran' is trained for a grid of 14 x 24, 15 kHz, 32 pilots in symbols 2, 5, 8, 11 at"
    with pytest.raises(InvalidValueError) as caught:
        BASELINES["adafortitran"](Setting.of(recipe(**overrides)))
    text = str(caught.value)
    assert text.startswith(mine)
    assert theirs in text.partition("; recipe 'ofdm-siso' has ")[2]
    assert "wichan train adafortitran --stream ofdm-siso" in text
    assert "\n" not in text


def test_a_difference_that_the_description_does_not_show(models: Path) -> None:
    with pytest.raises(InvalidValueError, match="linear was made for .*wichan train linear"):
        BASELINES["linear"](Setting.of(recipe(**{"grid.symbol_duration": 80e-6})))


def test_conditions_that_a_recipe_lacks(models: Path) -> None:
    setting = Setting.of(recipe())
    laws = {name: law for name, law in setting.laws.items() if name != "max_doppler"}
    poor = SimpleNamespace(
        recipe=setting.recipe, observation=setting.observation, draw_conditions=lambda u: dict.fromkeys(laws, 0.0)
    )
    with pytest.raises(InvalidValueError, match=r"'adafortitran' wants to be told max_doppler, which .*adafortitran-blind$"):
        build_learned("adafortitran", poor)  # type: ignore[arg-type]


def test_weights_that_are_not_there(models: Path, tmp_path: Path) -> None:
    (models / "cevit" / "weights.safetensors").unlink()
    with pytest.raises(InvalidValueError, match=r"'cevit' has no released weights .*wichan train cevit --stream ofdm-siso"):
        run(["cevit"])
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"")
    for estimators, error, text in [
        (["adafortran"], InvalidValueError, "did you mean 'adafortitran'"),
        ([f"x={tmp_path}/no.safetensors"], InvalidValueError, "is no file"),
        ([f"{tmp_path}/no.safetensors"], InvalidValueError, "is no file"),
        ({"x": f"{tmp_path}/models"}, InvalidValueError, "is a folder without"),
        ([str(bad)], StoreError, "cut short"),
        (["=x"], InvalidValueError, "must be NAME=PATH"),
        (["x="], InvalidValueError, "must be NAME=PATH"),
        (["a/best.safetensors", "b/best.safetensors"], InvalidValueError, "estimators='best' stands for 'a/best.*A=PATH"),
        (["ls", "ls=b/best.safetensors"], InvalidValueError, "estimators='ls' stands for 'ls' and 'b/best"),
    ]:
        with pytest.raises(error, match=text) as caught:
            run(estimators)
        assert isinstance(caught.value, WichanError)
        assert "\n" not in str(caught.value)


def test_names() -> None:
    assert named(["ls", "ls", "a=ls"]) == {"ls": None, "a": "ls"}
    assert named(["x/y.safetensors", " b = x/y.safetensors"]) == {"y": "x/y.safetensors", "b": "x/y.safetensors"}


@pytest.mark.parametrize(
    ("notes", "text"),
    [
        (NOTES, "trained on ofdm-siso for 40 steps in 1.5 min"),
        ({"config": {"stream": None, "data": "out"}, "seconds": 7200}, "trained on out in 120 min"),
        ({"config": 3, "steps": 5}, "trained for 5 steps"),
        ({}, "its training is not noted"),
    ],
)
def test_what_a_note_says_of_training(notes: dict[str, Any], text: str) -> None:
    assert trained(notes) == text
