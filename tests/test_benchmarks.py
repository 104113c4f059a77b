"""Benchmarks do not run with the tests, so they break in silence when something is renamed.

Here each one is imported and started, with its short form, up to its heading; one is run, and every form of plot is drawn.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import BY_HAND, SHORT_FORMS, Outcome, write_page
from benchmarks.plotting import draw_bars, draw_lines, draw_stages, label_points, open_figure, split_panels
from benchmarks.report import Report, describe_processor, make_parser

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "benchmarks"
INSIDE_A_PEER = {"benchmarks.encoding.clip_retrieval_inside"}  # runs in the peer's own virtual environment, and is compiled here
PNG = b"\x89PNG"

IMPORTING = """
import importlib, sys, traceback
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException:
        print(f"{name}: {traceback.format_exc(limit=-2)}")
"""
# Each script must make its report, which prints the heading, before it does anything else.
STARTING = """
import importlib, json, sys
from benchmarks import report

class Reached(BaseException):
    pass

def stop(self, options):
    assert options.json.name == "results.json" and options.plot.name == "plot.png"
    raise Reached

report.Report.__init__ = stop
for name, options in json.loads(sys.argv[1]).items():
    sys.argv = [name, *options, "--json", "results.json", "--plot", "plot.png"]
    try:
        module = importlib.import_module(f"benchmarks.{name}")
        assert callable(module.plot)
        module.main()
        print(f"{name}: no heading")
    except Reached:
        pass
    except (SystemExit, Exception) as error:
        print(f"{name}: {error!r}")
"""


def list_modules() -> list[str]:
    names = []
    for path in sorted(FOLDER.rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def list_scripts() -> list[str]:
    """Modules that can be run: those with a function `main`."""
    paths = sorted(path for path in FOLDER.glob("*.py") if path.name != "__main__.py")
    return [path.stem for path in paths if re.search(r"^def main\(", path.read_text(encoding="utf-8"), re.M)]


def run_python(code: str, *arguments: str, **environment: str) -> str:
    """Run code in the repository; returns its standard output."""
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=900,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.slow
def test_every_module_can_be_imported() -> None:
    names = list_modules()
    assert {"benchmarks.spine", "benchmarks.encoding.report", "benchmarks.evaluating.work", *INSIDE_A_PEER} <= set(names)
    for name in INSIDE_A_PEER:
        path = REPOSITORY / (name.replace(".", "/") + ".py")
        compile(path.read_text(encoding="utf-8"), path, "exec")
    assert run_python(IMPORTING, *(name for name in names if name not in {*INSIDE_A_PEER, "benchmarks.__main__"})) == ""


@pytest.mark.slow
def test_every_script_has_heading_options_and_plot() -> None:
    """Started with the options of its short form, which must exist, and with those that all have."""
    forms = {form.split()[0]: form.format(out="out").split()[1:] for form in SHORT_FORMS.values()}
    forms |= {"million": ["--data", "data"], "serve_peer": ["--peer", "peer"]}
    assert sorted(forms) == list_scripts()
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")  # or `index` starts again
    assert run_python(STARTING, json.dumps(forms), **threads) == ""


@pytest.mark.parametrize("name", list_scripts())
def test_a_script_uses_the_report(name: str) -> None:
    """What the slow test runs, read from the source: the parser of all, a heading, the end, and a plot of plain results."""
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert {"make_parser", "Report"} <= called
    methods = {node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}
    assert "finish" in methods
    assert "ArgumentParser" not in methods
    plots = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    plots |= {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert "plot" in plots
    assert f"python -m benchmarks.{name}" in (ast.get_docstring(tree) or "")


def test_every_script_is_part_of_make_bench_or_says_why_not() -> None:
    assert {form.split()[0] for form in SHORT_FORMS.values()} | set(BY_HAND) == set(list_scripts())
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8").split("\nbench: ")[1].split("\n\n")[0]
    assert "python -m benchmarks --out $(BENCH)" in makefile


def test_the_page_of_benchmarks_names_only_scripts_that_exist() -> None:
    named = set(re.findall(r"python -m benchmarks\.(\w+)", (REPOSITORY / "docs" / "benchmarks.md").read_text(encoding="utf-8")))
    assert named
    assert named <= set(list_scripts())


def test_one_script_prints_its_heading_and_writes_json_and_plot(tmp_path: Path) -> None:
    options = ["--depths", "3", "120", "--queries", "20", "--items", "2000", "--dim", "16", "--repeats", "1"]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.exact_search", *options, "--json", tmp_path / "r.json", "--plot", tmp_path / "p.png"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["command", "date", "processor", "versions", "load"]
    assert "python -m benchmarks.exact_search --depths 3 120 --queries 20" in lines[0]
    assert re.fullmatch(r"load +[\d.]+ at the start, [\d.]+ at the end", lines[-1])
    content = json.loads((tmp_path / "r.json").read_text())
    assert len(content["heading"]["load"]) == 2
    assert [row["depth"] for row in content["results"]["depths"]] == [3, 120]
    assert (tmp_path / "p.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("model\t\t: 207\nmodel name\t: Intel(R) Xeon(R) Processor\nflags\t\t: avx2 avx512f avx512_bf16 amx_tile\n",
         "Intel Xeon (model 207), AMX"),
        ("model\t\t: 17\nmodel name\t: AMD EPYC 9R14\nflags\t\t: avx2 avx512f avx512_bf16\n",
         "AMD EPYC 9R14 (model 17), AVX-512 with bfloat16"),
        ("model\t\t: 49\nmodel name\t: AMD EPYC 7R32\nflags\t\t: fma avx2\n", "AMD EPYC 7R32 (model 49), AVX2"),
        ("model name\t: Arm\nFeatures\t: fp asimd sve\n", "Arm, SVE"),
    ],
)  # fmt: skip
def test_the_processor_is_named_with_its_widest_instructions(cpuinfo: str, expected: str) -> None:
    assert describe_processor(cpuinfo) == expected


def test_without_options_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Report(make_parser("").parse_args([])).finish({}, lambda results, figure: pytest.fail("drawn"))
    assert list(tmp_path.iterdir()) == []
    assert "processor" in capsys.readouterr().out


def test_names_of_lines_do_not_overlap(tmp_path: Path) -> None:
    """Two lines end at the same point: their names are written one above the other."""
    with open_figure(tmp_path / "plot.png", "caption") as figure:
        (axes,) = split_panels(figure, 1, height=3)
        draw_lines(axes, {"first": ([1, 2], [1, 2]), "second": ([1, 2], [3, 2])}, xlabel="x", ylabel="y")
        figure.canvas.draw()
        boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 2
    assert not boxes[0].overlaps(boxes[1])


def test_every_form_of_plot_is_drawn_as_png_and_svg(tmp_path: Path) -> None:
    for suffix in ("png", "svg"):
        with open_figure(tmp_path / f"plot.{suffix}", "caption") as figure:
            bars, points = split_panels(figure, 2, height=4)
            draw_bars(bars, {"a": 1.0, "b": 0.0}, unit="seconds", targets=[0.5, None])
            points.plot([1], [1])
            label_points(points, [(1, 1, "name", "black")])
        assert (tmp_path / f"plot.{suffix}").stat().st_size > 1000
    with open_figure(tmp_path / "stages.png", "caption") as figure:
        draw_stages(figure, {"first": {"encode": 2.0, "train": 1.0}, "second": {"train": 1.0}})
        assert [axes.get_title("left") for axes in figure.axes] == ["first: 3.0 s", "second: 1.0 s"]


def test_the_page_shows_what_was_drawn_and_says_what_was_not(tmp_path: Path) -> None:
    (tmp_path / "spine.txt").write_text("a < b")
    write_page([Outcome("spine", "drawn"), Outcome("encode", "skipped: no <data>"), Outcome("serve", "failed with status 1")], tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "spine.png" in page
    assert "a &lt; b" in page
    assert "no &lt;data&gt;" in page
    assert "serve.png" not in page


def test_the_parser_refuses_what_is_no_option() -> None:
    with pytest.raises(SystemExit):
        make_parser("").parse_args(["--out", "folder"])
    assert isinstance(make_parser("").parse_args(["--json", "a"]), argparse.Namespace)
