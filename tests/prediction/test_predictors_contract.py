"""Every registered predictor keeps the library's contract: one entry here for each."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from wichan.prediction import LEARNED_PREDICTORS, PREDICTORS, CalibratedPredictor, Hold, Prediction, Predictor
from wichan.random import complex_normal
from wichan.testing import check_predictor
from wichan.testing.predictors import PREDICTOR_CHECKS

ANTENNAS, BINS = 4, 24
RX = {"dadnet": 32}  # antennas of the network, where it is made for a number of them


def pairs(
    duplex: str = "tdd", count: int = 60, dtype: torch.dtype = torch.complex64
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Histories and futures to fit to: two paths that turn, and noise."""
    g = torch.Generator().manual_seed(11)
    gains = complex_normal((count, ANTENNAS, 1, 1, 1, 2), generator=g, dtype=torch.complex128)
    steps = torch.arange(20, dtype=torch.float64)[:, None, None]
    bins = torch.arange(BINS, dtype=torch.float64)[:, None] + (30 if duplex == "fdd" else 0) * (steps > 15)
    phase = 2 * math.pi * (torch.tensor([0.13, -0.31]) * steps - torch.tensor([0.01, 0.03]) * bins)
    h = (gains * torch.polar(torch.ones_like(phase), phase)).sum(-1)
    history = h[..., :16, :] + complex_normal((count, ANTENNAS, 1, 16, BINS), 1e-2, generator=g, dtype=torch.complex128)
    return [(history.to(dtype), h[..., 16:, :].to(dtype))]


#: Name in the registry -> the predictor, ready to use; beside ``duplex`` where a method does not know both.
ENTRIES: dict[str, Callable[[str], Predictor]] = {
    "ar": lambda _: PREDICTORS["ar"](order=3).fit(pairs()),
    "hold": lambda duplex: PREDICTORS["hold"](duplex=duplex),
    "pad": lambda _: PREDICTORS["pad"](),
    "wiener": lambda duplex: PREDICTORS["wiener"](ridge=1e-3, duplex=duplex).fit(pairs(duplex)),
}
ENTRIES |= {
    name: lambda duplex, name=name: LEARNED_PREDICTORS[name].preset("tiny", num_subcarriers=BINS, duplex=duplex)
    for name in LEARNED_PREDICTORS
}
ONLY_TDD = {"ar", "dadnet", "pad"}
ALL = [(name, duplex) for name in ENTRIES for duplex in ("tdd", "fdd") if duplex == "tdd" or name not in ONLY_TDD]


@pytest.mark.parametrize(("name", "duplex"), ALL)
def test_predictor_keeps_the_contract(name: str, duplex: str, generator: torch.Generator) -> None:
    predictor = ENTRIES[name](duplex)
    assert predictor.duplex == duplex
    report = check_predictor(predictor, generator=generator, num_rx_ant=RX.get(name, ANTENNAS), num_subcarriers=BINS)
    assert not report.skipped


@pytest.mark.parametrize("name", list(ENTRIES))
def test_predictor_keeps_the_contract_in_double_precision(name: str, generator: torch.Generator) -> None:
    predictor = ENTRIES[name]("tdd").double() if name in LEARNED_PREDICTORS else ENTRIES[name]("tdd")
    rx = RX.get(name, ANTENNAS)
    check_predictor(predictor, generator=generator, num_rx_ant=rx, num_subcarriers=BINS, dtype=torch.complex128)


@pytest.mark.parametrize("inner", ["hold", "rnn"])
def test_calibrated_predictor_keeps_the_contract(inner: str, generator: torch.Generator) -> None:
    predictor = CalibratedPredictor(ENTRIES[inner]("tdd")).fit(pairs(), steps=20)
    check_predictor(predictor, generator=generator, num_rx_ant=ANTENNAS, num_subcarriers=BINS)


def test_every_registered_predictor_has_an_entry() -> None:
    others = {"dad", "wiener-genie"}  # made for one recipe; their contracts are checked beside their own tests
    assert set(PREDICTORS) | set(LEARNED_PREDICTORS) == set(ENTRIES) | others


def test_the_published_z_score_is_not_equivariant_and_the_check_says_so(generator: torch.Generator) -> None:
    predictor = LEARNED_PREDICTORS["cnn"].preset("tiny", num_subcarriers=BINS, scale_input=False)
    sizes = {"num_rx_ant": ANTENNAS, "num_subcarriers": BINS}
    with pytest.raises(AssertionError, match="failed  scale: a history times 1e-06"):
        check_predictor(predictor, generator=generator, **sizes)
    report = check_predictor(predictor, generator=generator, skip={"scale": "as published"}, **sizes)
    assert report.skipped == {"scale": "as published"}


# -- The checks find what they are made for. --


class Spoilt(Hold):
    """Hold with one promise broken."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault, self.calls = fault, 0

    def forward(self, history, no=None, *, present=None):  # type: ignore[no-untyped-def]
        """See `Hold`."""
        self.calls += 1
        if self.fault == "checks nothing":
            h = history[..., -1:, :].expand(*history.shape[:-2], 4, -1)
            return Prediction(h, h.abs().square() + 1e-9)
        if self.fault == "writes" and history.is_complex():
            history.mul_(1 + 1e-3)
        if self.fault == "ignores no":
            no = None
        h, err_var = super().forward(history, no, present=present)
        if self.fault == "mixes the batch" and h.dim() == 5:
            h = h + 0.1 * h.mean(0)
        if self.fault == "negative":
            err_var = -err_var
        if self.fault == "another shape":
            h = h[..., :3, :]
        if self.fault == "forgets":
            h = h * (1 + 1e-3 * self.calls)
        if self.fault == "fixed error":
            err_var = torch.ones_like(err_var)
        if self.fault == "NaN":
            h = h * math.nan
        return Prediction(h, err_var)


FAULTS = {
    "checks nothing": "refuses_histories",
    "writes": "manners",
    "ignores no": "refuses_told",
    "mixes the batch": "batches",
    "negative": "output",
    "another shape": "output",
    "forgets": "deterministic",
    "fixed error": "scale",
    "NaN": "output",
}


@pytest.mark.parametrize(("fault", "check"), FAULTS.items())
def test_a_broken_promise_is_found(fault: str, check: str, generator: torch.Generator) -> None:
    with pytest.raises(AssertionError, match=f"failed  {check}: "):
        check_predictor(Spoilt(fault), generator=generator)


def test_arguments_of_the_checker_are_checked(generator: torch.Generator) -> None:
    with pytest.raises(InvalidTypeError, match="predictor must be a Predictor, got str"):
        check_predictor("hold", generator=generator)
    with pytest.raises(UnknownNameError, match="skip='scales' is unknown; did you mean 'scale'"):
        check_predictor(Hold(), generator=generator, skip={"scales": ""})
    with pytest.raises(InvalidValueError, match="dtype=torch.float32 must be"):
        check_predictor(Hold(), generator=generator, dtype=torch.float32)
    with pytest.raises(InvalidValueError, match="num_rx_ant=0 must be at least 1"):
        check_predictor(Hold(), generator=generator, num_rx_ant=0)


def test_the_predictor_is_put_back_into_training(generator: torch.Generator) -> None:
    predictor = Hold().train()
    assert len(check_predictor(predictor, generator=generator).passed) == len(PREDICTOR_CHECKS)
    assert predictor.training
