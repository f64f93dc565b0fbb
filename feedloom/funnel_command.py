"""`feedloom funnel`: at which stage the items of each pool were lost, over all feeds of a recording."""

from collections.abc import Mapping
from pathlib import Path

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.funnel import Funnel, funnel
from engine.stages import STAGES
from feedloom.explain import decisions_of


@click.command("funnel")
@click.option("--records", type=click.Path(path_type=Path), required=True, help="A folder that --record made.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout instead of the tables.")
def funnel_command(records: Path, *, as_json: bool) -> None:
    """Count for each pool how many items it ranked, and why the others did not get a slot.

    Rules that limit what a page holds together have a table of their own: how many fresh items, or how many
    different values, there were at each stage.
    """
    found = funnel(decisions_of(records))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        print_funnel(found, Console())


def print_funnel(found: Funnel, console: Console) -> None:
    """Print a table of pools, one of rules, and what could not be kept."""
    console.print(Text(f"{found.feeds:,} feeds, {found.slots:,} slots, {found.empty:,} of them empty"))
    heads = ("pool", "ranked", "filtered", "thinned", "unread", "duplicate", "capped", "placed")
    pools = _grid(*heads)
    for name, of in found.pools.items():
        lost = (sum(of.thinned.values()), of.unread, of.duplicates, of.capped, of.placed)
        pools.add_row(Text(name), *(f"{count:,}" for count in (of.ranked, of.filtered, *lost)))
    console.print(pools)
    rules = _grid("rule", "pool", *STAGES)
    for name, of in found.pools.items():
        for rule, counts in of.rules.items():
            rules.add_row(Text(rule), Text(name), *(f"{count:,}" for count in counts))
    if rules.row_count:
        console.print(Text("fresh items, or different values, at each stage"))
        console.print(rules)
    for name, of in found.pools.items():
        for what, left_out in (("filtered", of.filtered_by), ("thinned", of.thinned)):
            if left_out:
                console.print(Text(f"{name}, {what}: {_listed(left_out)}"), soft_wrap=True)
    if found.degraded:
        console.print(Text(f"pages that could not keep a rule: {_listed(found.degraded)}"), soft_wrap=True)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda one: -one[1]))


def _grid(first: str, *others: str) -> Table:
    table = Table(first, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for head in others:
        table.add_column(head, justify="left" if head == "pool" else "right")
    return table
