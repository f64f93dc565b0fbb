"""A progress bar, the same for every command."""

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def progress_bar() -> Progress:
    """A bar on stderr, drawn only on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def bar_of_each(bar: Progress, total: int) -> Callable[[str], Callable[[int], None]]:
    """Begins a bar of its own for each run that is named, and returns what moves it."""

    def begin(run: str) -> Callable[[int], None]:
        task = bar.add_task(run, total=total)
        return lambda done: bar.update(task, completed=done)

    return begin
