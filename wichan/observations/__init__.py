"""What does the receiver see of a channel? Pilot patterns, OFDM and dense pilots, SNR conventions, and what they leave out."""

from wichan.registry import lazy_exports

_NAMES = {
    "AWGN": "wichan.observations.history",
    "Burst": "wichan.observations.history",
    "DensePilots": "wichan.observations.dense",
    "Distortion": "wichan.observations.distortion",
    "HISTORY_IMPAIRMENTS": "wichan.observations.history",
    "HistoryImpairment": "wichan.observations.impairment",
    "IRSDictionary": "wichan.observations.irs_dictionary",
    "IRSTraining": "wichan.observations.irs",
    "KroneckerDictionary": "wichan.observations.dictionary",
    "OFDMGrid": "wichan.grid",
    "OFDMPilots": "wichan.observations.ofdm",
    "Observation": "wichan.observations.base",
    "QuantizedPilots": "wichan.observations.quantized",
    "Quantizer": "wichan.observations.quantizer",
    "PacketDrop": "wichan.observations.history",
    "PhaseNoise": "wichan.observations.history",
    "PilotPattern": "wichan.observations.pilots",
    "SNRConvention": "wichan.observations.snr",
    "SNR_CONVENTIONS": "wichan.observations.snr",
    "TimeDomainPilots": "wichan.observations.time_domain",
    "arcsine_law": "wichan.observations.quantizer_statistics",
    "block_pattern": "wichan.observations.pilots",
    "comb_pattern": "wichan.observations.pilots",
    "convert_snr_db": "wichan.observations.snr",
    "dmrs_pattern": "wichan.observations.dmrs",
    "doppler_distortion": "wichan.observations.distortion",
    "gold_sequence": "wichan.observations.sequences",
    "history_impairment": "wichan.observations.history",
    "impute": "wichan.observations.imputation",
    "irs_patterns": "wichan.observations.irs_training_patterns",
    "kronecker_pattern": "wichan.observations.pilots",
    "late_path_distortion": "wichan.observations.distortion",
    "model_distortion": "wichan.observations.distortion",
    "no_from_snr_db": "wichan.observations.snr",
    "pilot_sequence": "wichan.observations.quantized",
    "qpsk_sequence": "wichan.observations.sequences",
    "quantized_ofdm": "wichan.observations.quantized_waveform",
    "snr_db_from_no": "wichan.observations.snr",
}

__getattr__, __dir__ = lazy_exports(__name__, _NAMES)
__all__ = sorted(_NAMES)  # noqa: PLE0605 (names load lazily)
