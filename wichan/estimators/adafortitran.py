"""AdaFortiTran: FortiTran that is told SNR, delay spread and Doppler."""

from __future__ import annotations

from wichan.estimators.fortitran import FortiTran


class AdaFortiTran(FortiTran):
    """FortiTran with a channel adapter: each condition becomes two more features of every patch.

    It needs an oracle for delay spread and Doppler; `wichan.estimators.WithEstimatedConditions` stands in for one. The
    published network takes raw dB, ns and Hz (``condition_ranges=None``), which amplifies rounding and extrapolates badly;
    the default maps them to -1 ... 1.

    Args:
        obs: the pilots.
        **options: see `FortiTran` and `LearnedEstimator`.

    Cost and source: see `FortiTran` [Guler2025]_.
    """

    kind = "adafortitran"
    wanted = ("snr_db", "delay_spread", "max_doppler")
