"""Number of components by held-out likelihood."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError
from wichan.priors import GMM, choose_num_components


def tones(count: int, kinds: int, generator: torch.Generator) -> torch.Tensor:
    """Channels of one direction each, out of ``kinds``, and noise 20 dB below."""
    label = torch.randint(kinds, (count, 1), generator=generator)
    steering = torch.exp(2j * torch.pi * label * torch.arange(8) / 8)
    gain = torch.randn(count, 1, generator=generator, dtype=torch.complex128)
    return steering * gain + 0.1 * torch.randn(count, 8, generator=generator, dtype=torch.complex128)


@pytest.mark.parametrize("structure", ["full", "circulant"])
def test_the_number_of_kinds_is_found(structure: str, generator: torch.Generator) -> None:
    h = tones(800, 4, generator)
    choice = choose_num_components(h, (1, 2, 3, 4, 16, 32), structure=structure, num_restarts=2)
    assert choice.num_components == 4
    assert choice.log_likelihoods[4] == max(choice.log_likelihoods.values())
    assert 1 in choice.log_likelihoods


def test_patience_ends_the_search(generator: torch.Generator) -> None:
    h = torch.randn(300, 4, generator=generator, dtype=torch.complex64)
    choice = choose_num_components(h, (1, 8, 16, 32, 64), patience=2)
    assert choice.num_components == 1
    assert list(choice.log_likelihoods) == [1, 8, 16]


def test_defaults_and_order(generator: torch.Generator) -> None:
    h = torch.randn(40, 2, generator=generator, dtype=torch.complex64)
    assert list(choose_num_components(h, patience=99, max_iter=2).log_likelihoods) == [1, 2, 4, 8]  # up to 32 / 4
    assert list(choose_num_components(h, (4, 1, 4), patience=99, max_iter=2).log_likelihoods) == [1, 4]
    one = choose_num_components(h, seed=1, max_iter=2)
    assert one == choose_num_components(h, seed=1, max_iter=2)
    assert one.log_likelihoods != choose_num_components(h, seed=2, max_iter=2).log_likelihoods


def test_auto(generator: torch.Generator) -> None:
    h = tones(800, 4, generator)
    prior = GMM("auto", "circulant", num_restarts=2).fit(h)
    assert prior.num_components == len(prior.weights) == 4
    stream = GMM("auto", "circulant", num_restarts=2).fit(lambda: h.split(300))
    assert stream.num_components == 4
    assert prior.config()["num_components"] == 4


def test_auto_with_one_channel() -> None:
    with pytest.warns(UserWarning, match="equal"):
        assert GMM("auto").fit(torch.ones(1, 3, dtype=torch.complex64)).num_components == 1


def test_a_prior_of_the_users_choice(generator: torch.Generator) -> None:
    made: list[int] = []

    def make(k: int) -> GMM:
        made.append(k)
        return GMM(k, "toeplitz", max_iter=3)

    choice = choose_num_components(tones(60, 2, generator), (1, 2), make=make)
    assert made == [1, 2]
    assert choice.num_components == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"candidates": ()}, InvalidValueError, r"candidates=\[\] must hold at least one number of components"),
        ({"candidates": (0,)}, InvalidValueError, "candidates=0 must be at least 1"),
        ({"candidates": (20,)}, InvalidValueError, "candidates=20 must be at most the 8 channels that are not held out"),
        ({"holdout": 0.0}, InvalidValueError, "holdout=0 must be greater than 0"),
        ({"holdout": 1.0}, InvalidValueError, "holdout=1 must be at most 0.9"),
        ({"patience": 0}, InvalidValueError, "patience=0 must be at least 1"),
        ({"h": torch.ones(1, 3, dtype=torch.complex64)}, InvalidValueError, "at least 2 channels are needed to hold one out"),
        ({"h": "h"}, InvalidTypeError, "h must be a torch.Tensor, got str"),
    ],
    ids=range(8),
)
def test_bad_searches(options: dict[str, Any], error: type[Exception], message: str) -> None:
    h = torch.randn(10, 3, generator=torch.Generator().manual_seed(0), dtype=torch.complex64)
    with pytest.raises(error, match=message):
        choose_num_components(**({"h": h} | options))
