"""CSI prediction: the data stream, a forward pass of every predictor beside its FLOP, and the benchmark's throughput."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from harness import Row, median_seconds, paired
from published_csi4cast import PublishedCSI4CAST
from torch.utils.flop_counter import FlopCounterMode

import wichan as wc
from wichan.evaluation.benchmarks.csi_rrg import CSIRRGBenchmark
from wichan.prediction import LEARNED_PREDICTORS, PREDICTORS, Predictor

# Name, preset, samples at once, published GFLOP a sample of what it restates or competes with.
FORWARD: tuple[tuple[str, str | None, int, str], ...] = (
    ("hold", None, 20, "NP 0"),
    ("pad", None, 20, "PAD 14.75"),
    ("dad", None, 4, "PAD 14.75"),
    ("dadnet", "small", 4, "CSI-4CAST 72.2"),
    ("cnn", "small", 4, "CNN 60.5"),
    ("rnn", "small", 4, "RNN 190"),
    ("csi4cast", "small", 4, "CSI-4CAST 72.2"),
    ("csi4cast", "paper-tdd", 1, "CSI-4CAST 72.2"),
)
TRAIN_SPLIT, LIMIT = 27_000, 90.0


def _complex_aware(multiply: Callable[..., int]) -> Any:
    """A FLOP formula on tensors that counts a complex multiplication with addition as 8, a real one as 2."""

    def count(*args: Any, out_val: Any = None, **_: Any) -> int:
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        return multiply(*tensors) * (8 if tensors[-1].is_complex() else 2)

    count._get_raw = True  # type: ignore[attr-defined]
    return count


def _fourier(x: torch.Tensor, dim: Any, *_: Any, out_val: Any = None, **__: Any) -> int:
    size = 1
    for axis in dim:
        size *= x.shape[axis]
    return round(5 * x.numel() * torch.tensor(float(size)).log2().item())


def _system(a: torch.Tensor, *_: Any, times: float, out_val: Any = None, **__: Any) -> int:
    return round(times * a.numel() * a.shape[-1] * (4 if a.is_complex() else 1))


def _raw(formula: Callable[..., int], **fixed: Any) -> Any:
    def count(*args: Any, **kwargs: Any) -> int:
        return formula(*args, **kwargs, **fixed)

    count._get_raw = True  # type: ignore[attr-defined]
    return count


def counted_flops(work: Callable[[], Any]) -> int:
    """FLOP of products, convolutions (torch's own count), Fourier transforms (5 n log2 n) and systems of equations."""
    aten = torch.ops.aten
    product = _complex_aware(lambda *t: t[-2].numel() * t[-1].shape[-1])
    formulas = {
        aten.mm: product,
        aten.bmm: product,
        aten.addmm: product,
        aten.baddbmm: product,
        aten._fft_c2c: _raw(_fourier),
        aten._linalg_solve_ex: _raw(_system, times=2 / 3),
        aten.linalg_inv_ex: _raw(_system, times=2),
        aten.linalg_cholesky_ex: _raw(_system, times=1 / 3),
        aten.cholesky_inverse: _raw(_system, times=2 / 3),
        aten._linalg_eigh: _raw(_system, times=9),
    }
    torch.backends.mha.set_fastpath_enabled(False)  # a fused encoder is not counted
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter, torch.no_grad():
        work()
    torch.backends.mha.set_fastpath_enabled(True)
    return int(counter.get_total_flops())


def _predictor(name: str, preset: str | None) -> Predictor:
    if preset is None:
        made: Predictor = PREDICTORS[name]()
    else:
        made = LEARNED_PREDICTORS[name].preset(preset)
    return made.eval()


def _histories(count: int) -> torch.Tensor:
    batch = next(iter(wc.simulate.stream("csi-rrg", split="regular", cell="cm_A_ds_100_ms_010", batch_size=count)))
    noise = torch.randn(batch.h_u_hist.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    return batch.h_u_hist + 0.1 * noise


def forward(repeats: int) -> list[Row]:
    """Every predictor beside CSI-4CAST of the published size in torch's own layers, measured in turn on one sample."""
    repeats = max(1, repeats // 3)
    published = PublishedCSI4CAST().eval()
    sequences = torch.view_as_real(_histories(1)[0, :, 0]).flatten(-2)

    def peer() -> torch.Tensor:
        with torch.no_grad():
            return published(sequences)

    heavy = median_seconds(peer, repeats)
    rows = []
    for name, preset, count, stated in FORWARD:
        predictor, history = _predictor(name, preset), _histories(count)

        def ours(predictor: Predictor = predictor, history: torch.Tensor = history) -> torch.Tensor:
            with torch.no_grad():
                return predictor(history).h_pred

        flops = counted_flops(ours) / count
        # The peer takes seconds: it is measured in turn with wichan's CSI-4CAST, and once for the others.
        fast, slow = paired(ours, peer, repeats) if name == "csi4cast" else (median_seconds(ours, repeats), heavy)
        weights = sum(p.numel() for p in predictor.parameters())
        title = name if preset is None else f"{name} {preset}"
        setting = f"{title}, {weights:,} weights, {flops / 1e9:.3g} GFLOP counted (published: {stated})"
        rows.append(Row("prediction", setting, "sample", fast / count, "CSI-4CAST, paper size, plain torch", slow))
    return rows


def stream(repeats: int) -> list[Row]:
    """Samples of the training split without a disk, all 27 cells in turn."""
    source = iter(wc.simulate.stream("csi-rrg", split="train", batch_size=20))
    taken = median_seconds(lambda: [next(source) for _ in range(5)], repeats) / 100
    setting = (
        f"stream of the train split: {1 / taken:.0f} samples/s on a core, 27,000 in {TRAIN_SPLIT * taken / 2:.0f} s on two"
    )
    return [Row("CSI-RRG", setting, "sample", taken, "27,000 in 90 s on two cores:", 2 * LIMIT / TRAIN_SPLIT, ">= 1x")]


def scoring(repeats: int) -> list[Row]:
    """Views a second of the benchmark with the two quick closed forms; 16,200 views are the regular split."""
    cells = ["cm_A_ds_030_ms_010", "cm_D_ds_300_ms_030"]
    benchmark = CSIRRGBenchmark("tdd", cells=cells, categories=["regular"], num_samples=20, workers=1)
    taken = median_seconds(lambda: benchmark.run(["hold", "pad"]), max(1, repeats // 3)) / benchmark.num_views
    setting = f"benchmark of hold and pad: {1 / taken:.0f} views/s on a core, regular split in {16_200 * taken / 60:.1f} min"
    return [Row("CSI-RRG", setting, "view", taken, "16,200 in 15 min:", 900 / 16_200, ">= 1x")]


def prediction(repeats: int) -> list[Row]:
    """All three."""
    return stream(repeats) + forward(repeats) + scoring(repeats)
