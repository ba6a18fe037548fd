"""From what the receiver sees to the channel and its uncertainty: one file a method."""

from wichan.registry import Registry, lazy_exports

ESTIMATORS = Registry(
    "estimator",
    {
        "bls": "wichan.estimators.bussgang:BLS",
        "bussgang-genie": "wichan.estimators.bussgang_genie:BussgangGenie",
        "bussgang-gmm": "wichan.estimators.bussgang_mixture:BussgangGMM",
        "bussgang-lmmse": "wichan.estimators.bussgang:BussgangLMMSE",
        "bussgang-mfa": "wichan.estimators.bussgang_mixture:BussgangMFA",
        "delay-doppler-mixture": "wichan.estimators.delay_doppler:DelayDopplerMixture",
        "gmm-em": "wichan.estimators.gmm_em:GMMEM",
        "ls": "wichan.estimators.ls:LS",
        "lmmse": "wichan.estimators.lmmse:LMMSE",
        "lmmse-bank": "wichan.estimators.bank:LMMSEBank",
        "lmmse-kronecker": "wichan.estimators.lmmse:lmmse_kronecker",
        "lmmse-separable": "wichan.estimators.lmmse:lmmse_separable",
    },
)

LEARNED = Registry(
    "learned estimator",
    {
        "adafortitran": "wichan.estimators.adafortitran:AdaFortiTran",
        "cevit": "wichan.estimators.cevit:CeViT",
        "fortitran": "wichan.estimators.fortitran:FortiTran",
        "linear": "wichan.estimators.linear:Linear",
    },
)

_NAMES = {
    "AdaFortiTran": "wichan.estimators.adafortitran",
    "BLS": "wichan.estimators.bussgang",
    "BussgangGMM": "wichan.estimators.bussgang_mixture",
    "BussgangGenie": "wichan.estimators.bussgang_genie",
    "BussgangLMMSE": "wichan.estimators.bussgang",
    "BussgangMFA": "wichan.estimators.bussgang_mixture",
    "BussgangMixture": "wichan.estimators.bussgang_mixture",
    "BussgangVAE": "wichan.estimators.bussgang_vae",
    "CMEGibbs": "wichan.estimators.gibbs",
    "GMM": "wichan.priors.gmm",
    "GMMEM": "wichan.estimators.gmm_em",
    "MFA": "wichan.priors.mfa",
    "VAE": "wichan.priors.vae",
    "CeViT": "wichan.estimators.cevit",
    "FortiTran": "wichan.estimators.fortitran",
    "LearnedEstimator": "wichan.estimators.learned",
    "Linear": "wichan.estimators.linear",
    "Estimate": "wichan.estimators.base",
    "Estimator": "wichan.estimators.base",
    "MixtureEstimate": "wichan.estimators.mixture",
    "SeparableMixture": "wichan.estimators.mixture",
    "ConditionEstimator": "wichan.estimators.condition_estimator",
    "Conditions": "wichan.estimators.condition_estimator",
    "DelayDopplerMixture": "wichan.estimators.delay_doppler",
    "PluginLMMSE": "wichan.estimators.plugin",
    "WithEstimatedConditions": "wichan.estimators.conditions",
    "estimate_conditions": "wichan.estimators.conditions",
    "estimate_delay_spread": "wichan.estimators.conditions",
    "estimate_max_doppler": "wichan.estimators.conditions",
    "estimate_noise": "wichan.estimators.conditions",
    "estimate_snr_db": "wichan.estimators.conditions",
    "LMMSE": "wichan.estimators.lmmse",
    "LMMSEBank": "wichan.estimators.bank",
    "LS": "wichan.estimators.ls",
    "lmmse_error": "wichan.estimators.pilot_design",
    "lmmse_estimate": "wichan.estimators.pilot_design",
    "optimal_pilots": "wichan.estimators.pilot_design",
}

__getattr__, __dir__ = lazy_exports(__name__, _NAMES | {"ESTIMATORS": __name__, "LEARNED": __name__})
__all__ = ["ESTIMATORS", "LEARNED", *sorted(_NAMES)]  # noqa: PLE0604 (names load lazily)
