"""Start of EM: k-means++ ([Arthur2007]_) on features of each channel; and components that take over for lost ones.

Phases of a channel say nothing of its covariance, so clusters of [Re h, Im h] are poor components. Its periodogram over angle,
delay and Doppler does: with clusters of its logarithm, mixtures of full and Toeplitz covariances start higher, end sooner and
at a higher held-out likelihood (``python sims/bench gmm-fit`` compares with a package that starts from [Re h, Im h]). Circulant
mixtures, of fewer parameters, end as high or higher from the broad components that [Re h, Im h] gives. So these take the one
first and those the other, and restarts alternate.
"""

from __future__ import annotations

import torch

from wichan.priors.estep import EStep, Moments
from wichan.priors.structure import squared

_FLOOR = 0.03  # of the mean power: what is weaker in a periodogram is noise, or leakage of what is strong


def log_periodogram(h: torch.Tensor) -> torch.Tensor:
    r"""Return log(|F h|^2 / mean + 0.03) over a DFT of twice the length in each axis, and the power likewise.

    Args:
        h: complex (T, \*shape); a channel of zeros gives a constant row.

    Returns:
        float32 (T, bins + 1); the last column is the power relative to that of all channels.
    """
    axes = tuple(range(1, h.dim()))
    norm = torch.linalg.vector_norm(torch.view_as_real(h.resolve_conj()).flatten(1), dim=1).clamp_min(1e-300)
    unit = (h / norm.reshape(-1, *([1] * len(axes)))).to(torch.complex64)
    sizes = [2 * n if n > 1 else 1 for n in h.shape[1:]]
    # With norm="backward" and a unit vector, |F h|^2 has mean 1 over the bins.
    power = squared(torch.fft.fftn(unit, s=sizes, dim=axes)).flatten(1)
    level = norm / norm.square().mean().sqrt()
    return torch.cat([power, level.square().float().unsqueeze(1)], dim=1).add_(_FLOOR).log_()


def parts(flat: torch.Tensor) -> torch.Tensor:
    """[Re h, Im h], float32 (T, 2 N), relative to the mean power; from complex (T, N)."""
    real = torch.view_as_real(flat).flatten(1)
    return (real / real.square().mean().sqrt()).float()


def _squared_distances(x: torch.Tensor, norms: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """|x - c|^2, (T, K), at least 0."""
    return torch.addmm(norms.unsqueeze(1) + centers.square().sum(1), x, centers.T, alpha=-2.0).clamp_min_(0.0)


def seed_centers(x: torch.Tensor, num_clusters: int, generator: torch.Generator) -> torch.Tensor:
    """k-means++: each new centre is a sample drawn with probability proportional to its squared distance from the others."""
    norms = x.square().sum(1)
    tries = 2 + num_clusters.bit_length()  # the best of a few draws, the usual greedy form
    first = torch.randint(len(x), (1,), generator=generator, device=generator.device).to(x.device)
    chosen = [first]
    nearest = _squared_distances(x, norms, x[first])[:, 0]
    for _ in range(1, num_clusters):
        total = nearest.double().cumsum(0)
        draws = torch.rand(tries, generator=generator, device=generator.device, dtype=torch.float64).to(x.device)
        # With all distances 0 (fewer distinct samples than clusters) this gives the last sample: an empty cluster later.
        picks = torch.searchsorted(total, draws * total[-1], right=True).clamp_max_(len(x) - 1)
        reach = torch.minimum(_squared_distances(x, norms, x[picks]), nearest.unsqueeze(1))
        best = int(reach.sum(0).argmin())
        nearest = reach[:, best]
        chosen.append(picks[best : best + 1])
    return x[torch.cat(chosen)]


def kmeans_labels(x: torch.Tensor, num_clusters: int, generator: torch.Generator, max_iter: int = 20) -> torch.Tensor:
    """Cluster rows of a real matrix; int64 (T,), clusters may be empty.

    Args:
        x: float32, (T, D).
        num_clusters: K.
        generator: source of the seeds.
        max_iter: most Lloyd iterations.

    Cost: 2 T D K FLOP an iteration, and about log K times one iteration for the seeds.
    """
    norms = x.square().sum(1)
    centers = seed_centers(x, num_clusters, generator)
    labels = _squared_distances(x, norms, centers).argmin(1)
    for _ in range(max_iter):
        counts = torch.bincount(labels, minlength=num_clusters)
        sums = torch.zeros_like(centers).index_add_(0, labels, x)
        centers = torch.where(counts.unsqueeze(1) > 0, sums / counts.clamp_min(1).unsqueeze(1), centers)
        new = _squared_distances(x, norms, centers).argmin(1)
        if torch.equal(new, labels):
            break
        labels = new
    return labels


def split_heaviest(
    estep: EStep,
    moments: Moments,
    lost: list[int],
    labels: torch.Tensor,
    subset: torch.Tensor,
    features: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Give each lost component one of two clusters of the heaviest component's channels, in place.

    Args:
        estep: makes moments of channels.
        moments: of the last E-step; changed.
        lost: components without weight.
        labels: component of each channel of the subset, int64 (n,).
        subset: channels, complex128 (n, N); features: of the same channels, float32.
        generator: of the clusters.

    Returns:
        Components that were changed, int64; none where no heavy component has two distinct channels.
    """
    changed: list[int] = []
    spent: set[int] = set()
    for k in lost:
        order = [j for j in moments.counts.argsort(descending=True).tolist() if j not in spent and j not in lost]
        for j in order:
            spent.add(j)
            rows = (labels == j).nonzero()[:, 0]
            side = kmeans_labels(features[rows], 2, generator) if len(rows) > 1 else rows.new_zeros(len(rows))
            share = float(side.double().mean()) if len(side) else 0.0
            if not 0.0 < share < 1.0:
                continue
            halves = estep.labelled(subset[rows], side, 2).second()
            weight = float(moments.counts[j])
            for index, half, part in ((j, halves[0], 1 - share), (k, halves[1], share)):
                moments.counts[index] = weight * part
                moments.sums[index] = half * (weight * part)
            changed += [j, k]
            break
    return torch.tensor(changed, dtype=torch.int64, device=subset.device)
