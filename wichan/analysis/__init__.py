"""What a channel is like: spreads, coherence, delay-Doppler and angle-delay views, effective rank."""

from wichan.registry import lazy_exports

_MODULES = {
    "angles": ("angular_spread", "mean_angle"),
    "correlation": ("Correlation", "frequency_correlation", "spatial_correlation", "time_correlation"),
    "delays": ("coherence_bandwidth", "mean_delay", "rms_delay_spread"),
    "distribution": ("Distribution", "empirical_cdf", "fading_power_cdf"),
    "dopplers": (
        "DopplerSpectrum",
        "coherence_time",
        "doppler_spectrum",
        "jakes_spectrum",
        "mean_doppler",
        "rms_doppler_spread",
    ),
    "rician": ("k_factor",),
    "profile": ("power_delay_profile", "profile_of_covariance"),
    "rank": ("condition_number", "effective_rank"),
    "transforms": (
        "AngleDelay",
        "DelayDoppler",
        "angle_delay_power",
        "delay_doppler_power",
        "from_angle_delay",
        "from_delay_doppler",
        "to_angle_delay",
        "to_delay_doppler",
    ),
}
_NAMES = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}

__getattr__, __dir__ = lazy_exports(__name__, _NAMES)
__all__ = sorted(_NAMES)  # noqa: PLE0605 (names load lazily)
