"""Shows a backtest to people: a page, a picture and a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from math import isfinite
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np
from rich import box, table
from rich.console import Console
from rich.text import Text

from engine.errors import InputError
from feedloom.charts import MUTED, OURS, drawn, finish, lines, page, pool_colours, stacked, svg, write_whole
from simulator.scoreboard import Backtest, Figures, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SINGLE = "single pool"
BODY = Template("""<h1>$headline</h1>
<p>$dataset: how often the first ten slots held what the user chose next, over $scored feeds.</p>
$shares $hits
<h2>All policies</h2><p>In brackets: 95 % intervals, from resampling users.</p><div><table>
<tr><th>policy<th>kind<th>hit@10<th>nDCG@10<th>a user's first five choices</tr>$rows</table></div>$further
<h2>The last feed, for user $user</h2><ol>$feed</ol>
<footer>$personal<br>$speed<br>digest of all decisions: $digest</footer>""")


def write_report(result: Backtest, titles: Mapping[str, str], out: Path) -> tuple[Path, Path]:
    """Writes `report.html` (one page that loads nothing else) and `report.png` (its charts) into `out`.

    `titles` names items for people; an item without a title shows its id. Each file appears whole or not at
    all. Raises InputError if `out` cannot be written.
    """
    html, picture = out / "report.html", out / "report.png"
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(html, _page(result, titles).encode())
        write_whole(
            picture, drawn([lambda axes: _draw_shares(axes, result), lambda axes: _draw_hits(axes, result)], "png")
        )
    except OSError as error:
        raise InputError(f"Cannot write into {out} ({error.strerror}): choose another folder.") from None
    return html, picture


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
    for line in (
        *_further(summary),
        f"{OURS}'s slots in the last fifth: {shown}",
        _personal(summary),
        f"{_speed(summary)}, digest {summary.digest}",
    ):
        console.print(Text(line), soft_wrap=True)


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


def _further(summary: Summary) -> list[str]:
    """What the further runs came to, a line for each."""
    lines = []
    if shuffled := summary.order_shuffled:
        reached = f"hit@10 {_decimal(shuffled.hit_at_10, 4)}, nDCG@10 {_decimal(shuffled.ndcg_at_10, 4)}"
        lines.append(f"{OURS} with the order inside users' sessions shuffled: {reached}")
    if broken := summary.broken:
        after = _decimal(broken.hit_at_10_first_2_percent, 4)
        last = f"{_decimal(broken.hit_at_10_last_fifth, 4)}, nDCG@10 {_decimal(broken.ndcg_at_10_last_fifth, 4)}"
        lines.append(
            f"{OURS} with {broken.pool} broken: hit@10 {after} right after it; {last} in the last fifth, "
            f"of whose slots {broken.pool} has {broken.share_last_fifth:.1%}"
        )
    if ablation := summary.ablation:
        minus = ablation.feedloom_minus
        reached = f"hit@10 {_decimal(ablation.hit_at_10, 4)}, nDCG@10 {_decimal(ablation.ndcg_at_10, 4)}"
        lines.append(
            f"{OURS} without {ablation.part}: {reached}; the whole is {minus.difference:+.4f} better, "
            f"standard error {minus.standard_error:.4f}, paired by user"
        )
    return lines


def _personal(summary: Summary) -> str:
    """After how many views of their own users are believed more than the others."""
    views = {
        f"{pool} {action}" if len(actions) > 1 else pool: views
        for pool, actions in summary.views_to_personal.items()
        for action, views in actions.items()
    }
    return "views to personal: " + ", ".join(f"{name} {count:,.0f}" for name, count in views.items())


def _speed(s: Summary) -> str:
    speed = f"{s.feeds_per_s:,.0f} feeds/s, {s.us_per_slate:,.0f} µs to make one"
    return f"{s.scored:,} feeds scored, {speed}, {s.seconds:.1f} s in all"


def _page(result: Backtest, titles: Mapping[str, str]) -> str:
    summary, colours = result.summary, pool_colours(list(result.summary.pool_share))
    slots = [(escape(titles.get(slot.item, slot.item)), slot.pool) for slot in result.example]
    body = BODY.substitute(
        dataset=escape(summary.dataset),
        headline=_headline(summary),
        scored=f"{summary.scored:,}",
        shares=svg(lambda axes: _draw_shares(axes, result), "shares"),
        hits=svg(lambda axes: _draw_hits(axes, result), "hits"),
        rows="".join(_row(name, figures, summary) for name, figures in _best_first(summary)),
        further="".join(f"<p>{escape(line)}</p>" for line in _further(summary)),
        user=escape(result.example_user),
        feed="".join(f"<li><span>{title}</span>{_dot(pool, colours)}" for title, pool in slots),
        personal=escape(_personal(summary)),
        speed=_speed(summary),
        digest=escape(summary.digest),
    )
    return page(escape(summary.dataset), body)


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


def _draw_shares(axes: Axes, result: Backtest) -> None:
    last_fifth, timeline = result.summary.pool_share, result.timeline
    labels = stacked(axes, timeline.ends, dict(timeline.pool_share), pool_colours(list(last_fifth)))
    labels = [(height, f"{name} {last_fifth[name]:.1%}", colour) for height, name, colour in labels]
    finish(axes, timeline.ends, "Who fills feedloom's slots (numbers: the last fifth of the log)", labels)


def _draw_hits(axes: Axes, result: Backtest) -> None:
    ends, hits = result.timeline.ends, result.timeline.hit_at_10
    labels = lines(axes, ends, dict(hits), pool_colours(list(result.summary.pool_share)))
    finish(axes, ends, "How often a feed's first ten slots held what its user chose next", labels)
    if first := int(np.isfinite(hits[OURS]).argmax()):
        at, across = (ends[0] + ends[first]) / 2, axes.get_xaxis_transform()
        axes.text(at, 0.5, "learned from,\nnot scored", transform=across, color=MUTED, ha="center")
