"""Settings of a run: defaults, checks, plain data and back; the schedule and the moving average against their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from wichan.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from wichan.training import TrainConfig
from wichan.training.config import parse_duration
from wichan.training.ema import WeightAverage
from wichan.training.schedule import budget_used, rate_factor


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("2 h", 7200), ("1.5min", 90), ("1d", 86400), ("45", 45), (7, 7)],
)
def test_durations(text: Any, seconds: float) -> None:
    assert parse_duration(text, "max_time") == seconds


@pytest.mark.parametrize("text", ["", "soon", "30x", "1h-5m", "0m", 0, -1, math.inf, None])
def test_no_durations(text: Any) -> None:
    with pytest.raises((InvalidValueError, InvalidTypeError), match="^max_time[^\n]*$"):
        parse_duration(text, "max_time")


def test_defaults() -> None:
    config = TrainConfig.of("adafortitran")
    assert (config.stream, config.max_time, config.monitor) == ("ofdm-siso", 1800.0, "score_db")
    assert TrainConfig.of("adafortitran", max_steps=5).max_time is None
    assert TrainConfig.of("adafortitran", loss="mse").monitor == "nmse_db"
    assert TrainConfig.of("linear").batch_size > config.batch_size  # what suits the model
    assert TrainConfig.of("linear", batch_size=3).batch_size == 3


def test_plain_data_and_back(tiny: Callable[..., TrainConfig]) -> None:
    config = tiny("fortitran", lr=0.01, max_time="10m")
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert config.changed(max_steps=3).max_steps == 3


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"model": "adafortiran"}, UnknownNameError, "did you mean 'adafortitran'"),
        ({"loss": "hinge"}, UnknownNameError, "loss='hinge'"),
        ({"learning_rate": 1}, UnknownNameError, "setting='learning_rate'"),
        ({"stream": "ofdm-siso", "data": "x"}, InvalidValueError, "exclude each other"),
        ({"data": "x", "overrides": {"snr_db": 3}}, InvalidValueError, "overrides"),
        ({"max_time": 0}, InvalidValueError, "max_time=0 must be greater than 0"),
        ({"max_steps": 0}, InvalidValueError, "max_steps=0"),
        ({"lr": -1.0}, InvalidValueError, "lr=-1"),
        ({"lr": "fast"}, InvalidTypeError, "lr='fast'"),
        ({"batch_size": 2.5}, InvalidTypeError, "batch_size=2.5"),
        ({"ema": 1.0}, InvalidValueError, "ema=1"),
        ({"schedule": "cosin"}, UnknownNameError, "did you mean 'cosine'"),
        ({"precision": "64-true"}, UnknownNameError, "precision='64-true'"),
        ({"monitor": "val"}, UnknownNameError, "monitor='val'"),
        ({"compile": 1}, InvalidTypeError, "compile=1"),
        ({"model_options": [1]}, InvalidTypeError, "model_options must be a mapping"),
        ({"overrides": {"snr_db": torch.ones(2)}}, InvalidTypeError, "overrides must be plain JSON"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match="^[^\n]*$") as caught:
        TrainConfig.of(**({"model": "linear"} | settings))
    assert text in str(caught.value)


@pytest.mark.parametrize("values", [None, 3, {}, {"lr": 1.0}])
def test_a_file_without_settings(values: Any) -> None:
    with pytest.raises(InvalidValueError, match="key model"):
        TrainConfig.from_dict(values)


# -- The schedule. --


def test_the_budget_is_used_by_steps_or_time() -> None:
    both = TrainConfig.of("linear", max_steps=100, max_time=50)
    assert budget_used(both, 20, 5.0, 100) == 0.2
    assert budget_used(both, 20, 30.0, 100) == 0.6
    assert budget_used(both, 120, 30.0, 100) == 1.0
    assert budget_used(both, 10**9, 25.0, None) == 0.5


def test_rates_follow_their_formulas() -> None:
    settings = {"lr_final": 0.1, "warmup": 0.2}
    cosine, exponential, constant = (
        TrainConfig.of("linear", schedule=name, **settings) for name in ("cosine", "exponential", "constant")
    )
    for config in (cosine, exponential, constant):
        assert rate_factor(config, 0.05) == pytest.approx(0.25)
        assert rate_factor(config, 0.2) == pytest.approx(1.0)
    assert rate_factor(cosine, 0.6) == pytest.approx(0.1 + 0.9 / 2)  # half-way between the two ends
    assert rate_factor(exponential, 0.6) == pytest.approx(math.sqrt(0.1))
    assert rate_factor(constant, 1.0) == 1.0
    assert rate_factor(cosine, 1.0) == pytest.approx(0.1)
    assert rate_factor(exponential, 1.0) == pytest.approx(0.1)
    assert rate_factor(TrainConfig.of("linear", warmup=1.0), 1.0) > 0


# -- The average. --


def test_the_average_follows_its_recursion(generator: torch.Generator) -> None:
    with torch.random.fork_rng():
        layer = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    average = WeightAverage(layer, 0.9)
    expected = layer.weight.detach().clone()
    for n in range(30):
        with torch.no_grad():
            layer.weight.copy_(torch.randn(2, 2, generator=generator, dtype=torch.float64))
        average.update(layer)
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * layer.weight.detach()
    assert torch.allclose(average.module.weight, expected, rtol=1e-13, atol=0)
    assert average.updates == 30
    assert not average.module.weight.requires_grad


def test_without_decay_the_average_is_a_copy_and_buffers_follow() -> None:
    with torch.random.fork_rng():
        network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = WeightAverage(network, 0.0).train()
    assert not average.module.training
    with torch.no_grad():
        network[0].weight.add_(1.0)
        network[1].running_mean.add_(2.0)
    average.update(network)
    for mine, theirs in zip(average.module.state_dict().values(), network.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
