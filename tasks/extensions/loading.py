"""Import a target, check it against its protocol before it is called, call it, and describe the errors of its code."""

from __future__ import annotations

import difflib
import inspect
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from indexmill.storage.errors import IndexmillError, InputError, SourceUnreachable
from indexmill.tasks.extensions.targets import Target, build_missing_module_error


def load_class_factory(target: Target, methods: tuple[str, ...], kind: str) -> Callable[..., Any]:
    """Import a class, or a function whose annotation says that it returns an object of one. Calls nothing.

    So a target that is something else, such as `os:system`, is never called.

    Args:
        target: Where it is.
        methods: What the class must have.
        kind: What it is to be, for errors: `encoder` or `source`.

    Raises:
        InputError: The module cannot be imported, or has no such class or function.
    """
    factory = _import(target)
    found = factory if inspect.isclass(factory) else _get_return_type(factory)
    missing = [method for method in methods if not callable(getattr(found, method, None))]
    if not inspect.isclass(found) or missing:
        raise InputError(
            f"the target is no {kind}",
            where=target.where,
            expected=f"a class with {', '.join(methods)}, or a function that is annotated to return an object of one",
            got=f"{_describe(factory)} without {', '.join(missing)}" if inspect.isclass(found) else _describe(factory),
            next_step=f"correct the target, or its class or annotation ({_DOCS[kind]})",
        )
    return typing.cast("Callable[..., Any]", factory)


def load_function(target: Target) -> Callable[..., Any]:
    """Import a function that takes one argument: a measure. Raises InputError if it is something else."""
    function = _import(target)
    try:
        inspect.signature(function).bind(None)
    except (TypeError, ValueError):
        raise InputError(
            "the target is no measure",
            where=target.where,
            expected="a function that takes one argument, the rankings",
            got=_describe(function),
            next_step=f"correct the target or its parameters ({_DOCS['measure']})",
        ) from None
    return typing.cast("Callable[..., Any]", function)


def takes_parameter(factory: Callable[..., Any], name: str) -> bool:
    """Return whether a class or function has a parameter of this name."""
    try:
        return name in inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return False


def call_factory(target: Target, factory: Callable[..., Any], options: Mapping[str, Any], extras: Mapping[str, Any], key: str) -> Any:
    """Call a target with the options of the config, and with those of `extras` that it has parameters for.

    Args:
        target: Where it is.
        factory: It, imported.
        options: Keyword arguments from the config.
        extras: Further ones.
        key: The config key of the options, for errors.

    Raises:
        InputError: The options do not fit, or the target raised an error.
        SourceUnreachable: It raised a ConnectionError or TimeoutError.
    """
    arguments = {**options, **{name: value for name, value in extras.items() if takes_parameter(factory, name)}}
    try:
        inspect.signature(factory).bind(**arguments)
    except (TypeError, ValueError) as error:
        raise InputError(
            "the options do not fit the target",
            where=f"{key}, {target.where}",
            expected=f"the parameters {inspect.signature(factory)}",
            got=f"{', '.join(arguments) or 'no options'}: {error}",
            next_step=f"correct {key}",
        ) from None
    with translate_failures(target):
        return factory(**arguments)


@contextmanager
def translate_failures(target: Target) -> Iterator[None]:
    """Turn the errors of a target's code into Indexmill's (`describe_failure`)."""
    try:
        yield
    except IndexmillError:
        raise
    except Exception as error:
        raise describe_failure(target, error) from error


def describe_failure(target: Target, error: Exception) -> IndexmillError:
    """Build the error to raise for one that the code of a target raised.

    A ConnectionError or TimeoutError becomes SourceUnreachable, which is retried.
    """
    kind = SourceUnreachable if isinstance(error, ConnectionError | TimeoutError) else InputError
    return kind(
        f"the code of {target.name} cannot reach a service" if kind is SourceUnreachable else f"the code of {target.name} raised an error",
        where=target.where,
        got=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{_locate(target, error)}",
        next_step="run it again later" if kind is SourceUnreachable else "correct the code or its options; --verbose shows the traceback",
    )


def _import(target: Target) -> Any:
    try:
        found: Any = import_module(target.module)
    except ModuleNotFoundError as error:
        if error.name and f"{target.module}.".startswith(f"{error.name}."):
            raise build_missing_module_error(error.name, target.where) from None
        raise describe_failure(target, error) from error
    except Exception as error:
        raise describe_failure(target, error) from error
    for part in target.attribute.split("."):
        if not hasattr(found, part):
            public = (name for name in dir(found) if not name.startswith("_"))
            names = [name for name in public if not isinstance(inspect.getattr_static(found, name, None), ModuleType)]
            nearest = difflib.get_close_matches(part, names, n=3)
            raise InputError(
                "the module has nothing of this name",
                where=target.where,
                expected=f"a class or function in {target.module}",
                got=f"no {part}" + (f"; there is {', '.join(nearest)}" if nearest else ""),
                next_step=f"did you mean {nearest[0]}?" if nearest else "correct the name after the colon",
            )
        found = getattr(found, part)
    return found


def _get_return_type(function: Any) -> Any:
    """Return what a function is annotated to return; None if it is no function, or has no annotation that can be evaluated."""
    try:
        return typing.get_type_hints(function).get("return")
    except Exception:  # an annotation may be any expression
        return None


def _describe(found: Any) -> str:
    if inspect.isclass(found):
        return f"the class {found.__name__}"
    if isinstance(found, ModuleType):
        return f"the module {found.__name__}"
    if not callable(found):
        return f"an object of class {type(found).__name__}"
    try:
        return f"{getattr(found, '__name__', type(found).__name__)}{inspect.signature(found)}"
    except (TypeError, ValueError):
        return f"{getattr(found, '__name__', type(found).__name__)}(…)"


def _locate(target: Target, error: Exception) -> str:
    """Return the last line of the target's package that the error passed through; empty if there is none."""
    package = target.module.partition(".")[0]
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] == package:
            return f" ({Path(frame.f_code.co_filename).name}, line {line}, in {frame.f_code.co_name})"
    return ""


_DOCS = {"encoder": "docs/encoders.md", "source": "docs/sources.md", "measure": "docs/evaluation.md"}
