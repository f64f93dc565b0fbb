"""`feedloom funnel`: at which stage the items of each pool were lost, over all feeds of a place."""

from collections.abc import Mapping
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.decision import Decision
from engine.errors import InputError
from engine.funnel import Funnel, funnel
from engine.stages import STAGES
from feedloom.kafka_commands import bootstrap_option, json_option, show_document, since_ms
from feedloom.place import Place, data_option, records_option


@click.command("funnel")
@records_option
@data_option
@bootstrap_option
@click.option("--since", metavar="DURATION", help="Only feeds so young, such as 90s, 15m, 1h or 7d; default: all.")
@json_option
def funnel_command(
    records: Path | None, data: Path | None, bootstrap: str | None, since: str | None, *, as_json: bool
) -> None:
    """Count for each pool how many items it ranked, and why the others did not get a slot.

    Of a recording, of a server's data or, without either, of what stands in Kafka. Rules that limit what a page
    holds together have a table of their own: how many fresh items, or how many different values, there were at each
    stage.
    """
    begin = None if since is None else since_ms(since)
    if since is not None and begin is None:
        raise InputError(f"--since {since!r} is no duration: give such as 90s, 15m, 1h or 7d")
    place = Place(records, data, bootstrap, start="earliest" if begin is None else begin)
    place.check()
    found = funnel(value for value, _, _ in place.read("feeds") if isinstance(value, Decision))
    if as_json:
        show_document(found)
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
