"""The published set-up: 32 antennas, one cluster, one pilot; numbers of an independent program for the same model."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch

from wichan.channels import SpatialGaussian
from wichan.estimators import BLS, BussgangGenie, BussgangGMM, BussgangLMMSE
from wichan.observations import QuantizedPilots
from wichan.priors import GMM

pytestmark = pytest.mark.slow

SIZE, SNR_DB = 32, (0, 10, 20)
#: MSE of an antenna at 0, 10 and 20 dB. Least squares is a closed form, published for one bit.
PUBLISHED = {
    1: {
        "bls": (2.142, 0.7279, 0.5865),
        "scov": (0.638, 0.413, 0.378),
        "gmm": (0.218, 0.183, 0.218),
        "genie": (0.161, 0.166, 0.192),
    },
    2: {"scov": (0.523, 0.195, 0.128), "gmm": (0.130, 0.0488, 0.0487), "genie": (0.101, 0.0453, 0.0452)},
    3: {"scov": (0.486, 0.123, 0.0470), "gmm": (0.111, 0.0230, 0.0133), "genie": (0.0872, 0.0211, 0.0126)},
    math.inf: {"scov": (0.468, 0.0894, 0.0099), "gmm": (0.103, 0.0141, 0.0019), "genie": (0.0812, 0.0128, 0.0017)},
}
#: Published tolerances are 3 % and, for the mixture, whose fit depends on its start, 6 %. To them comes what 4000 channels
#: instead of 10 000 scatter: about 1.5 % for the mixture and the genie; two digits are given at the end of the list.
ALLOWED = {"bls": 0.03, "scov": 0.03, "gmm": 0.075, "genie": 0.045}


class SetUp(NamedTuple):
    model: SpatialGaussian
    train: torch.Tensor
    test: Any
    prior: GMM


@pytest.fixture(scope="module")
def setup() -> SetUp:
    generator = torch.Generator().manual_seed(1)
    model = SpatialGaussian(SIZE)
    train, test = model.sample(15_000, generator=generator), model.sample(4000, generator=generator)
    return SetUp(model, train.h[..., 0], test, GMM(32, max_iter=40).fit(train.h[..., 0]))


@pytest.mark.parametrize("num_bits", list(PUBLISHED), ids=str)
def test_errors_are_the_published_ones(num_bits: float, setup: SetUp) -> None:
    obs = QuantizedPilots(torch.eye(SIZE, dtype=torch.complex128), num_bits)
    ests = {
        "bls": BLS(obs),
        "scov": BussgangLMMSE.from_samples(obs, setup.train),
        "gmm": BussgangGMM(setup.prior, obs),
        "genie": BussgangGenie(obs, setup.model),
    }
    h = setup.test.h[..., 0][:, None].expand(-1, len(SNR_DB), -1)
    no = (10 ** (-torch.tensor(SNR_DB, dtype=torch.float64) / 10)).expand(len(h), -1)
    r = obs.observe(h, no, generator=torch.Generator().manual_seed(2))
    errors = {}
    for name, est in ests.items():
        told = setup.test.columns if name == "genie" else {}
        errors[name] = (est(r, no, **told).h_hat - h).abs().square().mean((0, 2)).tolist()
        for found, want in zip(errors[name], PUBLISHED[num_bits].get(name, errors[name]), strict=True):
            assert found == pytest.approx(want, rel=ALLOWED[name] + 0.03 * (want < 0.003)), (name, num_bits)
    for worse, better in (("bls", "scov"), ("scov", "gmm"), ("gmm", "genie")):
        assert all(a > b for a, b in zip(errors[worse], errors[better], strict=True)), (worse, better)
