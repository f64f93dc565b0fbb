"""Shows a backtest to people: a page, a picture and a table for the terminal."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from io import BytesIO
from itertools import cycle
from math import isfinite
from pathlib import Path
from string import Template
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter
from rich import box, table
from rich.console import Console
from rich.text import Text

from engine.errors import InputError
from simulator.scoreboard import Backtest, Figures, Summary

Chart = Callable[[Axes, Backtest], None]

OURS, OURS_COLOUR = "feedloom", "#d55e00"
# Okabe and Ito's palette without the red of feedloom, then three of Tol's: colour-blind people can tell them
# apart, and they show on white and on near-black.
POOL_COLOURS = ("#0072b2", "#009e73", "#e69f00", "#56b4e9", "#cc79a7", "#999933", "#aa4499", "#44aa99")
SINGLE = "single pool"
INK, MUTED, LINE, PAPER = "#1c2230", "#667085", "#e4e7ec", "#ffffff"  # on the page: variables of its style
LABEL_GAP = 0.064  # of a chart's height: one line of text
DRAWING: dict[Any, Any] = {"svg.fonttype": "none", "text.parse_math": False, "text.color": INK}

PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>feedloom on $dataset</title><style>
:root { color-scheme: light dark;
  --ink: #1c2230; --muted: #667085; --line: #e4e7ec; --paper: #fff; --row: #fff3ea }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaf0; --muted: #98a2b3; --line: #2c3340; --paper: #14171d; --row: #2c2119 }
  svg, i, b { filter: brightness(1.25) } }
body { margin: auto; max-width: 58rem; padding: 2.5rem 1.25rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums }
h1 { font-size: 1.8rem; line-height: 1.25; margin: 0 0 .5rem; text-wrap: balance } b { color: $ours }
h2 { font-size: 1.1rem; margin: 2.5rem 0 .5rem } p { margin: 0 }
p, small, footer, th, i { color: var(--muted) } div { overflow-x: auto }
svg { width: 100%; height: auto; margin-top: 1.5rem } svg text { font-family: inherit !important }
table { border-collapse: collapse; width: 100% } th { font-size: .8rem; font-weight: 500; text-align: left }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap }
.ours td { background: var(--row); font-weight: 600 } small, i { font-weight: 400; font-size: .8rem }
ol { columns: 2 20rem; column-gap: 2.5rem; padding: 0; list-style: none; counter-reset: slot }
li { display: flex; align-items: baseline; gap: .75rem; padding: .4rem 0; break-inside: avoid;
  border-bottom: 1px solid var(--line) } span { flex: 1; overflow-wrap: anywhere } i { font-style: normal }
li::before { counter-increment: slot; content: counter(slot); color: var(--muted); width: 1.2rem }
i::before { content: "●"; color: var(--pool); margin-right: .4rem }
footer { margin-top: 2.5rem; font-size: .85rem; overflow-wrap: anywhere }
</style></head><body><h1>$headline</h1>
<p>$dataset: how often the first ten slots held what the user chose next, over $scored feeds.</p>
$shares $hits
<h2>All policies</h2><p>In brackets: 95 % intervals, from resampling users.</p><div><table>
<tr><th>policy<th>kind<th>hit@10<th>nDCG@10<th>a user's first five choices</tr>$rows</table></div>
<h2>The last feed, for user $user</h2><ol>$feed</ol>
<footer>$speed<br>digest of all decisions: $digest</footer></body></html>
""")


def write_report(result: Backtest, titles: Mapping[str, str], out: Path) -> tuple[Path, Path]:
    """Writes `report.html` (one page that loads nothing else) and `report.png` (its charts) into `out`.

    `titles` names items for people; an item without a title shows its id. Each file appears whole or not at
    all. Raises InputError if `out` cannot be written.
    """
    page, picture = out / "report.html", out / "report.png"
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write_whole(page, _page(result, titles).encode())
        _write_whole(picture, _drawn(result, [_draw_shares, _draw_hits], "png"))
    except OSError as error:
        raise InputError(f"Cannot write into {out} ({error.strerror}): choose another folder.") from None
    return page, picture


def print_table(result: Backtest, console: Console) -> None:
    """Prints every policy's figures with their 95 % intervals, best first, and what to know of the run."""
    summary = result.summary
    grid = table.Table("policy", "hit@10", "nDCG@10", "first five", box=box.SIMPLE_HEAD, show_edge=False)
    for name, figures in _best_first(summary):
        cells = [Text(f"{point} {bounds}") for point, bounds in _cells(figures)]
        grid.add_row(Text(name), *cells, style="bold green" if name == OURS else None)
    console.print(grid)
    shares = sorted(summary.pool_share.items(), key=lambda pair: -pair[1])
    shown = ", ".join(f"{name} {share:.1%}" for name, share in shares)
    for line in (f"{OURS}'s slots in the last fifth: {shown}", f"{_speed(summary)}, digest {summary.digest}"):
        console.print(Text(line), soft_wrap=True)


def _write_whole(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _best_first(summary: Summary) -> list[tuple[str, Figures]]:
    return sorted(summary.policies.items(), key=lambda pair: -pair[1].hit_at_10)


def _kind(name: str, summary: Summary) -> str:
    if name == OURS:
        return OURS
    return SINGLE if name in summary.pool_share or name == "random" else "plain blend"


def _cells(f: Figures) -> list[tuple[str, str]]:
    """Point and bounds of hit@10, nDCG@10 and the first five, as texts."""
    return [
        _cell(f.hit_at_10, f.hit_at_10_low, f.hit_at_10_high),
        _cell(f.ndcg_at_10, f.ndcg_at_10_low, f.ndcg_at_10_high),
        _cell(f.first_five_hit, f.first_five_hit_low, f.first_five_hit_high),
    ]


def _cell(point: float | None, low: float | None, high: float | None) -> tuple[str, str]:
    return _decimal(point, 4), f"[{_decimal(low, 3)}, {_decimal(high, 3)}]"


def _decimal(number: float | None, digits: int) -> str:
    return "–" if number is None or not isfinite(number) else f"{number:.{digits}f}".removeprefix("0")


def _speed(s: Summary) -> str:
    return f"{s.scored:,} feeds scored, {s.feeds_per_s:,.0f} feeds/s, {s.seconds:.1f} s in all"


def _page(result: Backtest, titles: Mapping[str, str]) -> str:
    summary, colours = result.summary, _colours(result.summary)
    slots = [(escape(titles.get(slot.item, slot.item)), slot.pool) for slot in result.example]
    return PAGE.substitute(
        ours=OURS_COLOUR,
        dataset=escape(summary.dataset),
        headline=_headline(summary),
        scored=f"{summary.scored:,}",
        shares=_svg(result, _draw_shares),
        hits=_svg(result, _draw_hits),
        rows="".join(_row(name, figures, summary) for name, figures in _best_first(summary)),
        user=escape(result.example_user),
        feed="".join(f"<li><span>{title}</span>{_dot(pool, colours)}" for title, pool in slots),
        speed=_speed(summary),
        digest=escape(summary.digest),
    )


def _headline(summary: Summary) -> str:
    hit = {name: figures.hit_at_10 for name, figures in summary.policies.items()}
    best = max((name for name in hit if _kind(name, summary) == SINGLE), key=hit.__getitem__)
    return (
        f"<b>{OURS} hits {hit[OURS]:.1%}</b> of the time; the best single pool, {escape(best)}, "
        f"{hit[best]:.1%}; a uniform blend {hit['uniform']:.1%}"
    )


def _row(name: str, figures: Figures, summary: Summary) -> str:
    cells = "".join(f"<td>{point} <small>{bounds}</small>" for point, bounds in _cells(figures))
    mark = ' class="ours"' if name == OURS else ""
    return f"<tr{mark}><td>{escape(name)}<td><small>{_kind(name, summary)}</small>{cells}</tr>"


def _dot(pool: str, colours: dict[str, str]) -> str:
    return f'<i style="--pool:{colours.get(pool, MUTED)}">{escape(pool)}</i>'


def _colours(summary: Summary) -> dict[str, str]:
    return dict(zip(summary.pool_share, cycle(POOL_COLOURS), strict=False))


def _svg(result: Backtest, chart: Chart) -> str:
    """A chart as an element of the page: its letters are text, its inks are those of the page."""
    text = _drawn(result, [chart], "svg").decode()
    for colour, name in ((INK, "ink"), (MUTED, "muted"), (LINE, "line"), (PAPER, "paper")):
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'<g id="[^"]*"', "<g", text)  # the same id must not stand in a page twice


def _drawn(result: Backtest, charts: Sequence[Chart], form: str) -> bytes:
    figure, file = Figure((10, 3.6 * len(charts)), dpi=140, layout="constrained"), BytesIO()
    figure.set_facecolor("none" if form == "svg" else PAPER)
    with mpl.rc_context({**DRAWING, "svg.hashsalt": charts[0].__name__}):
        for axes, chart in zip(figure.subplots(len(charts), squeeze=False).flat, charts, strict=True):
            chart(axes, result)
        figure.savefig(file, format=form)
    return file.getvalue()


def _draw_shares(axes: Axes, result: Backtest) -> None:
    colours, last_fifth = _colours(result.summary), result.summary.pool_share
    shares = np.nan_to_num([result.timeline.pool_share[name] for name in colours])
    axes.stackplot(result.timeline.ends, shares, colors=list(colours.values()), edgecolor=PAPER)
    middles = shares[:, -1].cumsum() - shares[:, -1] / 2
    labels = [(y, f"{n} {last_fifth[n]:.1%}", colours[n]) for y, n in zip(middles, colours, strict=True)]
    _finish(axes, result, "Who fills feedloom's slots (numbers: the last fifth of the log)", labels)


def _draw_hits(axes: Axes, result: Backtest) -> None:
    colours, dashes = _colours(result.summary) | {OURS: OURS_COLOUR}, cycle(("--", ":", "-."))
    labels, ends, hits = [], result.timeline.ends, result.timeline.hit_at_10
    for name, curve in hits.items():
        colour = colours.get(name, MUTED)
        width, dash = (2.8 if name == OURS else 1.2), ("-" if name in colours else next(dashes))
        axes.plot(ends, curve, dash, color=colour, linewidth=width, zorder=2 + width)
        labels.append((curve[-1], name, colour))
    _finish(axes, result, "How often a feed's first ten slots held what its user chose next", labels)
    if first := int(np.isfinite(hits[OURS]).argmax()):
        at, across = (ends[0] + ends[first]) / 2, axes.get_xaxis_transform()
        axes.text(at, 0.5, "learned from,\nnot scored", transform=across, color=MUTED, ha="center")


def _finish(axes: Axes, result: Backtest, title: str, labels: list[tuple[float, str, str]]) -> None:
    """Title, axes and each curve's name at its right end; `labels` are (height, name, colour)."""
    ends = result.timeline.ends
    axes.set_title(title, loc="left", weight="bold", pad=10)
    axes.set_xlabel("feeds, in the order of the log", color=MUTED)
    axes.margins(y=0.02)
    axes.set(xlim=(ends[0], max(ends[-1], ends[0] + 1)), ylim=(0, None), facecolor="none")
    axes.spines[:].set_visible(False)
    axes.grid(axis="y", color=LINE)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=MUTED)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    beside, labels = axes.get_yaxis_transform(), sorted(label for label in labels if isfinite(label[0]))
    heights = _spread([height for height, _, _ in labels], LABEL_GAP * axes.get_ylim()[1])
    for height, (_, name, colour) in zip(heights, labels, strict=True):
        weight = "bold" if name == OURS else "normal"
        axes.text(1.015, height, name, transform=beside, va="center", color=colour, weight=weight)


def _spread(heights: list[float], gap: float) -> list[float]:
    """Ascending heights, moved apart to at least `gap`, as much upwards as downwards."""
    steps = gap * np.arange(len(heights))
    up = np.maximum.accumulate(np.array(heights) - steps) + steps
    down = np.minimum.accumulate((np.array(heights) - steps)[::-1])[::-1] + steps
    return list((up + down) / 2)
