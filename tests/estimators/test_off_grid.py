"""Paths between the points of the grid: recovered, no better than the bound allows, and never worse than the start."""

from __future__ import annotations

import pytest
import torch

from wichan.channels import IRSCascade
from wichan.errors import InvalidTypeError, InvalidValueError, WichanError
from wichan.estimators.off_grid import OffGridKroneckerSBL
from wichan.estimators.off_grid_axes import PathAxis, PathSearch
from wichan.estimators.off_grid_newton import PathModel, Paths
from wichan.observations import IRSTraining

C = torch.complex128
ORDER = {"bs": 0, "ms": 1, "irs": 2, "delay": 3}


def training(num_paths: int = 1, *, irs: object = 16, pilots: int = 4, patterns: int = 6, **options: object) -> IRSTraining:
    frequencies = options.pop("frequencies", None)
    link = IRSCascade(4, irs, 8, num_paths, **options)
    return IRSTraining(link, pilots, patterns, frequencies=frequencies)


def uniform(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1


def gaussian(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=C)


def channel(obs: IRSTraining, directions: dict[str, torch.Tensor], gains: torch.Tensor) -> torch.Tensor:
    """Sum of paths (B, P), from the training's own atoms: (B, Nbs, Nms, K, F)."""
    atoms = {name: obs.atoms(name, u)[1] for name, u in directions.items()}
    if "delay" not in atoms:
        atoms["delay"] = torch.ones(len(gains), 1, gains.shape[1], dtype=C)
    return torch.einsum("brp,bmp,bkp,bfp,bp->brmkf", *(atoms[name] for name in ORDER), gains)


def one_path(obs: IRSTraining, count: int, generator: torch.Generator) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    directions = {name: uniform(count, 1, generator=generator) for name in ("irs", "ms", "bs")}
    return directions, gaussian(count, 1, generator=generator)


def nmse(h_hat: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    return (h_hat - h).abs().square().flatten(1).sum(1) / h.abs().square().flatten(1).sum(1)


def test_one_noiseless_path_between_grid_points_is_found_exactly(generator: torch.Generator) -> None:
    obs = training()
    directions, gains = one_path(obs, 8, generator)
    h = channel(obs, directions, gains)
    found = OffGridKroneckerSBL(obs, grid=8)(obs.noiseless(h), 0.0)
    assert bool(found.refined.all())
    # The noise floor of 1e-10 of |y|^2 shrinks the gain by about 1e-10 / measurements; directions converge quadratically.
    assert float(nmse(found.h_hat, h).max()) < 1e-12
    for name, u in directions.items():
        off = torch.remainder(found.directions[name][:, 0] - u[:, 0] + 1, 2) - 1
        assert float(off.abs().max()) < 1e-6


def bound(obs: IRSTraining, directions: dict[str, torch.Tensor], gains: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
    """Cramer-Rao bound of the channel's total squared error, (B,), by central differences of channel and measurement."""
    step, slopes = 1e-5, []
    for name in (*directions, 1, 1j):
        ends = []
        for sign in (1, -1):
            u = {k: v + (sign * step if k == name else 0) for k, v in directions.items()}
            ends.append(channel(obs, u, gains if isinstance(name, str) else gains + sign * step * name))
        h = (ends[0] - ends[1]) / (2 * step)
        slopes.append((h.flatten(1), obs.noiseless(h)))
    of_h, of_y = (torch.stack(part, dim=-1) for part in zip(*slopes, strict=True))
    information = 2 / no[:, None, None] * (of_y.mH @ of_y).real
    covariance = torch.linalg.inv(information)
    return ((of_h.mH @ of_h).real * covariance).sum((1, 2))


def test_one_path_at_high_snr_reaches_the_cramer_rao_bound(generator: torch.Generator) -> None:
    obs = training()
    directions, gains = one_path(obs, 48, generator)
    gains = gains / gains.abs()
    h = channel(obs, directions, gains)
    no = obs.noiseless(h).abs().square().mean(-1) / 1e3
    found = OffGridKroneckerSBL(obs, grid=8)(obs.observe(h, no, generator=generator), no)
    error = (found.h_hat - h).abs().square().flatten(1).sum(1)
    ratio = float((error / bound(obs, directions, gains, no)).mean())
    # Each error over its bound averages five squared Gaussians: deviation sqrt(2 / 5) or more an instance, 0.1 for 48 of
    # them, three of which.
    assert 0.7 < ratio < 1.3
    assert 0.7 < float((error / found.err_var.flatten(1).sum(1)).mean()) < 1.3


def test_blocks_of_the_gram_matrix_are_those_of_explicit_atoms_and_finite_differences(generator: torch.Generator) -> None:
    frequencies = torch.arange(3, dtype=torch.float64) * 15e3
    obs = training(irs=(3, 4), frequencies=frequencies)
    axes = [PathAxis(obs, name, 2) for name in obs.axes]
    y = gaussian(2, *obs.measurement_shape, generator=generator)
    model = PathModel(axes, y, torch.ones(2, dtype=torch.float64))
    paths = Paths.nothing(axes, 2, 3, y.device)
    paths.directions = [uniform(2, 3, axis.dims, generator=generator) for axis in axes]
    paths.direct[:, 1] = True
    paths.power[:] = 1.0

    def explicit(directions: list[torch.Tensor]) -> torch.Tensor:
        tables = [axis.table(u, paths.direct).measured[:, 0] for axis, u in zip(axes, directions, strict=True)]
        return torch.einsum("bkp,bmp,brp,bfp->bkmrfp", *tables).flatten(1, 4)

    columns, step = [explicit(paths.directions)], 1e-6
    for k, d in model.blocks[1:]:
        ends = []
        for sign in (1, -1):
            moved = [u.clone() for u in paths.directions]
            moved[k][..., d - 1] += sign * step
            ends.append(explicit(moved))
        columns.append((ends[0] - ends[1]) / (2 * step))
    state = model.evaluate(paths)
    a = torch.stack(columns, dim=1)  # (B, G, M, P)
    gram = torch.einsum("bgmp,bhmq->bghpq", a.conj(), a)
    seen = torch.einsum("bgmp,bm->bgp", a.conj(), y.flatten(1))
    # Central differences with step 1e-6 are good to about 1e-9 of the third derivative, here up to (4 pi)^3.
    assert torch.allclose(state.gram, gram, atol=1e-6 * float(gram.abs().max()))
    assert torch.allclose(state.seen, seen, atol=1e-6 * float(seen.abs().max()))
    dense = torch.eye(a.shape[2], dtype=C) + a[:, 0] @ a[:, 0].mH
    cost = (
        torch.linalg.slogdet(dense)[1]
        + torch.einsum("bm,bmn,bn->b", y.flatten(1).conj(), torch.linalg.inv(dense), y.flatten(1)).real
    )
    assert torch.allclose(state.cost, cost, rtol=1e-10)
    assert torch.allclose(
        model.residual(state).flatten(1), y.flatten(1) - (a[:, 0] @ state.gains[..., None])[..., 0], atol=1e-10
    )


def test_no_step_raises_the_cost(generator: torch.Generator) -> None:
    obs = training(3)
    axes = [PathAxis(obs, name, 2) for name in obs.axes]
    y = gaussian(6, *obs.measurement_shape[:3], generator=generator)
    model = PathModel(axes, y, torch.full((6,), 0.1, dtype=torch.float64))
    paths = Paths.nothing(axes, 6, 4, y.device)
    paths.directions = [uniform(6, 4, 1, generator=generator) for _ in axes]
    paths.power[:] = 0.2
    costs = [model.evaluate(paths).cost]
    for _ in range(6):
        paths, state = model.newton(paths, 1)
        costs.append(state.cost)
        assert torch.allclose(model.evaluate(paths).cost, state.cost, rtol=1e-12)
    falls = -torch.stack(costs).diff(dim=0)
    assert float(falls.min()) >= 0
    assert bool((falls.sum(0) > 1).all())  # it does move: pure noise, but far from a minimum


def test_powers_maximise_the_evidence(generator: torch.Generator) -> None:
    obs = training(2)
    axes = [PathAxis(obs, name, 2) for name in obs.axes]
    y = gaussian(4, *obs.measurement_shape[:3], generator=generator)
    model = PathModel(axes, y, torch.full((4,), 0.5, dtype=torch.float64))
    paths = Paths.nothing(axes, 4, 1, y.device)
    paths.directions = [uniform(4, 1, 1, generator=generator) for _ in axes]
    paths.power[:] = 1.0
    paths.power = model.update_powers(model.evaluate(paths), paths.power, 1.0)
    inside = paths.power[:, 0] > 0
    at = model.evaluate(paths).cost
    for factor in (0.97, 1.03):
        other = Paths(paths.directions, paths.direct, paths.power * factor)
        assert bool((model.evaluate(other).cost >= at)[inside].all())


def test_the_search_finds_the_cell_with_the_highest_score(generator: torch.Generator) -> None:
    obs = training(irs=(2, 4), patterns=8, direct=True)
    axes = [PathAxis(obs, name, 2) for name in obs.axes]
    search = PathSearch(axes, direct=True)
    y = gaussian(5, *obs.measurement_shape[:3], generator=generator)
    directions, direct, score, norm = search(y)
    everything = torch.einsum("bkmr,kx,my,rz->bxyz", y, *(a.conj() for a in search.atoms)).abs().square().flatten(1)
    # 48 of the 256 combinations are searched: pure noise is the hardest case for the screening, so a tenth may be lost.
    assert bool((score <= everything.amax(1) * (1 + 1e-12)).all())
    assert bool((score >= 0.9 * everything.amax(1)).all())
    atoms = [axis.table(u[:, None], direct[:, None]).measured[:, 0, :, 0] for axis, u in zip(axes, directions, strict=True)]
    seen = torch.einsum("bkmr,bk,bm,br->b", y, *(a.conj() for a in atoms)).abs().square()
    assert torch.allclose(seen / norm, score)


@pytest.mark.slow
def test_uniform_angles_gain_and_angles_in_blocks_on_the_grid_are_left_alone() -> None:
    g = torch.Generator().manual_seed(1)
    obs = IRSTraining(IRSCascade(4, 16, 8, 2, angles="uniform"), 4, 6)
    h = obs.channel(obs.irs.sample(16, generator=g)).to(C)
    no = obs.noiseless(h).abs().square().mean(-1) / 100
    estimator = OffGridKroneckerSBL(obs, grid=10, max_paths=8)
    y = obs.observe(h, no, generator=g)
    found, start = estimator(y, no), estimator.start(y, no)
    assert float(nmse(found.h_hat, h).median()) < 0.5 * float(nmse(start.h_hat, h).median())
    assert bool((found.cost <= start.cost).all())
    obs = IRSTraining(IRSCascade(4, 16, 8, 2, angles="block", grid_size=10), 4, 6)
    h = obs.channel(obs.irs.sample(16, generator=g)).to(C)
    no = obs.noiseless(h).abs().square().mean(-1) / 100
    estimator = OffGridKroneckerSBL(obs, grid=10, max_paths=8)
    y = obs.observe(h, no, generator=g)
    found, start = estimator(y, no), estimator.start(y, no)
    assert float(nmse(found.h_hat, h).mean()) <= 1.1 * float(nmse(start.h_hat, h).mean())


def test_planar_surface_wide_band_and_direct_link_are_one_path_each(generator: torch.Generator) -> None:
    frequencies = torch.arange(4, dtype=torch.float64) * 30e3
    obs = training(irs=(3, 4), patterns=10, frequencies=frequencies, direct=True)
    count = 3
    directions = {"irs": uniform(count, 1, 2, generator=generator)}
    directions |= {name: uniform(count, 1, generator=generator) for name in ("ms", "bs")}
    directions["delay"] = (uniform(count, 1, generator=generator) + 1) * 5e-6
    gains = gaussian(count, 1, generator=generator)
    h = channel(obs, directions, gains)
    atoms = {name: obs.atoms(name, -u if name in ("ms", "bs") else u)[1] for name, u in directions.items() if name != "irs"}
    h = h + 0.7 * torch.einsum("brp,bmp,bfp,k->brmkf", atoms["bs"], atoms["ms"], atoms["delay"], torch.ones(10, dtype=C))
    found = OffGridKroneckerSBL(obs, grid=8, max_paths=4, max_iter=20)(obs.noiseless(h), 0.0)
    assert float(nmse(found.h_hat, h).max()) < 1e-10  # the floor of no is 1e-10 of |y|^2
    assert found.active.sum(-1).tolist() == [2] * count
    assert (found.direct & found.active).sum(-1).tolist() == [1] * count
    assert found.directions["irs"].shape == (count, 4, 2)
    reflected = (found.active & ~found.direct).double().argmax(-1, keepdim=True)
    assert torch.allclose(found.directions["delay"].gather(1, reflected), directions["delay"], atol=1e-9)


def test_shapes_precision_silence_and_unknown_noise(generator: torch.Generator) -> None:
    obs = training(patterns=5)
    directions, gains = one_path(obs, 4, generator)
    y = obs.observe(channel(obs, directions, gains), 1e-2, generator=generator).to(torch.complex64)
    y[1] = 0
    estimator = OffGridKroneckerSBL(obs, grid=8, max_paths=3, max_iter=20)
    found = estimator(y.reshape(2, 2, -1), torch.full((2,), 1e-2))
    assert found.h_hat.shape == found.err_var.shape == (2, 2, *obs.channel_shape)
    assert found.h_hat.dtype == torch.complex64 and found.err_var.dtype == torch.float32
    h_hat, err_var = found
    assert float(h_hat[0, 1].abs().max()) == 0 and bool((err_var > 0).all())
    assert not bool(found.refined[0, 1])
    assert found.directions["ms"].shape == found.gains.shape == (2, 2, 3)
    assert estimator(y[0], 1e-2).h_hat.shape == obs.channel_shape
    assert estimator(y[:0], 1e-2).h_hat.shape == (0, *obs.channel_shape)
    unknown = OffGridKroneckerSBL(obs, grid=8, max_paths=3, max_iter=20, learn_noise=True)(y[2:])
    assert bool(torch.isfinite(unknown.h_hat.abs()).all()) and unknown.no_hat is not None


def test_gradients_reach_the_measurement(generator: torch.Generator) -> None:
    obs = training(patterns=5)
    directions, gains = one_path(obs, 2, generator)
    y = obs.observe(channel(obs, directions, gains), 1e-3, generator=generator).requires_grad_()
    found = OffGridKroneckerSBL(obs, grid=8, max_paths=2, max_iter=10)(y, 1e-3)
    (slope,) = torch.autograd.grad(found.h_hat.abs().square().sum(), y)
    # At fixed paths the estimate is linear, so the slope along y is twice the energy.
    along = float((slope.conj() * y.detach()).sum().real)
    assert along == pytest.approx(2 * float(found.h_hat.detach().abs().square().sum()), rel=1e-8)


def test_bad_input_is_refused_in_one_line(generator: torch.Generator) -> None:
    obs = training(patterns=5)
    with pytest.raises(InvalidTypeError, match="obs must be an IRSTraining"):
        OffGridKroneckerSBL(object())
    for name, value in (("max_paths", 0), ("max_paths", 65), ("false_alarm", 0.0), ("steps", 0), ("oversampling", 0)):
        with pytest.raises(InvalidValueError, match=name):
            OffGridKroneckerSBL(obs, **{name: value})
    estimator = OffGridKroneckerSBL(obs, grid=8, max_iter=5)
    y = gaussian(2, obs.num_measurements, generator=generator)
    for bad, no in ((y[:, 1:], 1.0), (y * float("nan"), 1.0), (y, -1.0), (y.real, 1.0), (y, None)):
        with pytest.raises(WichanError) as caught:
            estimator(bad, no)
        assert "\n" not in str(caught.value)
