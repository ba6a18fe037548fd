r"""A terminal, a reflecting surface and a base station in a plane, with absolute path gains, and training by pairs of patterns.

A Kronecker-structured prior fits the cascade, and it fits the direct link, but not their sum: one set of directions at the
terminal and one at the base station would have to serve both. So every pattern is sent twice, with opposite sign:

.. math:: \tfrac12 (y_\theta - y_{-\theta}) = \text{cascade under } \theta + n/\sqrt2, \qquad
    \tfrac12 (y_\theta + y_{-\theta}) = \text{direct link} + n/\sqrt2 .

Each half is estimated by itself; the averages over all patterns see the direct link.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from wichan.channels import IRSCascade, log_distance_gain_db
from wichan.estimators import KroneckerSBL
from wichan.observations import IRSTraining, KroneckerDictionary


@dataclass(frozen=True)
class Setting:
    """Geometry, link budget, training and estimator; distances in metres, levels in dB.

    ``noise_dbm`` is that of 10 MHz with a noise figure of 10 dB.
    """

    num_irs: int = 256
    num_ms_ant: int = 6
    num_bs_ant: int = 16
    num_paths: int = 3
    grid: int = 18
    angles: str = "block"
    ms_irs_distance: float = 20.0
    irs_bs_distance: float = 50.0
    ms_bs_distance: float = 60.0
    hop_exponent: float = 2.2
    direct_exponent: float = 4.2
    noise_dbm: float = -94.0
    num_pilots: int = 3
    num_pairs: int = 6
    coherence_uses: int = 500
    failure_rate: float = 0.0
    m_step: str = "svd"
    couple: tuple[str, ...] = ()

    @property
    def gains_db(self) -> tuple[float, float, float]:
        """Path gains: terminal to surface, surface to base station, and past the surface, behind obstacles."""
        hops = (log_distance_gain_db(d, self.hop_exponent) for d in (self.ms_irs_distance, self.irs_bs_distance))
        return (*hops, log_distance_gain_db(self.ms_bs_distance, self.direct_exponent))

    @property
    def no(self) -> float:
        """Noise variance [W]."""
        return 10 ** (self.noise_dbm / 10 - 3)

    @property
    def pilot_uses(self) -> int:
        """Channel uses of the training: every pilot under every pattern of all pairs."""
        return 2 * self.num_pairs * self.num_pilots

    def irs(self, *, direct: bool) -> IRSCascade:
        """The link, with or without the direct path."""
        first, second, past = self.gains_db
        return IRSCascade(
            self.num_ms_ant,
            self.num_irs,
            self.num_bs_ant,
            self.num_paths,
            direct=direct,
            angles=self.angles,
            grid_size=self.grid if self.angles in ("grid", "block") else None,
            hop_gain_db=(first, second),
            direct_gain_db=past,
            failure_rate=self.failure_rate,
        )

    @cached_property
    def half(self) -> IRSTraining:
        """What a difference of a pair sees: one pattern each, the cascade alone."""
        return IRSTraining(self.irs(direct=False), self.num_pilots, self.num_pairs)

    @cached_property
    def training(self) -> IRSTraining:
        """The training as it is sent: patterns, then the same with opposite sign."""
        patterns = self.half.patterns
        both = torch.cat([patterns, -patterns])
        return IRSTraining(self.irs(direct=True), self.num_pilots, 2 * self.num_pairs, patterns=both, pilots=self.half.pilots)

    @cached_property
    def estimators(self) -> tuple[KroneckerSBL, KroneckerSBL]:
        """Of the cascade, and of the direct link."""
        cascade = self.half.dictionary(self.grid)
        ends = cascade.factors[1:], (cascade.synthesis or ())[1:]
        direct = KroneckerDictionary(*ends, names=("ms", "bs"), periodic=(True, True), channel_order=(1, 0))
        options: dict[str, Any] = {"m_step": self.m_step}
        return (
            KroneckerSBL(cascade, couple=self.couple, **options),
            KroneckerSBL(direct, couple=[name for name in self.couple if name != "irs"], **options),
        )

    def estimate(self, y: torch.Tensor, no: float) -> torch.Tensor:
        """Element cascades with the direct link last, (n, Nbs, Nms, L + 1, 1), from training (n, M) with noise ``no``."""
        plus, minus = y.unflatten(-1, (2, self.num_pairs, -1)).unbind(dim=-3)
        cascade, direct = self.estimators
        found = cascade(((plus - minus) / 2).flatten(-2), no / 2)
        surface = cascade.dictionary.element_cascade(found.coefficients)
        past = direct(((plus + minus) / 2).mean(dim=-2), no / (2 * self.num_pairs)).h_hat
        return torch.cat([surface, past[..., None, None]], dim=-2)


def parse(texts: list[str] | None) -> Mapping[str, Any]:
    """``KEY=VALUE`` as fields of `Setting`."""
    known = {name: type(getattr(Setting(), name)) for name in Setting.__dataclass_fields__}
    found: dict[str, Any] = {}
    for text in texts or ():
        name, _, value = text.partition("=")
        if name not in known or not value:
            raise SystemExit(f"--set {text}: must be KEY=VALUE with a key of {', '.join(known)}")
        kind = known[name]
        try:
            found[name] = tuple(part for part in value.split(",") if part != "none") if kind is tuple else kind(value)
        except ValueError:
            raise SystemExit(f"--set {text}: the value must be {kind.__name__}") from None
    return found
