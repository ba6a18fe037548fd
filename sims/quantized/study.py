"""Curves: estimators by name on the recipe ``quantized-simo``, some with settings of their own, all on the same channels."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wichan.errors import InvalidValueError
from wichan.evaluation import Evaluation, evaluate

RECIPE = "quantized-simo"
SNR_DB = (-10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0)
GENIE = "bussgang-genie"
PERFECT = "perfect CSI"  # of a rate
#: 32 antennas, 32 components, 30,000 training channels: a setting whose values are known from an independent implementation.
SMALL = {"num_rx_ant": 32, "num_components": 32, "num_factors": 8, "num_train": 30_000}


@dataclass(frozen=True)
class Variant:
    """An estimator with settings of its own that do not change the channels (how a prior is fitted).

    Args:
        estimator: name for ``wichan evaluate``.
        settings: recipe settings, dotted keys or aliases.
    """

    estimator: str
    settings: Mapping[str, Any] = field(default_factory=dict)


PLAIN = {name: Variant(name) for name in ("bls", "blmmse", "bussgang-gmm", "bussgang-mfa", "bussgang-vae", GENIE, "cme-gibbs")}
VARIANTS = PLAIN | {
    "bussgang-gmm circulant": Variant("bussgang-gmm", {"structure": "circulant"}),
    "bussgang-gmm toeplitz": Variant("bussgang-gmm", {"structure": "toeplitz"}),
    "bussgang-gmm from pilots": Variant("bussgang-gmm-quantized"),
}


@dataclass(frozen=True)
class Curve:
    """One estimator over the points.

    Attributes:
        name: key of `VARIANTS`.
        points: of the sweep.
        value, low, high: with the 95 % interval.
    """

    name: str
    points: tuple[Any, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class Study:
    """Runs evaluations; variants with equal settings share one.

    Args:
        num_channels: test channels at each point.
        settings: recipe settings that hold for everything.
        quick: two points and few channels.
    """

    def __init__(self, num_channels: int, settings: Mapping[str, Any], quick: bool) -> None:
        self.num_channels, self.settings, self.quick = num_channels, dict(settings), quick

    @classmethod
    def of(cls, options: Any, settings: Mapping[str, Any]) -> Study:
        """A study as its command line says."""
        tiny = {"num_train": 500, "num_components": 4} if options.quick else {}
        return cls(64 if options.quick else options.num_channels, dict(settings) | tiny, options.quick)

    @property
    def comparable(self) -> bool:
        """Whether sizes are those of the values in `quantized.known`."""
        return not self.quick and all(self.settings.get(key) == value for key, value in SMALL.items())

    def run(
        self,
        names: Sequence[str],
        *,
        sweep: str = "snr_db",
        points: Sequence[Any] = SNR_DB,
        settings: Mapping[str, Any] | None = None,
        metric: str = "nmse",
    ) -> list[Curve]:
        """Curves of ``names`` over a sweep; a variant that the link does not have is told and left out."""
        chosen = tuple(points[:: max(len(points) - 1, 1)]) if self.quick else tuple(points)
        groups: dict[tuple[Any, ...], list[str]] = {}
        for name in names:
            groups.setdefault(tuple(sorted(VARIANTS[name].settings.items())), []).append(name)
        curves = {}
        for own, members in groups.items():
            overrides = self.settings | dict(settings or {}) | dict(own)
            for name, curve in self._group(members, sweep, chosen, overrides, metric).items():
                curves[name] = curve
        return [curves[name] for name in [*names, PERFECT] if name in curves]

    def _group(
        self, members: list[str], sweep: str, points: tuple[Any, ...], overrides: dict[str, Any], metric: str
    ) -> dict[str, Curve]:
        begin = time.monotonic()
        result = self._evaluate(members, sweep, points, overrides, metric)
        if result is None:
            return {}
        print(f"  {', '.join(members)}: {time.monotonic() - begin:.0f} s", flush=True)
        level = result.statistics.nmse if metric == "nmse" else result.measured_rates()
        columns = members if metric == "nmse" else [*members, PERFECT]
        value, low, high = (part.T.tolist() for part in level)
        return {name: Curve(name, points, tuple(value[e]), tuple(low[e]), tuple(high[e])) for e, name in enumerate(columns)}

    def _evaluate(
        self, members: list[str], sweep: str, points: tuple[Any, ...], overrides: dict[str, Any], metric: str
    ) -> Evaluation | None:
        try:
            return evaluate(
                RECIPE,
                {name: VARIANTS[name].estimator for name in members},
                sweep=sweep,
                points=points,
                overrides=overrides,
                num_channels=self.num_channels,
                reference=None,
                detail=False,
                metrics=("nmse",) if metric == "nmse" else ("nmse", "rate"),
                batch_size=256,
            )
        except InvalidValueError as error:
            print(f"  left out: {', '.join(members)}: {error}", flush=True)
            return None
