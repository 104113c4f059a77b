"""The parts of `benchmarks/evaluate.py`."""
