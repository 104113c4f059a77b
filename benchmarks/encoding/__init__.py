"""The parts of `benchmarks/encode.py`: models, variants, peers, and how what they took is shown."""
