"""Benchmarks: `python -m tests.benchmarks [name …]`. No tests; what was measured stands in RESULTS.md."""
