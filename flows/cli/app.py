"""The command `indexmill`. Commands import heavy libraries themselves, so that the command line starts fast."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from indexmill.flows.cli.options import (
    ForceOption,
    JsonOption,
    NameArgument,
    RootOption,
    SetOption,
    VerboseOption,
    exit_on_error,
    open_existing_root,
)
from indexmill.flows.cli.snapshots import snapshot_commands
from indexmill.flows.environment import DEFAULT_ROOT, prepare_environment

app = typer.Typer(
    help="Rebuild embedding indexes every night, and publish them only when they are good.",
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
)  # fmt: skip

app.add_typer(snapshot_commands)


@app.command()
def build(
    config: Annotated[str, typer.Argument(help="A pipeline's name (indexmill pipelines) or the path of a YAML file.")],
    root: RootOption = DEFAULT_ROOT,
    settings: SetOption = None,
    rehash: Annotated[bool, typer.Option("--rehash", help="Read every file again, whatever its size and time say.")] = False,
    force: ForceOption = None,
    refresh: Annotated[str | None, typer.Option("--refresh", metavar="STAGE", help="Redo a stage and what follows it.")] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Build the index of one pipeline and publish it."""
    from indexmill.flows.cli.build import run_build
    from indexmill.flows.cli.render import print_summary

    with exit_on_error(verbose):
        summary = run_build(config, root, settings or [], rehash=rehash, force=force, refresh=refresh, verbose=verbose)
        print(json.dumps(summary)) if as_json else print_summary(summary)


@app.command()
def plan(
    config: Annotated[str, typer.Argument(help="A pipeline's name (indexmill pipelines) or the path of a YAML file.")],
    root: RootOption = DEFAULT_ROOT,
    settings: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Say what a build would do: items to encode, seconds, bytes, memory. Encodes and publishes nothing."""
    from indexmill.flows.cli.build import run_plan
    from indexmill.flows.cli.render import print_plan

    with exit_on_error(verbose):
        found = run_plan(config, root, settings or [], verbose=verbose)
        print(json.dumps(found)) if as_json else print_plan(found)
        if found["obstacles"]:
            raise typer.Exit(2)


@app.command()
def study(
    config: Annotated[str, typer.Argument(help="A pipeline's name (indexmill pipelines) or the path of a YAML file.")],
    root: RootOption = DEFAULT_ROOT,
    settings: SetOption = None,
    out: Annotated[Path | None, typer.Option(help="The folder for table, page and plots; studies/NAME below the root by default.")] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Compare encoders and indexes on a pipeline's data: recall, relevance, speed, memory. Publishes nothing."""
    from indexmill.flows.cli.build import run_study
    from indexmill.flows.cli.render import print_study

    with exit_on_error(verbose):
        found = run_study(config, root, settings or [], str(out.resolve()) if out else None, verbose=verbose)
        print(json.dumps(found)) if as_json else print_study(found)


@app.command()
def search(
    name: NameArgument,
    query: Annotated[str | None, typer.Argument(help="A text, for an index of texts, or of images by open-clip.")] = None,
    image: Annotated[Path | None, typer.Option(help="An image, for an index of images.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many results.")] = 10,
    label: Annotated[str | None, typer.Option(help="Only items with this label.")] = None,
    snapshot: Annotated[str | None, typer.Option(help="Another snapshot than the live one.")] = None,
    show: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the results as a page (HTML) to look at.")] = None,
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Ask a snapshot of an index, the live one by default."""
    with exit_on_error(verbose):
        prepare_environment(Path(root).resolve(), verbose=verbose)
        from indexmill.flows.cli.render import print_results
        from indexmill.flows.cli.search import search_index

        answer = search_index(root, name, text=query, image=image, k=k, label=label, snapshot=snapshot, show=show)
        print(json.dumps(answer)) if as_json else print_results(answer)


@app.command()
def serve(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="The indexes.")],
    host: Annotated[str, typer.Option(help="Any other address than this machine's needs a token in INDEXMILL_TOKEN.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8900,
    root: RootOption = DEFAULT_ROOT,
    verbose: VerboseOption = False,
) -> None:
    """Answer searches over HTTP, with a page at /; new snapshots are taken up as they are published."""
    with exit_on_error(verbose):
        prepare_environment(Path(root).resolve(), verbose=verbose)
        from indexmill.serve.http.server import run_server

        run_server(root, names, host, port)


@app.command()
def merge(
    name: NameArgument,
    output: Annotated[Path | None, typer.Option(help="The file to write; NAME.faiss in this directory by default.")] = None,
    memory: Annotated[str, typer.Option(help="Lists larger than this are merged on disk, into a file beside it.")] = "4G",
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write the live snapshot of an index as one FAISS file, for those who have FAISS and nothing else."""
    from indexmill.flows.cli.merge import merge_index
    from indexmill.flows.cli.render import print_merge_result

    with exit_on_error(verbose):
        answer = merge_index(root, name, output or Path(f"{name}.faiss"), memory)
        print(json.dumps(answer)) if as_json else print_merge_result(answer)


@app.command()
def pipelines(as_json: JsonOption = False) -> None:
    """List the pipelines that come with Indexmill."""
    from indexmill.configs.loading import list_bundled_pipelines, load_config
    from indexmill.flows.cli.render import print_pipelines

    with exit_on_error(verbose=False):
        configs = [load_config(name) for name in list_bundled_pipelines()]
        if as_json:
            print(json.dumps([config.model_dump(mode="json", by_alias=True) for config in configs]))
        else:
            print_pipelines(configs)


@app.command()
def check(config: str, settings: SetOption = None, as_json: JsonOption = False) -> None:
    """Read a config and show it with every default filled in."""
    import yaml

    from indexmill.configs.loading import load_config

    with exit_on_error(verbose=False):
        values = load_config(config, settings or []).model_dump(mode="json", by_alias=True)
        print(json.dumps(values) if as_json else yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip())


@app.command()
def catalog(root: RootOption = DEFAULT_ROOT, as_json: JsonOption = False) -> None:
    """Rebuild the DuckDB catalog from the manifests and list the builds in it."""
    from indexmill.flows.cli.render import print_builds
    from indexmill.storage.catalog import find_catalog_damage, list_builds, rebuild

    with open_existing_root(root) as storage_root:
        if reason := find_catalog_damage(storage_root):
            print(f"the catalog was damaged and is made anew from the manifests: {reason}", file=sys.stderr)
        rebuild(storage_root)
        rows = list_builds(storage_root)
        print(json.dumps(rows)) if as_json else print_builds(rows, storage_root.catalog)


@app.command()
def history(
    name: NameArgument,
    measure: Annotated[list[str] | None, typer.Option("--measure", "-m", help="A measure to show; the usual ones by default.")] = None,
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Show how the figures of an index went from build to build, also of snapshots that are gone."""
    from indexmill.flows.cli.render_snapshots import print_history, read_history

    with exit_on_error(verbose=False):
        list_builds = read_history(root, name)
        print(json.dumps([one.model_dump(mode="json") for one in list_builds])) if as_json else print_history(list_builds, measure or [])


@app.command()
def notify(
    name: Annotated[str, typer.Argument(help="The pipeline whose source has new items.")],
    verbose: VerboseOption = False,
) -> None:
    """Tell Prefect that items have landed, so that the deployment build-index/NAME starts."""
    from indexmill.flows.deployments import emit_items_landed

    with exit_on_error(verbose):
        print(emit_items_landed(name))


@app.command()
def demo(root: RootOption = DEFAULT_ROOT, verbose: VerboseOption = False) -> None:
    """Build the two demo pipelines on real data with real models, and say what to try next."""
    from indexmill.flows.cli.demo import run_demo

    with exit_on_error(verbose):
        run_demo(root, verbose=verbose)


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
