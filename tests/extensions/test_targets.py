"""A target is found with its version before anything of it is imported, and checked before it is called."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from indexmill.configs.loading import load_config
from indexmill.flows.cli.app import app
from indexmill.flows.preflight import check_extensions
from indexmill.storage.errors import InputError, SourceUnreachable
from indexmill.tasks.extensions.loading import call_factory, load_class_factory, load_function, translate_failures
from indexmill.tasks.extensions.targets import Target, _find_distributions, find_target
from tests.extensions.packages import install_package

CODE = """
from __future__ import annotations

WITNESS = []

class Encoder:
    def __init__(self, dim, scale: float = 1.0):
        self.dim, self.scale = dim, scale

    def encode_texts(self, texts): ...

class Nothing: ...

class Outer:
    class Encoder(Encoder): ...

def make_encoder(dim: int) -> Encoder:
    return Encoder(dim)

def make_anything(dim: int):
    WITNESS.append(dim)

def make_nothing() -> Nothing:
    WITNESS.append("nothing")

def measure(rankings): ...

def measure_two(rankings, other): ...

MADE = Encoder(3)

def fail(kind):
    raise kind("no such   luck")
"""


def find(name: str, group: str = "indexmill.encoders") -> Target:
    return find_target(name, group=group, key="encoder.target")


@pytest.fixture
def package(site: Path) -> Path:
    return install_package(site, "acme-tools", {"code": CODE}, entry_points={"indexmill.encoders": {"acme": "acme_tools.code:Encoder"}})


def test_a_target_has_the_version_of_its_distribution(package: Path) -> None:
    """By module or by entry point; a new version is seen, and nothing is imported."""
    by_module, by_name = find("acme_tools.code:Encoder"), find("acme")
    assert by_module.versions == by_name.versions == {"acme-tools": "1.0"}
    assert by_module.name == by_name.name == "acme_tools.code:Encoder"
    assert "acme_tools" not in sys.modules
    (package / "acme_tools-1.0.dist-info").rename(package / "acme_tools-1.1.dist-info")
    (package / "acme_tools-1.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-tools\nVersion: 1.1\n")
    assert find("acme_tools.code:Encoder").versions == {"acme-tools": "1.1"}


def test_a_namespace_of_several_distributions_has_all_their_versions(package: Path) -> None:
    """Which of them has the module does not matter: any may change it."""
    install_package(package, "acme-more", {}, version="2.0")
    (package / "acme_more-2.0.dist-info" / "top_level.txt").write_text("acme_tools\n")
    assert find("acme_tools.code:Encoder").versions == {"acme-more": "2.0", "acme-tools": "1.0"}


@pytest.mark.parametrize(("module", "line"), [("__init__", '__version__ = "3"'), ("code", '__version__: str = "3"')])
def test_a_module_of_no_distribution_declares_its_version(site: Path, module: str, line: str) -> None:
    """In the module, or in a package above it; the code is read and not run."""
    (site / "loose").mkdir()
    for name in ("__init__", "code"):
        (site / "loose" / f"{name}.py").write_text("raise SystemExit\n" + (line if name == module else ""))
    assert list(find("loose.code:Encoder").versions.values()) == ["3"]


@pytest.mark.parametrize("line", ["", '__version__ = ".".join("12")', "__version__ = 3", '__version__ = "1'])
def test_a_module_without_a_version_is_refused(site: Path, line: str) -> None:
    """No literal text, or no Python: the message names the file, and how to declare one."""
    (site / "loose.py").write_text(line)
    with pytest.raises(InputError, match="version of a module cannot be determined") as failed:
        find("loose:Encoder")
    assert str(site / "loose.py") in failed.value.got
    assert "__version__" in failed.value.next_step


@pytest.mark.parametrize(("name", "message"), [
    ("acne", "did you mean acme"),
    ("nowhere:Encoder", "no module named nowhere"),
    ("json.nowhere:Encoder", "no module named json.nowhere"),
    ("os:system", "version of a module cannot be determined"),
])  # fmt: skip
def test_what_is_not_there_is_named(package: Path, name: str, message: str) -> None:
    """Unknown entry points with the nearest name, missing modules, and the standard library, which is no extension."""
    with pytest.raises(InputError, match=message):
        find(name)


def test_two_entry_points_of_one_name_are_refused(package: Path) -> None:
    """Which one was meant cannot be known."""
    install_package(package, "other", {"code": CODE}, entry_points={"indexmill.encoders": {"acme": "other.code:Encoder"}})
    with pytest.raises(InputError, match="several distributions") as failed:
        find("acme")
    assert failed.value.got == "acme_tools.code:Encoder of acme-tools, other.code:Encoder of other"


def load(name: str) -> Any:
    return load_class_factory(find(f"acme_tools.code:{name}"), ("encode_texts",), "encoder")


@pytest.mark.usefixtures("package")
def test_a_class_or_a_function_annotated_to_return_one_is_a_factory() -> None:
    """Also a class inside another."""
    for name in ("Encoder", "Outer.Encoder", "make_encoder"):
        target = find(f"acme_tools.code:{name}")
        assert call_factory(target, load(name), {"dim": 3}, {}, "encoder.options").dim == 3


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(("name", "got"), [
    ("Nothing", "the class Nothing without encode_texts"),
    ("make_nothing", r"make_nothing\(\).* without encode_texts"),
    ("make_anything", r"make_anything\(dim"),
    ("WITNESS", "an object of class list"),
    ("MADE", "an object of class Encoder"),
])  # fmt: skip
def test_anything_else_is_refused_and_not_called(name: str, got: str) -> None:
    """A config or a manifest can name any function of any package."""
    with pytest.raises(InputError, match="the target is no encoder") as failed:
        load(name)
    assert re.match(got, failed.value.got)
    assert sys.modules["acme_tools.code"].WITNESS == []


@pytest.mark.usefixtures("package")
def test_a_misspelled_name_has_the_nearest_one() -> None:
    """In the module."""
    with pytest.raises(InputError, match="did you mean Encoder"):
        load("Encodr")


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(("options", "message"), [
    ({}, "missing a required argument: 'dim'"),
    ({"dim": 3, "size": 4}, "unexpected keyword argument 'size'"),
])  # fmt: skip
def test_options_that_do_not_fit_are_refused_before_the_call(options: dict[str, Any], message: str) -> None:
    """With the parameters that there are."""
    with pytest.raises(InputError, match=message) as failed:
        call_factory(find("acme_tools.code:Encoder"), load("Encoder"), options, {}, "encoder.options")
    assert "(dim, scale: 'float' = 1.0)" in failed.value.expected


@pytest.mark.usefixtures("package")
def test_extras_reach_only_the_parameters_of_their_names() -> None:
    """What a target does not ask for it does not get."""
    target = find("acme_tools.code:Encoder")
    made = call_factory(target, load("Encoder"), {"dim": 3}, {"scale": 2.0, "precision": "float32"}, "encoder.options")
    assert made.scale == 2.0


@pytest.mark.usefixtures("package")
def test_a_measure_takes_one_argument() -> None:
    """Neither two, nor is it anything but a function."""
    assert load_function(find("acme_tools.code:measure")).__name__ == "measure"
    for name in ("measure_two", "WITNESS"):
        with pytest.raises(InputError, match="the target is no measure"):
            load_function(find(f"acme_tools.code:{name}"))


@pytest.mark.usefixtures("package")
def test_errors_of_a_targets_code_name_its_line() -> None:
    """Those of the network are retried; others are for its author."""
    target = find("acme_tools.code:fail")
    fail = import_module("acme_tools.code").fail
    line = CODE[: CODE.index("    raise kind")].count("\n") + 1
    for kind, error_class in ((ValueError, InputError), (ConnectionResetError, SourceUnreachable), (TimeoutError, SourceUnreachable)):
        with pytest.raises(error_class) as failed, translate_failures(target):
            fail(kind)
        assert failed.value.got == f"{kind.__name__}: no such luck (code.py, line {line}, in fail)"


@pytest.mark.parametrize(("code", "message"), [
    ("import nowhere_else", "No module named 'nowhere_else'"),
    ("1 / 0", "ZeroDivisionError: division by zero"),
])  # fmt: skip
def test_a_module_that_cannot_be_imported_says_why(site: Path, code: str, message: str) -> None:
    """A missing dependency is not a missing target."""
    install_package(site, "acme-broken", {"code": code})
    with pytest.raises(InputError, match=message) as failed:
        load_function(find("acme_broken.code:measure"))
    assert "(code.py, line 1, in <module>)" in failed.value.got


def test_distributions_are_those_that_importlib_finds(site: Path) -> None:
    """With top_level.txt and with a list of files only, a module that is no package, and a namespace of many."""
    expected = packages_distributions()
    names = ["torch", "numpy", "yaml", "six", "google", "PIL", "pandas", "faiss", "nowhere"]
    ours = {name: list(_find_distributions(name)) for name in names}
    assert ours == {name: sorted(set(expected.get(name, []))) for name in names}
    assert len(ours["google"]) > 1


def test_check_imports_what_a_config_names(package: Path, tmp_path: Path) -> None:
    """Encoder, source and measures; a config with nothing of one's own imports nothing for this."""
    config = tmp_path / "acme.yaml"
    text = """
name: acme
dataset: {source: stdlib}
encoder: {kind: python, target: acme, modalities: [text], options: {dim: 3}}
evaluation: {measures: [acme_tools.code:measure]}
"""
    config.write_text(text)
    assert load_config(str(config)).has_extensions
    check_extensions(load_config(str(config)))
    for change in ("encoder.target=acme_tools.code:Nothing", "evaluation.measures=[acme_tools.code:measure_two]"):
        with pytest.raises(InputError, match="the target is no"):
            check_extensions(load_config(str(config), [change]))
    changes = ["dataset.source=python", "dataset.target=acme_tools.code:Encoder"]
    with pytest.raises(InputError, match="the target is no source"):
        check_extensions(load_config(str(config), changes))
    result = CliRunner().invoke(app, ["check", str(config), "--set", "encoder.target=acne"])
    assert result.exit_code == 2
    assert "did you mean acme" in result.output
    assert not load_config("demo-text").has_extensions
