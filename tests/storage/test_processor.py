"""The kernels that FAISS's OpenBLAS takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from indexmill.storage.processor import KERNELS, KERNELS_VARIABLE, choose_blas_kernels

PROCESSOR = "processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nflags\t\t: fpu {flags}\n\nprocessor\t: 1\nflags\t: none\n"
AVX2, AVX512 = "avx2 fma", "avx2 fma " + " ".join(sorted(KERNELS["GenuineIntel"]["SkylakeX"]))
SHOW = "import indexmill, faiss, json, threadpoolctl; print(json.dumps(threadpoolctl.threadpool_info()))"


@pytest.mark.parametrize(
    ("vendor", "family", "flags", "kernels"),
    [
        ("GenuineIntel", 6, AVX512, "SkylakeX"),
        ("GenuineIntel", 6, AVX2, "Haswell"),
        ("GenuineIntel", 6, "avx2 fma avx512f", "Haswell"),  # half of it, as on Knights Landing
        ("GenuineIntel", 6, "sse2", None),
        ("AuthenticAMD", 26, AVX512, "Zen"),
        ("AuthenticAMD", 21, AVX2, None),  # Excavator, which OpenBLAS knows
        ("HygonGenuine", 24, AVX2, None),
    ],
)
def test_kernels_are_those_of_the_processor(
    vendor: str, family: int, flags: str, kernels: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KERNELS_VARIABLE, raising=False)
    (tmp_path / "cpuinfo").write_text(PROCESSOR.format(vendor=vendor, family=family, flags=flags))
    choose_blas_kernels(tmp_path / "cpuinfo")
    assert os.environ.get(KERNELS_VARIABLE) == kernels
    monkeypatch.delenv(KERNELS_VARIABLE, raising=False)


def test_a_choice_of_the_user_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is no description of the processor."""
    monkeypatch.setenv(KERNELS_VARIABLE, "Sandybridge")
    (tmp_path / "cpuinfo").write_text(PROCESSOR.format(vendor="GenuineIntel", family=6, flags=AVX512))
    choose_blas_kernels(tmp_path / "cpuinfo")
    choose_blas_kernels(tmp_path / "none")
    assert os.environ[KERNELS_VARIABLE] == "Sandybridge"


def test_faiss_multiplies_with_avx_where_the_processor_has_it() -> None:
    """In a process of its own that imports Indexmill first, as all commands and workers do."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "avx2" not in cpuinfo or not any(vendor in cpuinfo for vendor in KERNELS):
        pytest.skip("needs a processor of Intel or AMD with AVX2")
    environment = {name: value for name, value in os.environ.items() if name != KERNELS_VARIABLE}
    shown = json.loads(subprocess.run([sys.executable, "-c", SHOW], env=environment, capture_output=True, check=True, text=True).stdout)
    (blas,) = [entry for entry in shown if entry["internal_api"] == "openblas" and "faiss" in entry["filepath"]]
    assert blas["architecture"] not in ("Prescott", "Nehalem", "Sandybridge")
