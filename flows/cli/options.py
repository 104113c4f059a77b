"""Options that commands share, and how a command ends when it fails."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from indexmill.flows.environment import ROOT_VARIABLE
from indexmill.storage.errors import IndexmillError
from indexmill.storage.stopping import Stopped, build_stopped_error

if TYPE_CHECKING:
    from indexmill.storage.root import Root

BUILD, LOOK, SERVE, KEEP = "Build", "Look", "Serve", "Keep"  # panels of `indexmill --help`

ConfigArgument = Annotated[str, typer.Argument(help="The name of a bundled pipeline (see: indexmill pipelines), or a YAML file.")]
NameArgument = Annotated[str, typer.Argument(help="The index.")]
RootOption = Annotated[str, typer.Option("--root", help="The directory or object-store URL that holds everything.", envvar=ROOT_VARIABLE)]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the config (dotted.key=value).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show Prefect's log, and tracebacks of errors.")]


@contextmanager
def exit_on_error(*, verbose: bool = False) -> Iterator[None]:
    """Turn an error in the block into a message on standard error and an exit code.

    Indexmill's own errors have their codes (`indexmill.storage.errors`); 130 is Ctrl-C, 143 SIGTERM, and 1 an
    unexpected error.

    Args:
        verbose: Print the traceback before the message.
    """
    try:
        yield
    except (typer.Exit, typer.Abort, SystemExit):
        raise
    except BaseException as error:
        from indexmill.flows.cli.render import print_warning

        if verbose:
            traceback.print_exception(error)
        message, code = _format_error(error)
        print_warning(message)
        # The traceback's frames hold connections, which would print warnings when the interpreter exits.
        error.__traceback__ = error.__context__ = error.__cause__ = None
        raise typer.Exit(code) from None


def _format_error(error: BaseException) -> tuple[str, int]:
    if isinstance(error, KeyboardInterrupt):
        error = build_stopped_error(signal.SIGINT)
    if isinstance(error, IndexmillError):
        return str(error) if isinstance(error, Stopped) else f"error: {error}", error.exit_code
    return f"error: {type(error).__name__}: {error}\n  next:     this is a bug in Indexmill: run it again with --verbose and report it", 1


@contextmanager
def open_existing_root(root: str, index: str | None = None, *, verbose: bool = False) -> Iterator[Root]:
    """Open an existing root, for a command that runs no flow, and exit on errors in the block.

    Args:
        root: The directory.
        index: An index that must have a snapshot; the error lists those that do.
        verbose: Print the traceback of an error.
    """
    from indexmill.storage.disk_errors import translate_disk_errors
    from indexmill.storage.permissions import apply_umask
    from indexmill.storage.root import Root

    with exit_on_error(verbose=verbose):
        apply_umask()
        storage_root = Root(root, create=False)
        try:
            with translate_disk_errors(storage_root.path):
                if index is not None:
                    from indexmill.flows.snapshots import check_index

                    check_index(storage_root, index)
                yield storage_root
        finally:
            storage_root.close()
