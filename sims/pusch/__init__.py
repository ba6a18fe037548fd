"""Parts of the PUSCH conformance experiment (``sims/conformance.py``): cases, link, receivers, statistics, report."""
