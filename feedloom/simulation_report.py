"""Shows a simulation to people: a page, a picture and a table for the terminal."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich import box, table
from rich.console import Console
from rich.text import Text

from engine.errors import InputError
from feedloom.charts import OURS, drawn, finish, lines, page, pool_colours, stacked, svg, write_whole
from simulator.referee import ORACLE, Curves, PolicyFigures, Simulation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADS = ("policy", "regret", "95 %", "p95", "reward/feed", "recovery")
POINTS = 100  # of a curve


def print_scoreboard(result: Simulation, curves: Curves, console: Console) -> None:
    """Print every policy's figures, the least regret first, and feedloom's shares."""
    grid = table.Table(*HEADS, box=box.SIMPLE_HEAD, show_edge=False)
    for name, figures in _least_first(result):
        style = "bold green" if name == OURS else None
        grid.add_row(*(Text(cell) for cell in (name, *_cells(figures))), style=style)
    console.print(grid)
    shares = ", ".join(
        f"{pool} {share:.1%}" for pool, share in zip(curves.pools, curves.shares.mean(axis=0), strict=True)
    )
    for line in (f"{OURS}'s slots: {shares}", f"{result.scenario}, digest {result.digest}"):
        console.print(Text(line), soft_wrap=True)


def write_simulation(result: Simulation, curves: Curves, out: Path) -> tuple[Path, Path]:
    """Write `report.html` (one page that loads nothing else) and `report.png` (its charts) into `out`.

    Each file appears whole or not at all. Raises InputError if `out` cannot be written.
    """
    html, picture = out / "report.html", out / "report.png"

    def regret(axes: Axes) -> None:
        _draw_regret(axes, curves)

    def shares(axes: Axes) -> None:
        _draw_shares(axes, curves)

    rows = "".join(_row(name, figures) for name, figures in _least_first(result))
    heads = "".join(f"<th>{head}" for head in HEADS)
    body = (
        f"<h1>{_headline(result)}</h1><p>World {escape(result.scenario)}: expected actions lost against the best "
        f"feeds of the same world, over {result.feeds:,} feeds a user.</p>"
        f"{svg(regret, 'regret')} {svg(shares, 'shares')}<h2>All policies</h2>"
        f"<div><table><tr>{heads}</tr>{rows}</table></div><footer>digest of all decisions: {result.digest}</footer>"
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(html, page(escape(result.scenario), body).encode())
        write_whole(picture, drawn([regret, shares], "png"))
    except OSError as error:
        raise InputError(f"cannot write into {out} ({error.strerror}): choose another folder") from None
    return html, picture


def _least_first(result: Simulation) -> list[tuple[str, PolicyFigures]]:
    return sorted(result.policies.items(), key=lambda pair: pair[1].regret)


def _cells(figures: PolicyFigures) -> tuple[str, ...]:
    bounds = "–" if figures.regret_low is None else f"[{figures.regret_low:.1f}, {figures.regret_high:.1f}]"
    recovery = "–" if figures.recovery_feeds is None else f"{figures.recovery_feeds:.0f}"
    return (
        f"{figures.regret:.1f}",
        bounds,
        f"{figures.regret_p95:.1f}",
        f"{figures.reward_per_feed:.4f}",
        recovery,
    )


def _row(name: str, figures: PolicyFigures) -> str:
    mark = ' class="ours"' if name == OURS else ""
    return f"<tr{mark}><td>{escape(name)}" + "".join(f"<td>{cell}" for cell in _cells(figures)) + "</tr>"


def _headline(result: Simulation) -> str:
    rest = [(f.regret, name) for name, f in result.policies.items() if name not in (OURS, ORACLE)]
    against = f"; the best of the others, {escape(min(rest)[1])}, {min(rest)[0]:.1f}" if rest else ""
    return f"<b>{OURS} loses {result.policies[OURS].regret:.1f}</b> actions{against}"


def _draw_regret(axes: Axes, curves: Curves) -> None:
    at = _places(len(curves.shares))
    totals = {name: np.cumsum(curve)[at].tolist() for name, curve in curves.regret.items() if name != ORACLE}
    ends = (at + 1).tolist()
    finish(axes, ends, "Regret so far", lines(axes, ends, totals, {}), percent=False)


def _draw_shares(axes: Axes, curves: Curves) -> None:
    at = _places(len(curves.shares))
    starts = np.concatenate([[0], at[:-1] + 1])
    counts = at - starts + 1
    means = np.add.reduceat(curves.shares, starts, axis=0) / counts[:, None]
    shares = {pool: means[:, place].tolist() for place, pool in enumerate(curves.pools)}
    ends = (at + 1).tolist()
    finish(axes, ends, "Who fills feedloom's slots", stacked(axes, ends, shares, pool_colours(curves.pools)))


def _places(feeds: int) -> np.ndarray:
    """The feeds at which a curve has a point."""
    return np.unique(np.linspace(0, feeds, POINTS + 1).astype(int)[1:] - 1).clip(0)
