"""Benchmarks: `python -m irlib.bench attacks`, `python -m irlib.bench interactions`."""
