r"""E[Q_i(u) Q_j(v)] of two correlated real Gaussians behind quantisers, to 1e-9.

Price's theorem [Price1958]_ gives the derivative in the correlation :math:`\rho = \cos t` as a sum over pairs of thresholds,

.. math:: g(\rho) = \int_{t}^{\pi/2} f(t')\,dt',\qquad
    f = \frac1{2\pi}\sum_{a,b} J_a J_b
        \exp\!\Big(-\frac{(\alpha_a-\beta_b)^2}{4(1-\cos t)}-\frac{(\alpha_a+\beta_b)^2}{4(1+\cos t)}\Big),

with thresholds in standard deviations of u and v and jumps J of the labels. Two ways to evaluate it:

* **table**: where one function of rho serves many entries (equal variances). f is integrated over panels that are graded
  towards :math:`t = 0`, and g is looked up in a cubic Hermite table.
* **series**: where every entry has variances of its own. :math:`g = \sum_{n\ \mathrm{odd}} a_n^{(i)} a_n^{(j)} \rho^n` with the
  Hermite coefficients :math:`a_n = \sum_a J_a\,\varphi(\alpha_a)\,\mathrm{He}_{n-1}(\alpha_a)/\sqrt{n!}` up to some
  :math:`\rho_0`, and an integral of f over what is left.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from wichan.observations.quantizer import Quantizer

_NODES = 20  # Legendre nodes a panel: f is analytic in an ellipse of radius 4.2 around a panel [T, 2T], and 4.2^-20 = 3e-13
_INTERVALS = 1024  # of a table: the error of Hermite interpolation is below 1e-10 (tests)
_TOLERANCE = 1e-10
_MAX_TERMS = 2000  # odd orders of the series
_BLOCK = 1 << 16  # numbers a pass of the series works on: they stay in the cache
_CHUNK = 1 << 20  # exponentials evaluated, or entries looked up, at once


class Jumps(NamedTuple):
    """The upper half of an odd staircase: jump at zero, positive thresholds and jumps there (unit variance)."""

    zero: float
    thresholds: torch.Tensor
    jumps: torch.Tensor

    @classmethod
    def of(cls, quantizer: Quantizer, device: torch.device) -> Jumps:
        middle = 2 ** (int(quantizer.num_bits) - 1)
        labels = quantizer.labels[middle:].to(device)
        return cls(2 * float(labels[0]), quantizer.thresholds[middle:].to(device), labels.diff())


@lru_cache(maxsize=16)
def _legendre(count: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Gauss-Legendre nodes in [-1, 1] and weights, float64."""
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy(nodes).to(device), torch.from_numpy(weights).to(device)


def angle_of(rho: torch.Tensor) -> torch.Tensor:
    """arccos(rho) for rho in [0, 1], to full precision near 1."""
    return 2 * torch.asin(((1 - rho) / 2).sqrt())


def price_density(rows: Jumps, columns: Jumps, t: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """f(t); ``alpha`` and ``beta`` scale the thresholds of unit variance to standard deviations; all broadcast."""
    # The smaller axis of thresholds is a loop, the larger one the last axis of a tensor.
    if rows.thresholds.numel() > columns.thresholds.numel():
        rows, columns, alpha, beta = columns, rows, beta, alpha
    minus, plus = 0.125 / torch.sin(t / 2).square(), 0.125 / torch.cos(t / 2).square()
    total = torch.full_like(t * alpha * beta, rows.zero * columns.zero)
    v, jump = beta[..., None] * columns.thresholds, columns.jumps
    near, far = minus[..., None], plus[..., None]
    total = total + 2 * rows.zero * (torch.exp(-v.square() * (near + far)) @ jump)
    for tau, weight in zip(rows.thresholds.tolist(), rows.jumps.tolist(), strict=True):
        u = alpha * tau
        total = total + 2 * columns.zero * weight * torch.exp(-u.square() * (minus + plus))
        apart, joint = (u[..., None] - v).square(), (u[..., None] + v).square()
        both = torch.exp(-apart * near - joint * far) + torch.exp(-joint * near - apart * far)
        total = total + 2 * weight * (both @ jump)
    return total / (2 * math.pi)


# -- Table: one function of rho for many entries. --


@lru_cache(maxsize=6)  # 1 to 46 MB each
def _panels(depth: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Nodes t of graded panels, and the matrices that take f there to the integral and to f at the knots of a table.

    Panels are [0, T], [T, 2T], [2T, 4T], ... up to pi/2 with T = pi/2 / 2^depth. Knots are equally spaced in
    asinh(t / 4T), so that they too lie dense where f may change fast.
    """
    intervals = _INTERVALS * (1 if depth <= 8 else 4)
    edges = (math.pi / 2) * 2.0 ** -torch.arange(depth, -1, -1, dtype=torch.float64)
    edges = torch.cat([edges.new_zeros(1), edges])
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    x, w = _legendre(_NODES, torch.device("cpu"))
    nodes = (middle[:, None] + half[:, None] * x).flatten()
    soft = _softness(depth)
    knots = soft * torch.sinh(torch.linspace(0, 1, intervals + 1, dtype=torch.float64) * math.asinh(math.pi / 2 / soft))
    panel = (torch.searchsorted(edges, knots, right=True) - 1).clamp(0, depth)
    local = ((knots - middle[panel]) / half[panel]).clamp(-1, 1)
    p = _legendre_polynomials(local, _NODES)
    order = torch.arange(_NODES, dtype=torch.float64)
    # f = sum_l c_l P_l with c_l = (2l+1)/2 sum_n w_n P_l(x_n) f_n, and (2l+1) int_x^1 P_l = P_{l-1}(x) - P_{l+1}(x).
    to_coefficients = _legendre_polynomials(x, _NODES)[:, :_NODES].mT * w * (order[:, None] + 0.5)
    upper = torch.cat([1 - local[:, None], (p[:, :-2] - p[:, 2:]) / (2 * order[1:] + 1)], dim=1)
    weights = torch.zeros(intervals + 1, depth + 1, _NODES, dtype=torch.float64)
    values = torch.zeros_like(weights)
    row = torch.arange(intervals + 1)
    weights[row, panel] = half[panel][:, None] * (upper @ to_coefficients)
    values[row, panel] = p[:, :_NODES] @ to_coefficients
    weights = weights + (torch.arange(depth + 1) > panel[:, None])[..., None] * half[:, None] * w
    step = torch.sqrt(knots.square() + soft**2)[:, None] * (math.asinh(math.pi / 2 / soft) / intervals)  # dt for one interval
    return nodes.to(device), weights.flatten(1).to(device), (-step * values.flatten(1)).to(device), intervals


def _legendre_polynomials(x: torch.Tensor, highest: int) -> torch.Tensor:
    """P_0 ... P_highest at x, along a new last axis."""
    found = [torch.ones_like(x), x]
    for n in range(1, highest):
        found.append(((2 * n + 1) * x * found[n] - n * found[n - 1]) / (n + 1))
    return torch.stack(found, dim=-1)


def _softness(depth: int) -> float:
    """Width in t around 0 in which the knots of a table are equally spaced."""
    return 4 * (math.pi / 2) * 2.0**-depth


def _depth(rows: Jumps, columns: Jumps, alpha: torch.Tensor, beta: torch.Tensor | None) -> int:
    """How finely the panels must be graded: f changes where t is comparable to a distance between thresholds."""
    a = torch.cat([rows.thresholds.new_zeros(1), rows.thresholds])
    b = torch.cat([columns.thresholds.new_zeros(1), columns.thresholds])
    if beta is None:  # the same thresholds
        distance = float(a.diff().min() * alpha.min()) if a.numel() > 1 else 8.0
    elif alpha.numel() * a.numel() * b.numel() > _CHUNK:
        distance = 0.0
    else:
        apart = (alpha[..., None, None] * a[:, None] - beta[..., None, None] * b).abs()
        apart = apart[apart > _TOLERANCE]
        distance = float(apart.min()) if apart.numel() else 8.0
    return min(34, max(3, math.ceil(math.log2(4 * math.pi / max(distance, 1e-12)))))


def table_moment(rows: Jumps, columns: Jumps, rho: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """g for ``rho`` (K, E) where all E entries of an item share ``alpha`` (K,) and ``beta`` (K,), float64."""
    same = torch.equal(rows.thresholds, columns.thresholds) and torch.equal(alpha, beta)
    depth = _depth(rows, columns, alpha, None if same else beta)
    nodes, integrate, slope, intervals = _panels(depth, rho.device)
    found = []
    # Items with the same thresholds share a table.
    distinct, which = torch.unique(torch.stack([alpha, beta]), dim=1, return_inverse=True)
    per_pass = max(1, _CHUNK // (nodes.numel() * max(1, rows.thresholds.numel(), columns.thresholds.numel())))
    for a, b in distinct[..., None].split(per_pass, dim=1):
        density = price_density(rows, columns, nodes, a, b)
        g, d = density @ integrate.mT, density @ slope.mT
        g0, g1, d0, d1 = g[:, :-1], g[:, 1:], d[:, :-1], d[:, 1:]
        found.append(torch.stack([g0, d0, 3 * (g1 - g0) - 2 * d0 - d1, 2 * (g0 - g1) + d0 + d1], dim=-1).flatten(0, 1))
    place = torch.asinh(angle_of(rho.abs()) / _softness(depth)) * (intervals / math.asinh(math.pi / 2 / _softness(depth)))
    index = place.floor().clamp_(0, intervals - 1)
    x = place.sub_(index)
    c = torch.cat(found)[index.long().add_(intervals * which[:, None])]
    return rho.sign() * (((c[..., 3] * x + c[..., 2]) * x + c[..., 1]) * x + c[..., 0])


def table_pays(rows: Jumps, columns: Jumps, rho: torch.Tensor, entries: int, tables: int) -> bool:
    """Whether so many tables cost less than the series of so many entries (estimated in ns of one core)."""
    largest = float((torch.view_as_real(rho) if rho.is_complex() else rho).detach().abs().max()) if rho.numel() else 0.0
    terms = min(_terms_for(min(largest, 1 - 1e-6)), _MAX_TERMS)
    return tables * (3e5 + 1e3 * _num_pairs(rows, columns)) + 60 * entries <= terms * entries


def common_moment(rows: Jumps, columns: Jumps, rho: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """g for ``rho`` (K, 2, R, C) where the entries of an item share ``alpha`` (K,) and ``beta`` (K,), float64."""
    tables = torch.unique(torch.stack([alpha, beta]), dim=1).shape[1]
    if not table_pays(rows, columns, rho, rho.numel(), tables):
        return series_moment(rows, columns, rho, alpha[:, None], beta[:, None])
    items = max(1, _CHUNK // max(1, rho[0].numel()))
    pieces = zip(*(t.split(items) for t in (rho.flatten(1), alpha, beta)), strict=True)
    return torch.cat([table_moment(rows, columns, *piece) for piece in pieces]).reshape(rho.shape)


def _num_pairs(rows: Jumps, columns: Jumps) -> int:
    """Exponentials that one value of f costs."""
    return 2 * (rows.thresholds.numel() + 1) * (columns.thresholds.numel() + 1)


# -- Series: variances that differ from entry to entry. --


def series_coefficients(jumps: Jumps, alpha: torch.Tensor, terms: int) -> torch.Tensor:
    """Hermite coefficients a_1, a_3, ... of the staircase at ``alpha`` (...); returns (..., terms)."""
    thresholds = torch.cat([jumps.thresholds.new_zeros(1), jumps.thresholds])
    weight = torch.cat([jumps.jumps.new_tensor([jumps.zero]), 2 * jumps.jumps])
    at = alpha[..., None] * thresholds
    before, now = torch.zeros_like(at), torch.exp(-at.square() / 2) / math.sqrt(2 * math.pi)
    found = []
    for n in range(1, 2 * terms):
        if n % 2:
            found.append((now @ weight) / math.sqrt(n))
        before, now = now, (at * now - math.sqrt(n - 1) * before) / math.sqrt(n)
    return torch.stack(found, dim=-1)


def _terms_for(limit: float) -> int:
    """Odd orders after which limit^n < 1e-10."""
    return max(1, math.ceil(math.log(_TOLERANCE) / math.log(limit) / 2)) if limit > 1e-9 else 1


def _limit(size: torch.Tensor, pairs: int) -> float:
    """Largest correlation to sum the series for: what costs least, a power of every entry or an integral of a few."""
    top = float(size.max())
    best, least = top, size.numel() * _terms_for(min(top, 1 - 1e-12))
    for limit in (0.8, 0.9, 0.95, 0.98, 0.99, 0.9971):
        if limit < top:
            # An entry's exponential takes some 6 times as long as a term of its series, and 24 nodes are needed.
            cost = size.numel() * _terms_for(limit) + 150 * pairs * int((size > limit).sum())
            if cost < least or _terms_for(min(best, 1 - 1e-12)) > _MAX_TERMS:
                best, least = limit, cost
    return best


def series_moment(rows: Jumps, columns: Jumps, rho: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """g for ``rho`` (K, 2, R, C) with ``alpha`` (K, R or 1) and ``beta`` (K, C or 1), float64."""
    items = max(1, _BLOCK // max(1, rho[0].numel()))
    out = torch.empty_like(rho)
    height = max(1, _BLOCK // max(1, 2 * items * rho.shape[-1]))
    for k in range(0, rho.shape[0], items):
        for r in range(0, rho.shape[-2], height):
            at = slice(k, k + items), slice(None), slice(r, r + height)
            a = alpha[k : k + items] if alpha.shape[-1] == 1 else alpha[k : k + items, r : r + height]
            out[at] = _series_block(rows, columns, rho[at], a, beta[k : k + items])
    return out


def _series_block(rows: Jumps, columns: Jumps, rho: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    size = rho.abs()
    limit = _limit(size, _num_pairs(rows, columns))
    terms = _terms_for(min(limit, 1 - 1e-12))
    a, b = series_coefficients(rows, alpha, terms), series_coefficients(columns, beta, terms)
    # The last orders may be too weak to matter: a_n falls as well.
    weight = (a.abs().flatten(0, -2).amax(0) * b.abs().flatten(0, -2).amax(0)).cpu()
    left = (weight * limit ** (2 * torch.arange(terms, dtype=torch.float64) + 1)).flip(0).cumsum(0).flip(0)
    terms = max(1, int((left > _TOLERANCE).sum()))
    inner = rho.clamp(-limit, limit)
    square = inner.square()
    a, b = a[..., :terms].movedim(-1, 0).contiguous(), b[..., :terms].movedim(-1, 0).contiguous()
    # Horner's rule in rho^2, from the highest order down.
    total = (a[-1][:, :, None] * b[-1][:, None, :])[:, None].expand_as(rho)
    for n in range(terms - 2, -1, -1):
        total = torch.addcmul((a[n][:, :, None] * b[n][:, None, :])[:, None], total, square)
    total = total * inner
    beyond = size > limit
    if bool(beyond.any()):
        item, _, row, column = beyond.nonzero(as_tuple=True)
        near, far = alpha.expand(-1, rho.shape[-2])[item, row], beta.expand(-1, rho.shape[-1])[item, column]
        total[beyond] += rho[beyond].sign() * _between(rows, columns, angle_of(size[beyond]), math.acos(limit), near, far)
    return total


def _between(
    rows: Jumps, columns: Jumps, start: torch.Tensor, end: float, alpha: torch.Tensor, beta: torch.Tensor
) -> torch.Tensor:
    """Integral of f from each ``start`` (E,) to ``end``, in log t: f is analytic there in a strip of half-width pi/4."""
    start = start.clamp_min(_TOLERANCE)
    octaves = torch.log2(end / start)
    order = octaves.argsort()
    found = []
    size = max(1, _CHUNK // (24 * max(1, rows.thresholds.numel(), columns.thresholds.numel())))
    for chosen in order.split(size):
        count = 8 * math.ceil((8 + 6 * float(octaves[chosen[-1]])) / 8)
        x, w = _legendre(count, start.device)
        half = torch.log(end / start[chosen])[:, None] / 2
        t = start[chosen][:, None] * torch.exp(half * (x + 1))
        f = price_density(rows, columns, t, alpha[chosen][:, None], beta[chosen][:, None])
        found.append((f * t * w).sum(-1) * half[:, 0])
    return torch.cat(found)[order.argsort()]


# -- Gradients. --


class PairMoment(torch.autograd.Function):
    """g with its gradient in closed form, so that neither the table nor the series has to be remembered.

    ``rho`` (K, 2, R, C), ``alpha`` (K, R), ``beta`` (K, C), float64; ``common`` says that alpha and beta do not depend on the
    entry. First derivatives only.
    """

    @staticmethod
    def forward(
        ctx: Any, rho: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor, rows: Jumps, columns: Jumps, common: bool
    ) -> torch.Tensor:
        ctx.save_for_backward(rho, alpha, beta)
        ctx.jumps = rows, columns
        if common:
            return common_moment(rows, columns, rho, alpha[:, 0], beta[:, 0])
        return series_moment(rows, columns, rho, alpha, beta)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rho, alpha, beta = ctx.saved_tensors
        wide = [t.expand(rho.shape).flatten() for t in (rho, alpha[:, None, :, None], beta[:, None, None, :])]
        size = max(1, _CHUNK // max(1, 2 * ctx.jumps[1].thresholds.numel()))
        parts = [pair_slopes(*ctx.jumps, *piece) for piece in zip(*(t.split(size) for t in wide), strict=True)]
        by_rho, by_alpha, by_beta = (grad * torch.cat(found).reshape(rho.shape) for found in zip(*parts, strict=True))
        return by_rho, by_alpha.sum((1, 3)), by_beta.sum((1, 2)), None, None, None


def pair_slopes(
    rows: Jumps, columns: Jumps, rho: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""Derivatives of g in rho, alpha and beta, all (E,), with |rho| < 1.

    .. math:: \frac{\partial g}{\partial\rho} = \sum_{a,b} J_a J_b\, \varphi_2(\alpha\tau_a, \beta\tau_b; \rho),\qquad
        \frac{\partial g}{\partial\alpha} = -\sum_{a,b} J_a J_b\, \tau_a\, \varphi(\alpha\tau_a)
        \Big[\Phi\Big(\frac{\rho\alpha\tau_a - \beta\tau_b}{\sqrt{1-\rho^2}}\Big) - \tfrac12\Big]
    """
    tau = torch.cat([-columns.thresholds.flip(0), columns.thresholds.new_zeros(1), columns.thresholds])
    jump = torch.cat([columns.jumps.flip(0), columns.jumps.new_tensor([columns.zero]), columns.jumps])
    root = ((1 - rho) * (1 + rho)).sqrt()
    v, correlation, spread = beta[:, None] * tau, rho[:, None], root[:, None]
    slopes = [torch.zeros_like(rho) for _ in range(3)]
    peak = torch.exp(-v.square() / 2) * (jump * tau / math.sqrt(2 * math.pi))
    # Thresholds of the rows below zero give the same as those above.
    for t, weight in zip([0.0, *rows.thresholds.tolist()], [rows.zero / 2, *rows.jumps.tolist()], strict=True):
        u = (alpha * t)[:, None]
        bell = torch.exp(-u[:, 0].square() / 2) / math.sqrt(2 * math.pi)
        offset = (v - correlation * u) / spread
        slopes[0] += 2 * weight * bell / (root * math.sqrt(2 * math.pi)) * (torch.exp(-offset.square() / 2) @ jump)
        slopes[1] += weight * t * bell * (torch.erf(offset / math.sqrt(2)) @ jump)
        slopes[2] -= weight * (peak * torch.erf((correlation * v - u) / (spread * math.sqrt(2)))).sum(-1)
    return slopes[0], slopes[1], slopes[2]
