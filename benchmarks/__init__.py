"""Measurements of Indexmill and of its peers; `python -m benchmarks` runs all of them in a short form."""

import indexmill  # noqa: F401 - names the kernels of FAISS's OpenBLAS, which must happen before any benchmark imports FAISS
