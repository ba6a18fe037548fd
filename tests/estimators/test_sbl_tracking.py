"""Frame after frame: fewer iterations at the same error, and nothing is lost for good."""

from __future__ import annotations

import pytest
import torch

from wichan.channels import IRSCascade
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError
from wichan.estimators.kronecker_sbl import KroneckerSBL
from wichan.estimators.sbl_tracking import SBLTracker
from wichan.observations import IRSTraining

C = torch.complex128


def moving(obs: IRSTraining, links: int, frames: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Channels of two paths whose directions move by 0.003 a frame and whose gains change by a tenth."""

    def uniform() -> torch.Tensor:
        return torch.rand(links, 2, generator=generator, dtype=torch.float64) * 2 - 1

    def gaussian() -> torch.Tensor:
        return torch.randn(links, 2, generator=generator, dtype=C)

    places = {name: uniform() for name in ("bs", "ms", "irs")}
    ways = {name: 0.003 * uniform().sign() for name in places}
    gains, result = gaussian(), []
    for frame in range(frames):
        atoms = [obs.atoms(name, u + frame * ways[name])[1] for name, u in places.items()]
        result.append(torch.einsum("nbp,nmp,nkp,np->nbmk", *atoms, gains)[..., None])
        gains = 0.995 * gains + 0.0999 * gaussian()
    return result


def nmse(h_hat: torch.Tensor, h: torch.Tensor) -> float:
    return float(((h_hat - h).abs().square().flatten(1).sum(1) / h.abs().square().flatten(1).sum(1)).mean())


def test_slow_directions_take_fewer_iterations_at_equal_error(generator: torch.Generator) -> None:
    obs = IRSTraining(IRSCascade(4, 16, 8, 2), 4, 6)
    estimator = KroneckerSBL(obs.dictionary(10), "mm", tol=1e-2)
    tracker = SBLTracker(estimator)
    cold, warm = [], []
    for number, h in enumerate(moving(obs, 12, 6, generator)):
        no = float(obs.noiseless(h).abs().square().mean()) / 100
        y = obs.observe(h, no, generator=generator)
        for results, step in ((cold, estimator), (warm, tracker)):
            found = step(y, no)
            if number:
                results.append((float(found.num_iterations.double().mean()), nmse(found.h_hat, h)))
    (its_cold, error_cold), (its_warm, error_warm) = (torch.tensor(r).mean(0).tolist() for r in (cold, warm))
    assert its_warm < 0.75 * its_cold  # about half
    assert error_warm < 1.1 * error_cold  # both stop within 1 % of their variances: errors differ by a few per cent


def test_a_path_that_appears_is_found(generator: torch.Generator) -> None:
    obs = IRSTraining(IRSCascade(4, 16, 8, 1), 4, 6)
    estimator = KroneckerSBL(obs.dictionary(10), "mm")
    d = estimator.dictionary
    x = torch.zeros(2, *d.num_atoms, dtype=C)
    x[:, 1, 2, 3] = 1.0
    tracker = SBLTracker(estimator)
    assert tracker.gammas is None
    tracker(d.measure(x), 1e-4)
    assert float(tracker.gammas[0][0, 6]) < 1e-3 * float(tracker.gammas[0][0].max())
    x[:, 6, 7, 8] = 1.0
    found = tracker(d.measure(x), 1e-4)
    # What a cold start reaches is noise of 1e-4 an entry; a path that stayed off would leave half of the energy.
    assert nmse(found.h_hat, d.channel(x)) < 1e-2


def test_silence_and_reset(generator: torch.Generator) -> None:
    obs = IRSTraining(IRSCascade(4, 16, 8, 1), 4, 6)
    tracker = SBLTracker(KroneckerSBL(obs.dictionary(10), "mm", max_iter=20))
    y = torch.randn(3, obs.num_measurements, generator=generator, dtype=C)
    tracker(y, 0.1)
    before = tracker.gammas
    quiet = y.clone()
    quiet[1] = 0
    found = tracker(quiet, 0.1)
    assert float(found.h_hat[1].abs().max()) == 0
    assert all(torch.equal(new[1], old[1]) for new, old in zip(tracker.gammas, before, strict=True))
    assert not torch.equal(tracker.gammas[0][0], before[0][0])
    tracker(torch.zeros_like(y), 0.1)
    assert tracker.gammas is not None
    with pytest.raises(ShapeError, match="call reset"):
        tracker(y[:2], 0.1)
    tracker.reset()
    fresh, again = tracker(y[:2], 0.1), tracker.estimator(y[:2], 0.1)
    assert torch.equal(fresh.h_hat, again.h_hat)


def test_bad_input_is_refused_in_one_line() -> None:
    dictionary = [torch.eye(3, dtype=torch.float64)]
    with pytest.raises(InvalidTypeError, match="estimator must be a KroneckerSBL"):
        SBLTracker(object())
    estimator = KroneckerSBL(dictionary, "am")
    for floor in (0.0, 1.5, 1e-2):
        with pytest.raises(InvalidValueError, match="floor"):
            SBLTracker(estimator, floor=floor)
