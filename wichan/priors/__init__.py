"""What channels are likely? Conditionally Gaussian priors p(h), learned from channels or from quantised pilots alone."""

from wichan.registry import Registry, lazy_exports

PRIORS = Registry(
    "prior",
    {
        "gmm": "wichan.priors.gmm:GMM",
        "mfa": "wichan.priors.mfa:MFA",
        "vae": "wichan.priors.vae:VAE",
    },
)

_NAMES = {
    "GMM": "wichan.priors.gmm",
    "MFA": "wichan.priors.mfa",
    "MixturePrior": "wichan.priors.base",
    "VAE": "wichan.priors.vae",
    "choose_num_components": "wichan.priors.selection",
    "recover_covariance": "wichan.priors.recovery",
}

__getattr__, __dir__ = lazy_exports(__name__, _NAMES | {"PRIORS": __name__})
__all__ = ["PRIORS", *sorted(_NAMES)]  # noqa: PLE0604 (names load lazily)
