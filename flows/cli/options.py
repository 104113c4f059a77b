"""Options that all commands share, and the exit code and message for an error."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from indexmill.flows.environment import ROOT_VARIABLE
from indexmill.storage.errors import IndexmillError
from indexmill.storage.stopping import Stopped, build_stopped_error

if TYPE_CHECKING:
    from indexmill.storage.root import Root

RootOption = Annotated[str, typer.Option("--root", help="Where everything lies.", envvar=ROOT_VARIABLE)]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the config, as dotted.key=value.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
ForceOption = Annotated[str | None, typer.Option("--force", metavar="REASON", help="Publish even if the gate refuses; keeps the reason.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show Prefect's log, and tracebacks of errors.")]
NameArgument = Annotated[str, typer.Argument(help="The index.")]


class exit_on_error:
    """Turn what ends a command into a message on standard error and an exit code; with --verbose, after the traceback.

    Indexmill's own errors have their codes; 130 is Ctrl-C and 143 SIGTERM; 1 is a fault that nobody foresaw.
    """

    def __init__(self, verbose: bool) -> None:
        self.verbose = verbose

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, typer.Exit | typer.Abort | SystemExit):
            return
        if self.verbose:
            traceback.print_exception(error)
        message, code = _format_error(error)
        print(message, file=sys.stderr)
        # The traceback holds the frames, and with them connections that would complain when Python ends.
        error.__traceback__ = error.__context__ = error.__cause__ = None
        raise typer.Exit(code)


def _format_error(error: BaseException) -> tuple[str, int]:
    if isinstance(error, KeyboardInterrupt):
        error = build_stopped_error(signal.SIGINT)
    if isinstance(error, IndexmillError):
        return str(error) if isinstance(error, Stopped) else f"error: {error}", error.exit_code
    return f"error: {type(error).__name__}: {error}\n  next:     this should not happen: run it again with --verbose and report it", 1


@contextmanager
def open_existing_root(root: str) -> Iterator[Root]:
    """A root that is there, for a command that runs no flow; what goes wrong in the block is told."""
    from indexmill.storage.disk_errors import translate_disk_errors
    from indexmill.storage.permissions import apply_umask
    from indexmill.storage.root import Root

    with exit_on_error(verbose=False):
        apply_umask()
        storage_root = Root(root, create=False)
        try:
            with translate_disk_errors(storage_root.path):
                yield storage_root
        finally:
            storage_root.close()
