r"""The true conditional mean of a channel behind coarse converters, by Markov chains that say whether they have mixed.

Behind the converters only the cell of each sample is known. Given the analogue samples :math:`y = A h + n` everything is
linear, so

.. math:: E[h \mid r] = E\bigl[E[h \mid y] \bigm| r\bigr],\qquad y \mid r:\ \text{a Gaussian (mixture) confined to cells} .

Chains draw y; averaging E[h | y] over them is the Rao-Blackwell form of averaging draws of h.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from wichan.channels.covariance import ChannelCovariance
from wichan.errors import ShapeError, WichanWarning, check_choice, check_int
from wichan.estimators.base import Estimate
from wichan.estimators.bussgang import as_matrix
from wichan.estimators.bussgang_base import Entered, QuantizedEstimator, eagerly
from wichan.estimators.bussgang_filters import bussgang_filter
from wichan.estimators.bussgang_genie import BussgangGenie
from wichan.estimators.chains import effective_samples, split_r_hat
from wichan.estimators.gibbs_moves import Plan, Sweeps, component_log_density
from wichan.estimators.gibbs_tables import Tables, cells, make_tables, row_bits
from wichan.nn.buffers import ComplexBuffer
from wichan.observations.quantized import QuantizedPilots
from wichan.observations.quantizer import Quantizer
from wichan.priors.base import MixturePrior

MOVES = ("bounce", "augment")
NO_FLOOR = 1e-6
_BLOCK = 2**16  # real samples y of all chains that move together: they fit into a processor's cache
_R_HAT = 1.1


class Diagnostics(NamedTuple):
    r"""How far chains can be trusted, observation by observation.

    Args:
        r_hat: float64, (\*batch,), split R-hat of the worst real part of E[h | y]; above 1.1 the chains have not mixed.
        effective_samples: float64, (\*batch,), independent draws that would be worth as much, for the worst real part. The
            estimate's own variance is about err_var over that number.
    """

    r_hat: torch.Tensor
    effective_samples: torch.Tensor


class CMEGibbs(QuantizedEstimator):
    r"""Conditional mean E[h | r] for a Gaussian or Gaussian-mixture channel behind coarse converters, by Gibbs sampling.

    .. math:: \hat h = \frac1S\sum_s E[h \mid y_s, k_s],\qquad
        \mathrm{err\_var} = \frac1S\sum_s \mathrm{Var}[h \mid y_s, k_s] + \mathrm{Var}_s\bigl[E[h \mid y_s, k_s]\bigr]

    over draws of the analogue samples y and the mixture's component k given r. A sweep draws k given y, then h given both, then
    y given h and r: a truncated Gaussian for each real part, by its inverse distribution function ([Albert1993]_). At high SNR
    the noise ties y to h and such chains hardly move; ``move="bounce"`` therefore begins each sweep with a trajectory of y
    that is confined to the cells and exact for the Gaussian of k ([Pakman2014]_), with h integrated out. With one bit per
    sample, 32 antennas and one cluster its draws are as good as independent at any SNR.

    What does not mix as easily is k: components that explain the same cells but not the same y are visited by different
    chains only. R-hat shows it, and a warning says so.

    Args:
        obs: a `wichan.observations.QuantizedPilots`, of any resolution for any row.
        prior: what channels are likely: a fitted `wichan.priors.MixturePrior`, a covariance (N, N), or a `ChannelCovariance`.
            ``None``: each sample's own covariance is told to `forward`.
        model, told: as in `BussgangGenie`, for ``prior=None``.
        num_samples: draws of each chain, at least 4.
        burn_in: sweeps before them.
        num_chains: independent chains, at least 1; they start at places that are spread wider than the answer.
        move: "bounce" or "augment", see above.
        seed: of the chains. What they draw depends on it and on the observation, so that an estimate is a function of its own
            observation; no generator is touched.
        no_floor: smallest ``no``, relative to the largest power at a converter; ``no=0`` means this.

    The same call gives the same bits. An observation alone and in a batch gives the same numbers to rounding with "augment";
    with "bounce" only within the error that `diagnose` states, since particles that bounce amplify rounding.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: no such observation, prior or number.

    Cost: an observation takes num_chains (burn_in + num_samples) sweeps; with "bounce" each costs about a dozen passes over
    2 M numbers for each of its roughly M bounces; tables cost about 10 M^3 complex multiply-adds a component or told
    covariance. No gradient reaches r: cells do not move.

    Example:
        >>> from wichan.observations import QuantizedPilots
        >>> obs = QuantizedPilots(torch.eye(1, dtype=torch.complex128), num_bits=1)
        >>> cme = CMEGibbs(obs, torch.eye(1, dtype=torch.complex128), num_samples=500)
        >>> r = obs.quantize(torch.ones(1, dtype=torch.complex128), no=0.1)
        >>> bool((cme(r, no=0.1).h_hat - (1 + 1j) / math.sqrt(math.pi * 1.1)).abs() < 0.05)
        True
    """

    covariances = ComplexBuffer()

    def __init__(
        self,
        obs: Any,
        prior: MixturePrior | torch.Tensor | ChannelCovariance | None = None,
        *,
        model: Any = None,
        told: Sequence[str] = ("angles", "powers"),
        num_samples: int = 100,
        burn_in: int = 20,
        num_chains: int = 4,
        move: str = "bounce",
        seed: int = 0,
        no_floor: float = NO_FLOOR,
    ) -> None:
        super().__init__(obs, no_floor=no_floor)
        self.num_samples = check_int("num_samples", num_samples, minimum=4)
        self.burn_in = check_int("burn_in", burn_in, minimum=0)
        self.num_chains = check_int("num_chains", num_chains, minimum=1)
        self.move = str(check_choice("move", move, MOVES))
        self.seed = check_int("seed", seed)
        self.genie = BussgangGenie(obs, model, told=told, no_floor=no_floor) if prior is None else None
        self.told = () if self.genie is None else self.genie.told
        size, device = math.prod(self.shape), self.obs.matrix().device
        if isinstance(prior, MixturePrior):
            covariances, log_weights = prior.covariances(), prior.weights.log()
        else:
            covariances = torch.zeros(0, size, size, dtype=torch.complex128) if prior is None else as_matrix(prior, size)[None]
            log_weights = torch.zeros(len(covariances), dtype=torch.float64)
        if tuple(covariances.shape[1:]) != (size, size):
            raise ShapeError(f"prior has channels of N={covariances.shape[-1]}; obs has channel_shape={self.shape}, N={size}")
        self.covariances = covariances.detach().to(device)
        self.register_buffer("log_weights", log_weights.detach().clone().to(device))
        self.log_weights: torch.Tensor

    def forward(self, r: torch.Tensor, no: Any, **conditions: Any) -> Estimate:  # type: ignore[override]
        r"""Estimate the channel.

        Args:
            r: complex64 or complex128, (\*batch, M), the converters' output.
            no: noise variance, at least 0: a number, or a tensor over the leading batch axes.
            conditions: as in `BussgangGenie.forward`, for ``prior=None``.

        Returns:
            `Estimate`: h_hat in the dtype of ``r`` and err_var in its real dtype, both (\*batch, \*channel_shape). A
            `WichanWarning` says how many observations have an R-hat above 1.1.

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: NaN, negative ``no``, shapes that do not fit.
        """
        estimate, found = self.diagnose(r, no, **conditions)
        bad = int((found.r_hat > _R_HAT).sum())
        if bad:
            worst, total = float(found.r_hat.max()), found.r_hat.numel()
            warnings.warn(
                f"chains of {bad} of {total} observations have not mixed: R-hat is up to {worst:.2f}, {_R_HAT} is allowed; "
                f"num_samples={self.num_samples} or burn_in={self.burn_in} may be too small",
                WichanWarning,
                stacklevel=2,
            )
        return estimate

    @eagerly
    def diagnose(self, r: torch.Tensor, no: Any, **conditions: Any) -> tuple[Estimate, Diagnostics]:
        """Estimate as `forward`, without its warning, and say how far the chains can be trusted."""
        with torch.no_grad():
            entered = self._enter(r, no)
            if not entered.flat.shape[0]:
                empty = r.new_zeros(entered.batch, dtype=torch.float64)
                return self._nothing(entered), Diagnostics(empty, empty.clone())
            rows = entered.flat.to(torch.complex128)
            parts = self._told(rows, entered, conditions) if self.genie is not None else self._shared(rows, entered)
            h_hat, err_var, r_hat, effective = parts
        estimate = self._leave(entered, h_hat.to(r.dtype), err_var.to(r.real.dtype))
        return estimate, Diagnostics(r_hat.reshape(entered.batch), effective.reshape(entered.batch))

    # -- Which covariance an observation has. --

    def _told(self, rows: torch.Tensor, entered: Entered, conditions: dict[str, Any]) -> list[torch.Tensor]:
        """Every observation has its own."""
        genie = self.genie
        assert genie is not None
        modelled = conditions.get("covariance") is None
        given, lead = genie._conditions(conditions, entered.batch, rows.device, modelled)
        rest = math.prod(entered.batch[len(lead) :])

        def covariance(index: torch.Tensor) -> torch.Tensor:
            chosen = {name: one[index // rest] for name, one in given.items()}
            return genie._modelled(chosen) if modelled else chosen["covariance"]

        return self._each(rows, _levels(entered, rows), covariance)

    def _shared(self, rows: torch.Tensor, entered: Entered) -> list[torch.Tensor]:
        """All observations have the prior's, at few noise variances or at many."""
        no = _levels(entered, rows)
        if len(self.log_weights) == 1 and entered.index is not None:
            return self._each(rows, no, lambda index: self.covariances.expand(len(index), -1, -1))
        parts, order = [], []
        for number, level in enumerate(entered.levels):
            chosen = torch.arange(len(rows), device=rows.device)
            chosen = chosen if entered.index is None else chosen[entered.index == number]
            tables = self._tables_at(level)
            for block in chosen.split(self._block(len(self.log_weights))):
                start = self._first_components(rows[block], level)
                parts.append(self._run(tables, self.log_weights, rows[block], no[block], start))
            order.append(chosen)
        back = torch.cat(order).argsort()
        return [torch.cat(part)[back] for part in zip(*parts, strict=True)]

    def _each(
        self, rows: torch.Tensor, no: torch.Tensor, covariance: Callable[[torch.Tensor], torch.Tensor]
    ) -> list[torch.Tensor]:
        parts = []
        for block in torch.arange(len(rows), device=rows.device).split(self._block(1)):
            tables = make_tables(self.obs, covariance(block), no[block], self.no_floor)
            parts.append(self._run(tables, None, rows[block], no[block], block))
        return [torch.cat(part) for part in zip(*parts, strict=True)]

    def _tables_at(self, level: float) -> Tables:
        def make() -> Tables:
            no = torch.full((len(self.log_weights),), level, dtype=torch.float64, device=self.log_weights.device)
            return make_tables(self.obs, self.covariances.to(torch.complex128), no, self.no_floor)

        self._cache.follow(self._sources())
        return self._cache.get(level, make, lambda made: sum(t.numel() * t.element_size() for t in made))

    def _block(self, components: int) -> int:
        """Observations that run together."""
        return max(1, _BLOCK // (2 * self.obs.num_measurements * self.num_chains * max(1, components // 16)))

    # -- One block of observations. --

    def _run(
        self, tables: Tables, log_weights: torch.Tensor | None, rows: torch.Tensor, no: torch.Tensor, k: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Estimates (T, N), error variances (T, N), R-hat (T,) and effective samples (T,)."""
        if not len(tables.coarse):
            return _linear(tables, log_weights, rows)
        low, high = cells(self.obs, rows, no)
        bits = [value for value in row_bits(self.obs) if value != math.inf]
        plan = Plan(
            self.num_samples,
            self.burn_in,
            self.num_chains,
            self.move == "bounce",
            is_cone=max(bits) == 1 and not len(tables.fine),
            reach=_reach(self.obs),
        )
        means, error = Sweeps(tables, log_weights, rows, low, high, k, plan, self.seed).run()
        h_hat = means.mean(dim=(0, 2))
        spread = (means - h_hat[:, None]).abs().square().sum(dim=(0, 2)) / (means.shape[0] * means.shape[2] - 1)
        parts = torch.view_as_real(means).transpose(1, 2).flatten(3)  # (samples, chains, T, 2 N)
        return h_hat, error + spread, split_r_hat(parts).amax(dim=1), effective_samples(parts).amin(dim=1)

    def _first_components(self, rows: torch.Tensor, level: float) -> torch.Tensor:
        """Components to start with, drawn from Bussgang's approximation of p(k | r), int64 (T num_chains,)."""
        chains, device = self.num_chains, rows.device
        if len(self.log_weights) == 1:
            return torch.zeros(len(rows) * chains, dtype=torch.int64, device=device)
        made = bussgang_filter(self.obs, self.covariances.to(torch.complex128), level, "white", self.no_floor)
        white = (rows @ made.whitener().flatten(0, 1).mT).unflatten(1, (len(self.log_weights), -1))
        log_density = self.log_weights - made.log_det() - white.abs().square().sum(dim=-1)
        # Chains take equidistant quantiles, so that together they start in as many components as are likely.
        quantile = (torch.arange(chains, dtype=torch.float64, device=device) + 0.5) / chains
        reached = log_density.softmax(dim=1).cumsum(dim=1)[:, None] < quantile[:, None]
        return reached.sum(dim=-1).clamp_max(len(self.log_weights) - 1).flatten()

    def extra_repr(self) -> str:
        return f"shape={self.shape}, move={self.move!r}, num_samples={self.num_samples}, num_chains={self.num_chains}"


def _levels(entered: Entered, rows: torch.Tensor) -> torch.Tensor:
    """Noise variance of each observation, float64 (T,)."""
    levels = torch.tensor(entered.levels, dtype=torch.float64, device=rows.device)
    return levels.expand(len(rows)) if entered.index is None else levels[entered.index]


def _reach(obs: QuantizedPilots) -> float:
    """Mean duration of a trajectory: a quarter turn, or less in cells that are narrower than a standard deviation."""
    widths = [float(Quantizer(b, obs.kind).thresholds.diff().min()) for b in set(row_bits(obs)) if b not in (1, math.inf)]
    return math.pi / 2 * min([1.0, *widths])


def _linear(
    tables: Tables, log_weights: torch.Tensor | None, y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Without converters y is known, and nothing is left to draw."""
    if log_weights is None:
        h_hat, err_var = (tables.weight @ y[..., None])[..., 0], tables.error
    else:
        posterior = component_log_density(tables, log_weights, y).softmax(dim=1)
        means = torch.einsum("knm,tm->tkn", tables.weight, y)
        h_hat = (posterior[..., None] * means).sum(dim=1)
        second = tables.error + (means - h_hat[:, None]).abs().square()
        err_var = (posterior[..., None] * second).sum(dim=1)
    return h_hat, err_var, torch.ones_like(err_var[:, 0]), torch.full_like(err_var[:, 0], math.inf)
