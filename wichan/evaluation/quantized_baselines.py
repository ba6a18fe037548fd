"""Estimators behind coarse converters for ``wichan evaluate``: linear ones, mixtures and networks, and their references."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from wichan.channels.base import NoClosedFormError
from wichan.errors import InvalidValueError, WichanError
from wichan.estimators.base import Estimate, Estimator
from wichan.evaluation.baselines import Built
from wichan.evaluation.setting import Setting


def build_bls(setting: Setting) -> Built:
    """Least squares after Bussgang's decomposition; of the channel it knows the mean power."""
    from wichan.estimators import BLS

    return Built(BLS(setting.quantized), note="gains of uncorrelated elements of unit power")


def build_blmmse(setting: Setting) -> Built:
    """Bussgang LMMSE with the sample covariance of the recipe's training channels: the linear one that is told nothing."""
    from wichan.estimators import BussgangLMMSE
    from wichan.evaluation.fitted import training_set

    h = training_set(setting)
    return Built(BussgangLMMSE.from_samples(setting.quantized, h), note=f"sample covariance of {len(h):,} training channels")


def build_bussgang_gmm(setting: Setting) -> Built:
    """Conditional mean of a Gaussian mixture learned from channels, each component by Bussgang."""
    return _mixture(setting, "gmm")


def build_bussgang_mfa(setting: Setting) -> Built:
    """As bussgang-gmm with a mixture of factor analysers: covariances of few factors plus noise."""
    return _mixture(setting, "mfa")


def build_bussgang_gmm_quantized(setting: Setting) -> Built:
    """As bussgang-gmm, the mixture learned from quantised pilots alone, without a single channel."""
    return _mixture(setting, "gmm", from_observations=True)


def build_bussgang_mfa_quantized(setting: Setting) -> Built:
    """As bussgang-mfa, the mixture learned from quantised pilots alone, without a single channel."""
    return _mixture(setting, "mfa", from_observations=True)


def _mixture(setting: Setting, kind: str, *, from_observations: bool = False) -> Built:
    from wichan.evaluation.fitted import fitted_prior
    from wichan.training.zoo import bussgang_estimator

    prior, note = fitted_prior(setting, kind, from_observations=from_observations)
    return Built(bussgang_estimator(prior, setting.quantized), note=note)


def build_bussgang_vae(setting: Setting) -> Built:
    """Bussgang with the covariance that a variational autoencoder reads from the pilots; released weights."""
    from wichan.evaluation.fitted import released_prior
    from wichan.training.zoo import bussgang_estimator

    check_buildable("bussgang-vae", setting)
    found = released_prior(setting, "vae")
    assert found is not None
    prior, note = found
    return Built(bussgang_estimator(prior, setting.quantized), note=note)


def check_buildable(name: str, setting: Setting) -> None:
    """Raise where a named estimator lacks what it is made of, before the others have done their work.

    Raises:
        InvalidValueError: no weights for the settings, nothing quantised to learn from, a source without covariance.
    """
    from wichan.evaluation.fitted import released_prior

    recipe = setting.recipe.name
    if name == "bussgang-vae" and released_prior(setting, "vae") is None:
        raise InvalidValueError(
            f"estimator 'bussgang-vae' has no weights for recipe {recipe!r} with these settings; train some: "
            f"wichan train vae --stream {recipe} -o runs/vae (and the same --set), then --estimators bussgang-vae=runs/vae"
        )
    if name.endswith("-quantized") and setting.quantized.is_linear:
        raise InvalidValueError(f"estimator {name!r} learns from quantised pilots; with num_bits=inf there are none")
    if name in ("bussgang-genie", "cme-gibbs"):
        ConditionalCovariance(setting, name)


def build_given(name: str, setting: Setting) -> Built:
    """The estimator of a released prior, or of a prior file.

    Raises:
        InvalidValueError, StoreError: no such file, a network for other pilots, or a prior for other channels.
    """
    from wichan.evaluation.learned import trained
    from wichan.training.prior_files import prior_of
    from wichan.training.weights_reader import read_weights
    from wichan.training.zoo import bussgang_estimator, weights_path

    info, tensors = read_weights(weights_path(name))
    if info.obs is not None:
        raise InvalidValueError(
            f"estimator {name!r} is a network of kind {info.kind!r} for pilots on an OFDM grid; recipe "
            f"{setting.recipe.name!r} of kind 'quantized' needs a prior: gmm, mfa or vae"
        )
    try:
        est = bussgang_estimator(prior_of(info, tensors), setting.quantized)
    except WichanError as error:
        raise InvalidValueError(f"estimator {name!r} does not fit recipe {setting.recipe.name!r}: {error}") from None
    return Built(est, note=f"{info.kind} of {info.path}, {trained(info.training)}")


# -- References, which are told what no receiver knows. --


def build_bussgang_genie(setting: Setting) -> Built:
    """Bussgang LMMSE with the covariance of each channel's own conditions, which it is told; a reference, not a bound."""
    from wichan.estimators import BussgangGenie

    source = ConditionalCovariance(setting, "bussgang-genie")
    genie = ToldCovariance(BussgangGenie(setting.quantized), source)
    return Built(genie, told=source.told, note=f"covariance of each channel's own {', '.join(source.told)}")


def build_cme_gibbs(setting: Setting) -> Built:
    """Conditional mean given each channel's own covariance, which it is told, by Gibbs sampling; slow, for small arrays."""
    from wichan.estimators import CMEGibbs

    source = ConditionalCovariance(setting, "cme-gibbs")
    # 160 draws add less than 1 % to the error of a conditional mean; the default of 400 takes twice the time and more.
    chains = CMEGibbs(setting.quantized, num_samples=40, burn_in=10, seed=setting.seed)
    note = f"{chains.num_chains} chains of {chains.num_samples} draws for each channel's own {', '.join(source.told)}"
    return Built(ToldCovariance(chains, source), told=source.told, note=note)


class ConditionalCovariance:
    """Covariance of channels given their own conditions.

    Args:
        setting: the link.
        name: estimator that asks, for the error.

    Attributes:
        told: names of the conditions.

    Raises:
        InvalidValueError: the source has no closed form.
    """

    def __init__(self, setting: Setting, name: str) -> None:
        refusal = InvalidValueError(
            f"estimator {name!r} cannot be built for source {setting.recipe.source!r}: no closed-form covariance; "
            "leave it out (--reference none)"
        )
        if not all(setting.model(profile).has_closed_form for profile in setting.profile_weights):
            raise refusal
        self._setting = setting
        conditions = (*setting.link.source.draw_columns, *setting.draw_conditions({}))
        names = tuple(setting.arguments(dict.fromkeys(conditions, torch.zeros(1))))
        self.told: tuple[str, ...] = (*names, "profile") if "profile" in setting.laws else names

    def __call__(self, told: Mapping[str, Any], size: int) -> torch.Tensor:
        """Covariances, complex128 (n, N, N), of ``size`` channels with these conditions."""
        columns = {name: value.to("cpu", torch.float64) for name, value in told.items() if name != "profile"}
        names = list(told["profile"]) if "profile" in told else [""] * size
        found: torch.Tensor | None = None
        for profile in dict.fromkeys(names):
            index = torch.tensor([i for i, other in enumerate(names) if other == profile])
            part = self._of_profile(profile, {name: value[index] for name, value in columns.items()}, len(index))
            if found is None:
                found = part.new_zeros(size, *part.shape[1:])
            found[index] = part
        if found is None:
            raise InvalidValueError("there is no channel to tell the conditions of")
        return found

    def _of_profile(self, profile: str, columns: Mapping[str, torch.Tensor], size: int) -> torch.Tensor:
        setting = self._setting
        model = setting.model(profile)
        if hasattr(model, "conditional_covariance") and setting.grid.num_resource_elements == 1:
            power = setting.link.amplitude.get(profile, 1.0) ** 2
            matrix = model.conditional_covariance(**columns) * power
        else:
            try:
                matrix = setting.covariance(profile, columns).matrix()
            except NoClosedFormError as error:
                raise InvalidValueError(f"source {setting.recipe.source!r} cannot tell a covariance: {error}") from None
        return matrix.to(torch.complex128).expand(size, *matrix.shape[-2:])


class ToldCovariance(Estimator):
    """An estimator of ``(r, no, covariance=)`` that is told conditions instead of the covariance.

    Frames with equal conditions share the covariance that is computed for them, not the filter: ``no`` may differ.

    Args:
        estimator: takes ``covariance``, complex (n, N, N).
        source: conditions to covariances.
    """

    def __init__(self, estimator: Estimator, source: ConditionalCovariance) -> None:
        super().__init__()
        self.estimator, self.source = estimator, source

    def forward(self, y: torch.Tensor, no: Any, **conditions: Any) -> Estimate:
        """Estimate the channel of observations (n, M); ``conditions`` have a leading axis n."""
        covariance = self.source(conditions, y.shape[0]).to(y.device)
        result: Estimate = self.estimator(y, no, covariance=covariance)
        return result
