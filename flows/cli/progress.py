"""Show progress on standard error: bars on a terminal, timestamped lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

from indexmill.tasks.progress import Advance, use_watcher

LOG_INTERVAL_SECONDS = 10.0


@contextmanager
def show_progress() -> Iterator[None]:
    """Show the progress of the work in the block on standard error."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        with use_watcher(ProgressLines(console)):
            yield
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(show_speed=True),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(*columns, console=console) as progress, use_watcher(ProgressBars(progress)):
        yield


class ProgressBars:
    """One progress bar per piece of work, with its rate and the time left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @contextmanager
    def watch(self, description: str, total: int) -> Iterator[Advance]:
        """Show one bar while the block runs."""
        task = self._progress.add_task(description, total=total, rate="")
        start = time.monotonic()

        def advance(finished: int) -> None:
            done = self._progress.tasks[task].completed + finished
            rate = f"{done / max(time.monotonic() - start, 1e-3):,.0f}/s" if total > 1 else ""
            self._progress.update(task, advance=finished, rate=rate)

        yield advance


class ProgressLines:
    """One line when a piece of work starts, one every ten seconds, and one when it ends."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def watch(self, description: str, total: int) -> Iterator[Advance]:
        """Print lines while the block runs."""
        start = last_printed = time.monotonic()
        done = 0
        self._print_line(f"{description}: {total:,}" if total > 1 else description)

        def advance(finished: int) -> None:
            nonlocal done, last_printed
            done += finished
            if (now := time.monotonic()) - last_printed >= LOG_INTERVAL_SECONDS and done < total:
                last_printed = now
                rate = done / (now - start)
                self._print_line(f"{description}: {done:,} of {total:,}, {rate:,.0f}/s, {(total - done) / max(rate, 1e-9):,.0f} s left")

        yield advance
        seconds = time.monotonic() - start
        rate = f", {done / max(seconds, 1e-9):,.0f}/s" if total > 1 else ""
        self._print_line(f"{description}: done in {seconds:.1f} s{rate}")

    def _print_line(self, text: str) -> None:
        self._console.print(f"{datetime.now().astimezone():%H:%M:%S} {text}", markup=False, highlight=False, soft_wrap=True)
