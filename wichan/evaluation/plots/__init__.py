"""Pictures of channels, theory dashed beside the data: one file a kind."""

from wichan.registry import Registry, lazy_exports

_NAMES = {
    "ChannelView": "wichan.evaluation.plots.view",
    "Expected": "wichan.evaluation.plots.view",
    "Picture": "wichan.evaluation.plots.draw",
    "dataset_view": "wichan.evaluation.plots.dataset",
    "plot_channels": "wichan.evaluation.plots.make",
    "plot_dataset": "wichan.evaluation.plots.make",
}

PLOTS = Registry(
    "kind",
    {
        "heatmap": "wichan.evaluation.plots.heatmap:heatmap",
        "pdp": "wichan.evaluation.plots.pdp:pdp",
        "doppler": "wichan.evaluation.plots.doppler:doppler",
        "delay-doppler": "wichan.evaluation.plots.delay_doppler:delay_doppler",
        "angle-delay": "wichan.evaluation.plots.angle_delay:angle_delay",
        "correlation": "wichan.evaluation.plots.correlation:correlation",
        "cdf": "wichan.evaluation.plots.cdf:cdf",
        "constellation": "wichan.evaluation.plots.constellation:constellation",
    },
)

__getattr__, __dir__ = lazy_exports(__name__, _NAMES)
__all__ = ["PLOTS", *sorted(_NAMES)]  # noqa: PLE0604 (names load lazily)
