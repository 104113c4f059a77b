"""The parts of `benchmarks/encode.py`: models, variants, peers, results and report."""
