"""Published benchmarks as one call each."""

from wichan.registry import Registry

BENCHMARKS = Registry("benchmark", {"csi-rrg": "wichan.evaluation.benchmarks.csi_rrg:CSIRRGBenchmark"})

__all__ = ["BENCHMARKS"]
