"""LMMSEBank: exact for one condition, equal to dense matrices for several, calibrated and optimal where the bank is right."""

from __future__ import annotations

import math

import pytest
import torch

from wichan.channels import TDL, ChannelModel
from wichan.channels.covariance import ChannelCovariance
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError
from wichan.estimators import LMMSE, LMMSEBank
from wichan.estimators.mixture import SeparableMixture
from wichan.estimators.mixture_joint import JointMixture
from wichan.grid import OFDMGrid
from wichan.observations import OFDMPilots
from wichan.random import complex_normal
from wichan.testing import CALIBRATION_TOLERANCE, calibration_by_decile, check_estimator

GRID = OFDMGrid(num_ofdm_symbols=7, num_subcarriers=24, subcarrier_spacing=30e3)
OBS = OFDMPilots(GRID, symbols=(1, 3, 5), subcarrier_step=3)
TWO_TX = OFDMPilots(GRID, symbols=(1, 5), subcarrier_step=2, num_tx_ant=2)
PLACES = (5 * torch.arange(7)[:, None] + torch.arange(24)) % 7 == 0
SCATTERED = OFDMPilots.from_pattern(GRID, PLACES.to(torch.complex64))
RX2 = torch.tensor([[1, 0.7], [0.7, 1]], dtype=torch.complex128)
SPREADS, DOPPLERS = (30e-9, 100e-9, 400e-9), (0.0, 600.0, 2000.0)
NO = 0.03

#: name -> pilots, model, kernel
CASES: dict[str, tuple[OFDMPilots, ChannelModel, type]] = {
    "separable": (OBS, TDL("A", delay_spread=1e-7, max_doppler=1.0), SeparableMixture),
    "antennas alike": (OBS, TDL("B", delay_spread=1e-7, max_doppler=1.0, num_rx_ant=3), SeparableMixture),
    "correlated antennas": (OBS, TDL("B", delay_spread=1e-7, num_rx_ant=2, rx_correlation=RX2), JointMixture),
    "line of sight": (OBS, TDL("D", delay_spread=1e-7, max_doppler=1.0), JointMixture),
    "transmit antennas": (TWO_TX, TDL("A", delay_spread=1e-7, num_tx_ant=2, num_rx_ant=2), JointMixture),
    "scattered pilots": (SCATTERED, TDL("C", delay_spread=1e-7, max_doppler=1.0), JointMixture),
}


def bank_of(obs: OFDMPilots, model: ChannelModel, **options: object) -> LMMSEBank:
    return LMMSEBank.from_model(obs, model, delay_spreads=SPREADS, max_dopplers=DOPPLERS, **options)


def conditions(model: ChannelModel) -> ChannelCovariance:
    spreads, dopplers = (torch.tensor(values, dtype=torch.float64) for values in (SPREADS, DOPPLERS))
    return model.covariance(GRID, delay_spread=spreads.repeat_interleave(3), max_doppler=dopplers.repeat(3))


def gaussian(covariance: ChannelCovariance, owner: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One Gaussian channel for each entry of ``owner``, the index of its condition."""
    return from_factor(covariance.factor(1e-12), covariance.shape, owner, generator)


def from_factor(factor: torch.Tensor, shape: tuple[int, ...], owner: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    white = complex_normal((len(owner), factor.shape[-1]), generator=generator, dtype=torch.complex128)
    h = torch.empty(len(owner), factor.shape[1], dtype=torch.complex128)
    for c in range(len(factor)):
        h[owner == c] = white[owner == c] @ factor[c].mT
    return h.reshape(-1, *shape)


@pytest.mark.parametrize("name", CASES)
def test_one_condition_is_lmmse(name: str, generator: torch.Generator) -> None:
    obs, model, kernel = CASES[name]
    covariance = model.covariance(GRID, delay_spread=100e-9, max_doppler=600.0)
    white = complex_normal((5, covariance.factor().shape[1]), generator=generator, dtype=torch.complex128)
    h = (white @ covariance.factor().mT).reshape(5, *covariance.shape)
    y = obs.observe(h, NO, generator=generator)
    bank, lmmse = LMMSEBank(obs, covariance), LMMSE(obs, covariance)
    assert isinstance(bank.mixture, kernel)
    for no in (NO, torch.logspace(-3, 0, 5, dtype=torch.float64)):
        got, want = bank(y, no), lmmse(y, no)
        torch.testing.assert_close(got.h_hat, want.h_hat, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(got.err_var, want.err_var.contiguous(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_equals_dense_matrices(name: str, generator: torch.Generator) -> None:
    """P R P^H + no I, slogdet and solve for each condition and frame, in one loop without any structure."""
    obs, model, kernel = CASES[name]
    covariance, count = conditions(model), 6
    weights = torch.rand(3, 3, generator=generator, dtype=torch.float64)
    bank = bank_of(obs, model, weights=weights)
    assert isinstance(bank.mixture, kernel)
    y = obs.observe(gaussian(covariance, torch.arange(count), generator), NO, generator=generator)
    p = obs.matrix(model.num_rx_ant).to(torch.complex128)
    seen = obs.extract(y).flatten(1)
    means, errors, joint = [], [], []
    for c, weight in enumerate((weights / weights.sum()).flatten()):
        r = covariance[c].matrix()
        k = p @ r @ p.mH + NO * torch.eye(len(p), dtype=torch.complex128)
        w = torch.linalg.solve(k, p @ r).mH
        means.append(seen @ w.mT)
        errors.append((r.diagonal() - (w * (r @ p.mH).conj()).sum(1)).real.expand(count, -1))
        fit = (seen.conj() * torch.linalg.solve(k, seen.mT).mT).sum(1).real
        joint.append(weight.log() - fit - torch.linalg.slogdet(k)[1] - len(p) * math.log(math.pi))
    mean, error, log_joint = torch.stack(means), torch.stack(errors), torch.stack(joint)
    posterior = log_joint.softmax(0)
    h_hat = (posterior[..., None] * mean).sum(0)
    err_var = (posterior[..., None] * (error + (mean - h_hat).abs().square())).sum(0)
    got = bank(y, NO)
    # Both decompose R with eigenvalues down to 1e-12 of its largest.
    torch.testing.assert_close(got.h_hat.flatten(1), h_hat, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(got.err_var.flatten(1), err_var, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(bank.posterior(y, NO).flatten(1), posterior.T, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(bank.log_evidence(y, NO), log_joint.logsumexp(0), rtol=1e-9, atol=1e-8)


def test_both_kernels_agree(generator: torch.Generator) -> None:
    model = CASES["antennas alike"][1]
    covariance = conditions(model)
    bank = bank_of(OBS, model)
    prior = torch.full((9,), 1 / 9, dtype=torch.float64).log()
    joint = JointMixture(OBS, [covariance[c] for c in range(9)], prior, rtol=1e-14, no_floor=1e-12)
    y = OBS.observe(gaussian(covariance, torch.arange(9), generator), NO, generator=generator)
    no = torch.logspace(-4, 0, 9, dtype=torch.float64)
    h_hat, err_var, log_posterior = joint(OBS.extract(y), no)
    torch.testing.assert_close(bank(y, no).h_hat, h_hat, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(bank(y, no).err_var, err_var, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(bank.posterior(y, no).flatten(1), log_posterior.exp(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["separable", "line of sight"])
def test_calibrated_and_not_beaten_where_the_bank_is_right(name: str, generator: torch.Generator) -> None:
    """Channels drawn from the mixture itself, noise from 5 to 30 dB: nobody who is not told the condition does better."""
    obs, model, _ = CASES[name]
    count, covariance = 4000, conditions(model)
    owner = torch.randint(9, (count,), generator=generator)
    h = gaussian(covariance, owner, generator).to(torch.complex64)
    no = 10 ** (-(5 + 25 * torch.rand(count, generator=generator)) / 10)
    y = obs.observe(h, no, generator=generator)
    h_hat, err_var = bank_of(obs, model)(y, no)
    assert float((calibration_by_decile(h_hat, err_var, h) - 1).abs().max()) < CALIBRATION_TOLERANCE

    def errors(estimate: torch.Tensor) -> torch.Tensor:
        return (estimate - h).abs().square().double().mean(dim=(1, 2, 3, 4))

    pooled = LMMSE(obs, ChannelCovariance.from_matrix(covariance.matrix().mean(0), covariance.shape))(y, no).h_hat
    genie = torch.empty_like(h)
    for c in range(9):
        genie[owner == c] = LMMSE(obs, covariance[c])(y[owner == c], no[owner == c]).h_hat
    bank = errors(h_hat)
    # Five standard errors of the paired difference.
    for other, sign in ((pooled, 1), (genie, -1)):
        gap = sign * (errors(other) - bank)
        assert float(gap.mean()) > -5 * float(gap.std()) / math.sqrt(count)
    assert float(errors(pooled).mean()) > 1.3 * float(bank.mean())


def test_the_posterior_is_that_of_the_draws(generator: torch.Generator) -> None:
    """Bayes: over draws from the prior the mean posterior is the prior, and a stated probability is a frequency."""
    model, count = CASES["separable"][1], 3000
    weights = torch.tensor([[1.0, 2, 1], [4, 0, 1], [1, 1, 2]]) / 13
    owner = torch.multinomial(weights.flatten(), count, replacement=True, generator=generator)
    y = OBS.observe(gaussian(conditions(model), owner, generator), NO, generator=generator)
    posterior = bank_of(OBS, model, weights=weights).posterior(y, NO)
    assert posterior.shape == (count, 3, 3)
    torch.testing.assert_close(posterior.sum((1, 2)), torch.ones(count, dtype=torch.float64))
    assert float(posterior[:, 1, 1].abs().max()) == 0
    flat = posterior.flatten(1)
    hit = torch.nn.functional.one_hot(owner, 9).double()
    # Five standard errors of a mean of differences between a 0/1 event and its probability.
    gap = (hit - flat).mean(0).abs()
    assert bool((gap <= 5 * (flat * (1 - flat)).mean(0).div(count).sqrt()).all())
    confident = flat.amax(1) > 0.9
    assert int(confident.sum()) > 100
    right = hit.gather(1, flat.argmax(1, keepdim=True))[:, 0][confident].mean()
    stated = flat.amax(1)[confident].mean()
    assert abs(float(right - stated)) < 5 * math.sqrt(0.1 / int(confident.sum()))


@pytest.mark.parametrize("name", ["separable", "line of sight"])
def test_invariant_to_a_common_phase(name: str, generator: torch.Generator) -> None:
    obs, model, _ = CASES[name]
    y = obs.observe(gaussian(conditions(model), torch.arange(9), generator), NO, generator=generator)
    turn, bank = complex(math.cos(1.3), math.sin(1.3)), bank_of(obs, model)
    want, got = bank(y, NO), bank(y * turn, NO)
    torch.testing.assert_close(got.h_hat, want.h_hat * turn, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got.err_var, want.err_var, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(bank.posterior(y * turn, NO), bank.posterior(y, NO), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["separable", "line of sight"])
def test_limits_of_noise(name: str, generator: torch.Generator) -> None:
    obs, model, _ = CASES[name]
    covariance, bank = conditions(model), bank_of(obs, model)
    h = gaussian(covariance, torch.arange(9), generator)
    y = obs.observe(h, 0.0, generator=generator)
    exact = bank(y, 0.0)
    assert float((exact.h_hat - h)[..., obs.mask].abs().square().mean()) < 1e-8
    assert float(exact.err_var.min()) > 0
    nothing = bank(y, 1e15)
    assert float(nothing.h_hat.abs().max()) < 1e-12
    torch.testing.assert_close(nothing.err_var[0], covariance.diagonal().mean(0), rtol=1e-6, atol=0)


def test_antennas_share_the_condition(generator: torch.Generator) -> None:
    """Four antennas tell the condition better than one: the posterior of the true one grows."""
    one, four = (TDL("A", delay_spread=1e-7, max_doppler=1.0, num_rx_ant=n) for n in (1, 4))
    h = gaussian(conditions(four), torch.arange(9).repeat(50), generator)
    y = OBS.observe(h, 0.1, generator=generator)
    sharp = bank_of(OBS, four).posterior(y, 0.1).flatten(1)
    blunt = bank_of(OBS, one).posterior(y[:, :1], 0.1).flatten(1)
    index = torch.arange(9).repeat(50)[:, None]
    assert float(sharp.gather(1, index).mean()) > 1.3 * float(blunt.gather(1, index).mean())


def test_conditions_in_any_order_and_twice(generator: torch.Generator) -> None:
    """A list of conditions is brought to the grid of its factors; equal ones share the posterior by their weights."""
    model = CASES["separable"][1]
    order = torch.tensor([4, 0, 8, 4, 2])
    covariance = conditions(model)
    bank = LMMSEBank(OBS, [covariance[order[:3]], covariance[4], covariance[2]], [0.1, 0.2, 0.3, 0.3, 0.1])
    assert isinstance(bank.mixture, SeparableMixture)
    weights = torch.zeros(9).index_add(0, order, torch.tensor([0.1, 0.2, 0.3, 0.3, 0.1]))
    want = bank_of(OBS, model, weights=weights.reshape(3, 3))
    y = OBS.observe(gaussian(covariance, torch.arange(9), generator), NO, generator=generator)
    torch.testing.assert_close(bank(y, NO).h_hat, want(y, NO).h_hat, rtol=1e-7, atol=1e-7)
    posterior, reference = bank.posterior(y, NO), want.posterior(y, NO).flatten(1)
    torch.testing.assert_close(posterior[:, [1, 2, 4]], reference[:, [0, 8, 2]], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(posterior[:, 0] * 3, posterior[:, 3])
    torch.testing.assert_close(posterior[:, 0] + posterior[:, 3], reference[:, 4], rtol=1e-6, atol=1e-7)


def test_profiles_mix_too(generator: torch.Generator) -> None:
    models = [TDL(profile, delay_spread=1e-7, max_doppler=1.0) for profile in "AC"]
    weights = torch.rand(2, 3, 3, generator=generator)
    bank = bank_of(OBS, models, weights=weights)
    assert isinstance(bank.mixture, SeparableMixture) and bank.num_conditions == 18
    y = OBS.observe(gaussian(conditions(models[0]), torch.arange(9), generator), NO, generator=generator)
    parts = [bank_of(OBS, model, weights=w) for model, w in zip(models, weights, strict=True)]
    joint = torch.stack([part.log_evidence(y, NO) for part in parts]) + weights.double().sum((1, 2)).log()[:, None]
    p = joint.softmax(0)
    h_hat = sum(p[i][:, None, None, None, None] * part(y, NO).h_hat for i, part in enumerate(parts))
    torch.testing.assert_close(bank(y, NO).h_hat, h_hat, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(bank.posterior(y, NO).sum((2, 3)), p.T, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["separable", "line of sight"])
def test_contract(name: str, generator: torch.Generator) -> None:
    obs, model, _ = CASES[name]
    covariance = conditions(model)
    factor = covariance.factor(1e-12)

    def draw(count: int, generator: torch.Generator) -> torch.Tensor:
        owner = torch.randint(9, (count,), generator=generator)
        return from_factor(factor, covariance.shape, owner, generator).to(torch.complex64)

    report = check_estimator(bank_of(obs, model), obs, generator=generator, channel=draw)
    assert {"calibration", "gradient", "state_dict"} <= set(report.passed)


@pytest.mark.parametrize("name", ["separable", "line of sight"])
def test_nothing_is_lost_by_leaving_out_the_improbable(
    name: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code that is being compiled cannot choose by value and goes through every component of every frame."""
    obs, model, _ = CASES[name]
    bank = bank_of(obs, model)
    y = obs.observe(gaussian(conditions(model), torch.arange(9), generator), NO, generator=generator)
    for dtype, tolerance in ((torch.complex128, 1e-10), (torch.complex64, 1e-4)):
        few = bank(y.to(dtype), NO)
        with monkeypatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            every = bank(y.to(dtype), NO)
        torch.testing.assert_close(every.h_hat, few.h_hat, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(every.err_var, few.err_var, rtol=10 * tolerance, atol=0)


def test_bad_input(generator: torch.Generator) -> None:
    model = CASES["separable"][1]
    covariance = conditions(model)
    sample = model.covariance(GRID, normalize="sample")
    elsewhere = model.covariance(OFDMGrid(7, 30, 30e3))
    many = TDL("D", delay_spread=1e-7).covariance(GRID, delay_spread=torch.linspace(1e-8, 1e-7, 200), max_doppler=10.0)
    for make, kind, words in (
        (lambda: LMMSEBank(GRID, covariance), InvalidTypeError, "obs"),
        (lambda: LMMSEBank(OBS, [covariance, None]), InvalidTypeError, "covariances"),
        (lambda: LMMSEBank(OBS, []), InvalidValueError, "at least one"),
        (lambda: LMMSEBank(OBS, elsewhere), ShapeError, "covariances"),
        (lambda: LMMSEBank(OBS, sample), InvalidValueError, "normalization"),
        (lambda: LMMSEBank(OBS, many), InvalidValueError, "200 conditions"),
        (lambda: LMMSEBank(OBS, covariance, torch.ones(8)), ShapeError, "9 entries"),
        (lambda: LMMSEBank(OBS, covariance, -torch.ones(9)), InvalidValueError, "weights"),
        (lambda: LMMSEBank(OBS, covariance, torch.zeros(9)), InvalidValueError, "weights"),
        (lambda: bank_of(OBS, model, weights=torch.ones(9)), ShapeError, "(3, 3)"),
        (lambda: LMMSEBank.from_model(OBS, "A"), InvalidTypeError, "model"),
        (lambda: LMMSEBank.from_model(OBS, model, delay_spreads=1e-7), ShapeError, "delay_spreads"),
    ):
        with pytest.raises(kind) as caught:
            make()
        assert "\n" not in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize("name", ["antennas alike", "line of sight"])
def test_an_empty_batch_and_an_absurd_one(name: str) -> None:
    obs, model, _ = CASES[name]
    bank = bank_of(obs, model)
    y = torch.ones(2, 3, model.num_rx_ant, *GRID.shape, dtype=torch.complex64)
    for no in (NO, torch.full((2, 0), NO)):
        result = bank(y[:, :0], no)
        assert result.h_hat.shape == (2, 0, *bank.shape) and result.err_var.shape == (2, 0, *bank.shape)
    assert bank.posterior(y[:, :0], NO).shape == (2, 0, 3, 3)
    assert bank.log_evidence(y[:, :0], NO).shape == (2, 0)
    # Squares of these overflow single precision in the likelihood of every condition.
    loud = bank(y * 1e17, 1e-3)
    assert bool(torch.isfinite(torch.view_as_real(loud.h_hat)).all() and torch.isfinite(loud.err_var).all())


def test_changed_pilots_are_refused(generator: torch.Generator) -> None:
    model = CASES["separable"][1]
    obs = OFDMPilots(GRID, symbols=(1, 3, 5), subcarrier_step=3)
    bank = bank_of(obs, model)
    y = torch.zeros(1, 1, *GRID.shape, dtype=torch.complex64)
    bank(y, NO)
    obs.pilots_ri.mul_(2.0)
    with pytest.raises(InvalidValueError, match="have changed"):
        bank(y, NO)
