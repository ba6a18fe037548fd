"""Sionna both ways: wichan's estimators and channels in a Sionna link, Sionna's in wichan.

Importing this package does not import Sionna; using a name of it does, and says which extra to install where it is missing.
"""

from wichan.registry import lazy_exports

_NAMES: dict[str, str] = {
    "Drop": "wichan.integrations.sionna.topology",
    "LargeScale": "wichan.integrations.sionna.calibration",
    "SionnaCDL": "wichan.integrations.sionna.delay_lines",
    "SionnaChannel": "wichan.integrations.sionna.channels",
    "SionnaTDL": "wichan.integrations.sionna.delay_lines",
    "SystemLevel": "wichan.integrations.sionna.system_level",
    "as_baseline": "wichan.integrations.sionna.baseline",
    "as_channel_estimator": "wichan.integrations.sionna.estimator",
    "as_sionna_channel": "wichan.integrations.sionna.cir",
    "isolated_rng": "wichan.integrations.sionna.rng",
    "ks_distance": "wichan.integrations.sionna.calibration",
    "large_scale_parameters": "wichan.integrations.sionna.calibration",
    "observation_of": "wichan.integrations.sionna.layout",
    "panel_array": "wichan.integrations.sionna.panels",
    "require_sionna": "wichan.integrations.sionna.require",
    "resource_grid_of": "wichan.integrations.sionna.layout",
    "theory_cdf": "wichan.integrations.sionna.calibration",
}

__getattr__, __dir__ = lazy_exports(__name__, _NAMES)
__all__ = sorted(_NAMES)  # noqa: PLE0605 (names load lazily)
