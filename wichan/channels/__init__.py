"""What channels exist: models that draw rays, the kernel that turns rays into channels, and their statistics."""

from wichan.registry import lazy_exports

_EXPORTS = {
    "AntennaArray": "arrays",
    "CDL": "cdl",
    "ChannelCovariance": "covariance",
    "ChannelModel": "base",
    "IRSCascade": "irs",
    "IRSDraw": "irs_draw",
    "KroneckerTerm": "covariance",
    "NoClosedFormError": "base",
    "Panel": "arrays",
    "Rays": "rays",
    "RayleighBlock": "rayleigh",
    "RicianBlock": "rayleigh",
    "SpatialDraw": "spatial",
    "SpatialGaussian": "spatial",
    "TDL": "tdl",
    "TapTable": "profiles",
    "Terminal": "plane_waves",
    "ULA": "arrays",
    "UPA": "arrays",
    "cluster_coefficients": "synthesis",
    "combine_clusters": "synthesis",
    "delay_phasors": "synthesis",
    "exponential_correlation": "correlation",
    "filter_taps": "synthesis",
    "free_space_gain_db": "path_loss",
    "frequency_response": "synthesis",
    "impulse_response": "synthesis",
    "line_of_sight_rays": "near_field",
    "log_distance_gain_db": "path_loss",
    "mimo_correlation": "correlation",
    "normalize_power": "base",
    "plane_wave_rays": "plane_waves",
    "polarization_matrix": "plane_waves",
    "quantize_phases": "irs_elements",
    "reflection_from_phases": "irs_elements",
    "spherical_response": "near_field",
    "stuck_reflection": "irs_elements",
    "surface_array": "irs_elements",
}

__getattr__, __dir__ = lazy_exports(__name__, {name: f"{__name__}.{module}" for name, module in _EXPORTS.items()})
__all__ = sorted(_EXPORTS)  # noqa: PLE0605
