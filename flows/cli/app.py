"""The command `indexmill`. Commands import heavy libraries themselves, so that the command line starts fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from indexmill.flows.cli.build import build_commands
from indexmill.flows.cli.options import LOOK, SERVE, JsonOption, NameArgument, RootOption, VerboseOption, exit_on_error, open_existing_root
from indexmill.flows.cli.snapshots import snapshot_commands
from indexmill.flows.environment import DEFAULT_ROOT, prepare_environment

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")
index_commands = typer.Typer()


def _print_version(is_given: bool) -> None:
    if is_given:
        from indexmill import __version__
        from indexmill.flows.cli.render import print_line

        print_line(f"indexmill {__version__}")
        raise typer.Exit


@app.callback()
def describe_app(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Rebuild embedding indexes every night, and publish them only when they are good enough."""


@index_commands.command(rich_help_panel=LOOK)
def search(
    name: NameArgument,
    query: Annotated[str | None, typer.Argument(help="The text to search for, if the index's encoder takes texts.")] = None,
    image: Annotated[Path | None, typer.Option(help="The image to search for, if the index's encoder takes images.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="The number of results.")] = 10,
    label: Annotated[str | None, typer.Option(help="Return only items with this label.")] = None,
    snapshot: Annotated[str | None, typer.Option(help="The snapshot to search; the live one by default.")] = None,
    show: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the results to an HTML page.")] = None,
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Search an index by text or image."""
    with open_existing_root(root, name, verbose=verbose) as storage_root:
        prepare_environment(storage_root.path, verbose=verbose)
        from indexmill.flows.cli.render import print_result, print_search_results
        from indexmill.flows.cli.search import search_index

        answer = search_index(root, name, text=query, image=image, k=k, label=label, snapshot=snapshot, show=show)
        print_result(answer, as_json, print_search_results)


@index_commands.command(rich_help_panel=LOOK)
def history(
    name: NameArgument,
    metrics: Annotated[list[str] | None, typer.Option("--metric", "-m", help="A metric to show; may be repeated.")] = None,
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Show the metrics of an index from build to build.

    Includes builds whose snapshots have been removed.
    """
    from indexmill.flows.cli.render import print_result
    from indexmill.flows.cli.render_snapshots import print_history
    from indexmill.flows.snapshots import read_history

    with open_existing_root(root) as storage_root:
        builds = read_history(storage_root, name)
        values = [build.model_dump(mode="json") for build in builds]
        print_result(values, as_json, lambda _: print_history(builds, metrics or []))


@index_commands.command(rich_help_panel=LOOK)
def catalog(root: RootOption = DEFAULT_ROOT, as_json: JsonOption = False) -> None:
    """List all indexes and their builds; rebuild the DuckDB catalog."""
    from indexmill.flows.cli.render import print_builds, print_result, print_warning
    from indexmill.storage.catalog import find_catalog_damage, list_builds, rebuild

    with open_existing_root(root) as storage_root:
        if reason := find_catalog_damage(storage_root):
            print_warning(f"the catalog was damaged; rebuilding it from the manifests: {reason}")
        rebuild(storage_root)
        print_result(list_builds(storage_root), as_json, lambda rows: print_builds(rows, storage_root.catalog))


@index_commands.command(rich_help_panel=SERVE)
def serve(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="The indexes.")],
    host: Annotated[
        str, typer.Option(help="The address; other than this machine's own, it needs a token in INDEXMILL_TOKEN.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port.")] = 8900,
    root: RootOption = DEFAULT_ROOT,
    verbose: VerboseOption = False,
) -> None:
    """Serve indexes over HTTP, with a search page at /.

    New snapshots are loaded as soon as they are published.
    """
    with exit_on_error(verbose=verbose):
        from indexmill.storage.root import get_root_folder

        prepare_environment(get_root_folder(root), verbose=verbose)
        from indexmill.serve.http.server import run_server

        run_server(root, names, host, port)


@index_commands.command(rich_help_panel=SERVE)
def merge(
    name: NameArgument,
    output: Annotated[Path | None, typer.Option(help="The file to write; NAME.faiss in the current directory by default.")] = None,
    memory: Annotated[str, typer.Option(help="The most memory to use; larger inverted lists are merged on disk, beside the file.")] = "4G",
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Merge the live snapshot into one file for FAISS."""
    from indexmill.flows.cli.render import print_merge_result, print_result

    with open_existing_root(root, name, verbose=verbose) as storage_root:
        from indexmill.flows.cli.merge import merge_index

        result = merge_index(storage_root, name, output or Path(f"{name}.faiss"), memory)
        print_result(result, as_json, print_merge_result)


@index_commands.command(rich_help_panel=SERVE)
def export(
    name: NameArgument,
    to: Annotated[str | None, typer.Option(help="The directory or URL to write to.")] = None,
    export_format: Annotated[
        str | None, typer.Option("--format", metavar="FORMAT", help="parquet, npy, faiss, hnswlib, lancedb, pgvector or qdrant.")
    ] = None,
    table: Annotated[str | None, typer.Option(help="The table or collection; the index's name, with underscores, by default.")] = None,
    snapshot: Annotated[str | None, typer.Option(help="The snapshot; the live one by default.")] = None,
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Export a snapshot: vectors, ids and metadata.

    Without --to and --format, run the exports of the pipeline (publish.export) that failed or are out of date. See
    docs/exports.md.
    """
    from indexmill.flows.cli.progress import show_progress
    from indexmill.flows.cli.render import print_exports, print_result

    with open_existing_root(root, name, verbose=verbose) as storage_root:
        from indexmill.flows.exports import raise_if_failed, run_exports

        with show_progress():
            results = run_exports(storage_root, name, to=to, export_format=export_format, table=table, snapshot_id=snapshot)
        answer = {"name": name, "exports": [result.model_dump() for result in results]}
        print_result(answer, as_json, print_exports)
        raise_if_failed(results, name, "run this command again; after a change of publish.export, build again instead")


# The order in which the panels of --help appear.
app.add_typer(build_commands)
app.add_typer(index_commands)
app.add_typer(snapshot_commands)


def main() -> None:
    """Run the command line."""
    app(prog_name="indexmill")


if __name__ == "__main__":
    main()
