"""How good is an estimator? Sweeps on common channels, paired confidence intervals, tables and figures."""

from wichan.registry import lazy_exports

_NAMES = {
    "BASELINES": "wichan.evaluation.baselines",
    "Built": "wichan.evaluation.baselines",
    "Comparison": "wichan.evaluation.statistics",
    "Detail": "wichan.evaluation.detail",
    "DetailOptions": "wichan.evaluation.detail",
    "Equalized": "wichan.evaluation.equalizer",
    "ChannelView": "wichan.evaluation.plots.view",
    "Evaluation": "wichan.evaluation.result",
    "Expected": "wichan.evaluation.plots.view",
    "Interval": "wichan.evaluation.statistics",
    "LinkStatistics": "wichan.evaluation.detail",
    "QAM": "wichan.evaluation.modulation",
    "PLOTS": "wichan.evaluation.plots",
    "Picture": "wichan.evaluation.plots.draw",
    "Setting": "wichan.evaluation.setting",
    "calibration": "wichan.metrics",
    "channel_figure": "wichan.evaluation.figure",
    "compare": "wichan.evaluation.statistics",
    "curve_figure": "wichan.evaluation.figure",
    "evaluate": "wichan.evaluation.sweep",
    "lmmse_equalize": "wichan.evaluation.equalizer",
    "mse": "wichan.metrics",
    "nmse": "wichan.metrics",
    "nmse_db": "wichan.metrics",
    "nmse_interval": "wichan.evaluation.statistics",
    "nmse_mean_of_ratios": "wichan.metrics",
    "nmse_mean_of_ratios_db": "wichan.metrics",
    "plain_table": "wichan.evaluation.table",
    "post_equalization_sinr": "wichan.evaluation.equalizer",
    "plot_channels": "wichan.evaluation.plots.make",
    "plot_dataset": "wichan.evaluation.plots.make",
    "dataset_view": "wichan.evaluation.plots.dataset",
    "resampled_sums": "wichan.evaluation.statistics",
    "rate_legacy": "wichan.evaluation.rate",
    "rate_uatf": "wichan.evaluation.rate",
    "rich_table": "wichan.evaluation.table",
}

__getattr__, __dir__ = lazy_exports(__name__, _NAMES)
__all__ = sorted(_NAMES)  # noqa: PLE0605 (names load lazily)
