"""How the reports draw: one look for all charts, and a page that loads nothing else.

matplotlib is imported when something is drawn: that takes a third of a second, and most commands draw nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from io import BytesIO
from itertools import cycle
from math import isfinite
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Chart: TypeAlias = "Callable[[Axes], None]"
Label = tuple[float, str, str]  # (height, name, colour) of a curve's name at its right end

OURS, OURS_COLOUR = "feedloom", "#d55e00"
# Okabe and Ito's palette without the red of feedloom, then three of Tol's: colour-blind people can tell them
# apart, and they show on white and on near-black.
POOL_COLOURS = ("#0072b2", "#009e73", "#e69f00", "#56b4e9", "#cc79a7", "#999933", "#aa4499", "#44aa99")
INK, MUTED, LINE, PAPER = "#1c2230", "#667085", "#e4e7ec", "#ffffff"  # on the page: variables of its style
LABEL_GAP = 0.064  # of a chart's height: one line of text
DRAWING: dict[Any, Any] = {"svg.fonttype": "none", "text.parse_math": False, "text.color": INK}

SKELETON = Template("""<!doctype html>
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
</style></head><body>$body</body></html>
""")


def page(dataset: str, body: str) -> str:
    """A page of the one style; both texts are HTML already."""
    return SKELETON.substitute(dataset=dataset, body=body, ours=OURS_COLOUR)


def pool_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each pool."""
    return dict(zip(names, cycle(POOL_COLOURS), strict=False))


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def svg(chart: Chart, name: str) -> str:
    """A chart as an element of the page: its letters are text, its inks are those of the page."""
    text = drawn([chart], "svg", name).decode()
    for colour, ink in ((INK, "ink"), (MUTED, "muted"), (LINE, "line"), (PAPER, "paper")):
        text = text.replace(colour, f"var(--{ink})")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'<g id="[^"]*"', "<g", text)  # the same id must not stand in a page twice


def drawn(charts: Sequence[Chart], form: str, name: str = "") -> bytes:
    """Charts above each other, as a file of this form; `name` keeps the ids of an SVG file apart."""
    from matplotlib import rc_context  # noqa: PLC0415  see above
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure, file = Figure((10, 3.6 * len(charts)), dpi=140, layout="constrained"), BytesIO()
    figure.set_facecolor("none" if form == "svg" else PAPER)
    with rc_context({**DRAWING, "svg.hashsalt": name}):
        for axes, chart in zip(figure.subplots(len(charts), squeeze=False).flat, charts, strict=True):
            chart(axes)
        figure.savefig(file, format=form)
    return file.getvalue()


def stacked(
    axes: Axes, ends: Sequence[int], shares: dict[str, Sequence[float]], colours: dict[str, str]
) -> list[Label]:
    """Shares of pools over the log; returns labels in the middle of each pool's band at the end."""
    table = np.nan_to_num([shares[name] for name in colours])
    axes.stackplot(ends, table, colors=list(colours.values()), edgecolor=PAPER)
    middles = table[:, -1].cumsum() - table[:, -1] / 2
    return [(float(y), name, colour) for y, (name, colour) in zip(middles, colours.items(), strict=True)]


def lines(
    axes: Axes, ends: Sequence[int], curves: dict[str, Sequence[float]], colours: dict[str, str]
) -> list[Label]:
    """A curve for each policy, feedloom's the boldest; those without a colour of their own are calm and dashed."""
    labels, dashes = [], cycle(("--", ":", "-."))
    colours = colours | {OURS: OURS_COLOUR}
    for name, curve in curves.items():
        colour = colours.get(name, MUTED)
        width, dash = (2.8 if name == OURS else 1.2), ("-" if name in colours else next(dashes))
        axes.plot(ends, curve, dash, color=colour, linewidth=width, zorder=2 + width)
        labels.append((float(curve[-1]), name, colour))
    return labels


def finish(axes: Axes, ends: Sequence[int], title: str, labels: list[Label], *, percent: bool = True) -> None:
    """Title, axes and each curve's name at its right end."""
    from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter  # noqa: PLC0415  see above

    axes.set_title(title, loc="left", weight="bold", pad=10)
    axes.set_xlabel("feeds, in the order of the log", color=MUTED)
    axes.margins(y=0.02)
    axes.set(xlim=(ends[0], max(ends[-1], ends[0] + 1)), ylim=(0, None), facecolor="none")
    axes.spines[:].set_visible(False)
    axes.grid(axis="y", color=LINE)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=MUTED)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0) if percent else EngFormatter(sep=""))
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
