"""Commands that build: build, plan, study, demo, pipelines, check and notify."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from indexmill.flows.cli.options import BUILD, ConfigArgument, JsonOption, RootOption, SetOption, VerboseOption, exit_on_error
from indexmill.flows.environment import DEFAULT_ROOT

build_commands = typer.Typer()

# Factories that need no trial, so that `check` need not load FAISS for them.
PLAIN_FACTORIES = re.compile(r"auto|(IVF[1-9]\d*,)?Flat|HNSW([4-9]|[1-9]\d\d?)")


@build_commands.command(rich_help_panel=BUILD)
def build(
    config: ConfigArgument,
    root: RootOption = DEFAULT_ROOT,
    settings: SetOption = None,
    rehash: Annotated[bool, typer.Option("--rehash", help="Read every file again, even if its size and time are unchanged.")] = False,
    force: Annotated[
        str | None, typer.Option("--force", metavar="REASON", help="Publish even if the gate refuses, and record the reason.")
    ] = None,
    refresh: Annotated[
        str | None, typer.Option("--refresh", metavar="STAGE", help="Run a stage and all later ones again, cached or not.")
    ] = None,
    runner: Annotated[
        str | None, typer.Option("--runner", metavar="RUNNER", help="Where the work runs: local, dask or ray; as --set run.runner=RUNNER.")
    ] = None,
    runner_address: Annotated[
        str | None, typer.Option("--runner-address", metavar="ADDRESS", help="The cluster's address; as --set run.address=ADDRESS.")
    ] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Build the index of a pipeline, and publish it if it passes the gate."""
    from indexmill.flows.cli.progress import show_progress
    from indexmill.flows.cli.render import print_result, print_summary
    from indexmill.flows.local_runs import run_build
    from indexmill.storage.errors import ExportFailed

    run_settings = {"run.runner": runner, "run.address": runner_address}
    changes = [*(settings or []), *(f"{key}={value}" for key, value in run_settings.items() if value is not None)]
    with exit_on_error(verbose=verbose):
        try:
            with show_progress():
                summary = run_build(config, root, changes, rehash=rehash, force=force, refresh=refresh, verbose=verbose)
        except ExportFailed as error:
            if error.summary:
                print_result(error.summary, as_json, print_summary)
            raise
        print_result(summary, as_json, print_summary)


@build_commands.command(rich_help_panel=BUILD)
def plan(
    config: ConfigArgument,
    root: RootOption = DEFAULT_ROOT,
    settings: SetOption = None,
    items: Annotated[
        float | None, typer.Option("--items", min=1, help="Estimate a first build of so many items instead, as in 1e9. Reads no data.")
    ] = None,
    cores: Annotated[int, typer.Option("--cores", min=1, help="With --items: cores that work at the same time.")] = 16,
    dim: Annotated[int | None, typer.Option("--dim", min=1, help="With --items: dimensions of a vector.")] = None,
    rate: Annotated[float | None, typer.Option("--rate", min=0.001, help="With --items: items a second that a core encodes.")] = None,
    core_price: Annotated[float | None, typer.Option("--core-price", min=0, help="With --items: dollars per core hour.")] = None,
    disk_price: Annotated[float | None, typer.Option("--disk-price", min=0, help="With --items: dollars per GB and month.")] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Estimate what a build would do: items, time, disk, memory.

    Encodes and publishes nothing. The exit code is 2 if the build would not fit on this machine. With --items, estimate
    a first build of any size by stage, with its price and the settings that it needs (see docs/scaling.md).
    """
    from indexmill.flows.cli.progress import show_progress
    from indexmill.flows.cli.render import print_plan, print_result
    from indexmill.flows.local_runs import run_plan

    with exit_on_error(verbose=verbose):
        if items is not None:
            from indexmill.configs.loading import load_config
            from indexmill.flows.cli.render_scale import print_scale_plan
            from indexmill.flows.cost_model import CORE_HOUR_PRICE, DISK_GB_MONTH_PRICE, plan_scale

            scale_plan = plan_scale(
                load_config(config, settings or []),
                round(items),
                cores=cores,
                dim=dim,
                rate=rate,
                core_price=CORE_HOUR_PRICE if core_price is None else core_price,
                disk_price=DISK_GB_MONTH_PRICE if disk_price is None else disk_price,
            )
            print_result(scale_plan.to_json(), as_json, print_scale_plan)
            return
        with show_progress():
            build_plan = run_plan(config, root, settings or [], verbose=verbose)
        options = [option for setting in settings or [] for option in ("--set", setting)]
        options += ["--root", str(root)] if root != DEFAULT_ROOT else []
        print_result(build_plan, as_json, lambda plan: print_plan(plan, shlex.join(["indexmill", "build", config, *options])))
        if build_plan["obstacles"]:
            raise typer.Exit(2)


@build_commands.command(rich_help_panel=BUILD)
def study(
    config: ConfigArgument,
    root: RootOption = DEFAULT_ROOT,
    settings: SetOption = None,
    out: Annotated[Path | None, typer.Option(help="The folder for table, page and plots; studies/NAME under the root by default.")] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Compare encoders and indexes on a pipeline's data.

    Measures recall, relevance, speed and memory. Publishes nothing.
    """
    from indexmill.flows.cli.progress import show_progress
    from indexmill.flows.cli.render import print_result
    from indexmill.flows.cli.render_study import print_study
    from indexmill.flows.local_runs import run_study

    with exit_on_error(verbose=verbose):
        with show_progress():
            study_result = run_study(config, root, settings or [], out, verbose=verbose)
        print_result(study_result, as_json, print_study)


@build_commands.command(rich_help_panel=BUILD)
def demo(root: RootOption = DEFAULT_ROOT, verbose: VerboseOption = False) -> None:
    """Build two indexes from real data with real models."""
    from indexmill.flows.cli.progress import show_progress
    from indexmill.flows.cli.render import print_demo
    from indexmill.flows.local_runs import run_build
    from indexmill.flows.pipeline_context import open_root
    from indexmill.tasks.sources.digits import write_digits

    with exit_on_error(verbose=verbose):
        with show_progress():
            with open_root(root) as storage_root:
                digits = write_digits(storage_root)
            summaries = [run_build(name, root, [], verbose=verbose) for name in ("demo-text", "demo-images")]
        print_demo(summaries, digits, "" if root == DEFAULT_ROOT else f" --root {root}")


@build_commands.command(rich_help_panel=BUILD)
def pipelines(as_json: JsonOption = False) -> None:
    """List the bundled pipelines."""
    from indexmill.configs.loading import list_bundled_pipelines, load_config
    from indexmill.flows.cli.render import print_pipelines, print_result

    with exit_on_error():
        configs = [load_config(name) for name in list_bundled_pipelines()]
        values = [config.dump_all() for config in configs]
        print_result(values, as_json, print_pipelines)


@build_commands.command(rich_help_panel=BUILD)
def check(config: ConfigArgument, settings: SetOption = None, as_json: JsonOption = False) -> None:
    """Check a config, its FAISS factory and extensions; print it with defaults."""
    from indexmill.configs.loading import load_config
    from indexmill.flows.cli.render import print_config, print_result

    with exit_on_error():
        pipeline = load_config(config, settings or [])
        if not PLAIN_FACTORIES.fullmatch(pipeline.index.factory):
            from indexmill.tasks.indexing.factory_check import check_factory

            check_factory(pipeline.index)
        if pipeline.has_extensions:
            from indexmill.flows.preflight import check_extensions

            check_extensions(pipeline)
        print_result(pipeline.dump_all(), as_json, print_config)


@build_commands.command(rich_help_panel=BUILD)
def notify(
    name: Annotated[str, typer.Argument(help="The pipeline whose source has new items.")],
    verbose: VerboseOption = False,
) -> None:
    """Start a pipeline's deployment because new items have arrived.

    Sends an event to the Prefect server in PREFECT_API_URL, which starts the deployment build-index/NAME.
    """
    from indexmill.flows.cli.render import print_line

    with exit_on_error(verbose=verbose):
        from indexmill.flows.deployments import emit_items_landed

        print_line(emit_items_landed(name))
