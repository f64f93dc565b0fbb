"""`feedloom explain`: why each slot of a recorded feed holds what it holds, in tables."""

from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from msgspec.structs import astuple
from rich import box, table
from rich.console import Console
from rich.text import Text

from engine.decision import Decision
from engine.errors import InputError
from engine.explanation import Belief, Explanation, SlotWhy, explanation
from streams.recording import read_topic


@click.command("explain")
@click.argument("request_id")
@click.option("--records", type=click.Path(path_type=Path), required=True, help="A folder that --record made.")
@click.option("--user", help="Whose request it is, where several users have one with this id.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout instead of the tables.")
def explain(request_id: str, records: Path, user: str | None, *, as_json: bool) -> None:
    """Say for each slot of the feed REQUEST_ID which pool filled it, by which draw, and how likely that was."""
    record = recorded(records, request_id, user)
    try:
        found = explanation(record)
    except (ValueError, IndexError) as error:
        raise InputError(f"request {request_id} of user {record.request.user}: {error}") from error
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        print_explanation(found, Console())


def recorded(folder: Path, request_id: str, user: str | None) -> Decision:
    """The last decision of this request. Raises InputError unless there is one, of one user."""
    found = {
        record.request.user: record
        for record in decisions_of(folder)
        if record.request.request_id == request_id and user in (None, record.request.user)
    }
    if not found:
        whose = "" if user is None else f" of user {user}"
        raise InputError(f"{folder} has no decision on a request {request_id}{whose}; its feeds.jsonl lists them")
    if len(found) > 1:
        some = ", ".join([*sorted(found)[:3], *(["…"] if len(found) > 3 else [])])
        raise InputError(f"{len(found)} users have a request {request_id}: add --user, one of {some}")
    return next(iter(found.values()))


def decisions_of(folder: Path) -> Iterator[Decision]:
    """The decisions of a recording, in order. Raises InputError for what is none."""
    for line in read_topic(folder, "feeds"):
        if not isinstance(line.value, Decision):
            raise InputError(f"{line.place}: not a decision")
        yield line.value


def print_explanation(found: Explanation, console: Console) -> None:
    """Print a table of slots, one of pools, and how to read them."""
    console.print(Text(f"request {found.request_id} of user {found.user}: {_how(found)}"), soft_wrap=True)
    for experiment, arm in found.arms.items():
        console.print(Text(f"in arm {arm} of experiment {experiment}"), soft_wrap=True)
    slots = _grid("slot", "item", "pool", "rank", "by", "without it", "drawn utility", "propensity")
    for why in found.slots:
        likely = "unknown" if why.propensity is None else f"{why.propensity:.4f} ± {why.error:.4f}"
        place = (str(why.slot), why.item, why.pool, str(why.rank), why.rule, _otherwise(why))
        slots.add_row(*map(Text, (*place, f"{why.utility:.4g}", likely)))
    console.print(slots if found.slots else Text("no pool had an item left for it"))
    pools = _grid(
        "pool",
        "action",
        "alpha",
        "beta",
        "mean",
        "prior's share",
        "intended",
        "realised",
        "stock",
        "duplicates",
        "capped",
    )
    for of in found.pools:
        counts = (of.intended, of.realised, of.stock, of.duplicates, of.capped)
        pools.add_row(Text(of.pool), *_columns(of.posterior), *map(str, counts))
    console.print(pools)
    for of in found.pools:
        left_out = {**of.filtered_by, **of.thinned}
        if left_out:
            told = ", ".join(f"{name} {count}" for name, count in left_out.items())
            console.print(Text(f"{of.pool} left out: {told}"), soft_wrap=True)
    for cap in found.caps:
        full = ", ".join(cap.full) or "none"
        console.print(Text(f"{cap.rule}: at most {cap.most} of a group; full are {full}"), soft_wrap=True)
    for rule, pool, wanted, got in map(astuple, found.degraded):
        what = "beliefs could not be drawn from: fixed ratios" if rule == "posterior" else f"{rule} of {pool}"
        counted = "alike" if rule == "item_cap" else "slots"
        kept = f"{what} could not be kept: {got} {counted}, not {wanted}"
        console.print(Text(what if rule == "posterior" else kept))
    exact = "exact" if found.samples == 0 else f"from {found.samples} redraws (± is one standard error)"
    known = "not known of this page" if found.method is None else f"by {found.method}, {exact}"
    console.print(Text(f"slots and ranks count from 0; propensities {known}"), soft_wrap=True)


def _how(found: Explanation) -> str:
    if found.explored:
        return f"mixed at random, as {found.epsilon:g} of feeds are"
    by = {"drawn": "draws", "expected": "expected utilities", "fixed": "fixed ratios"}[found.mode]
    return f"given out by its {by}, as all but {found.epsilon:g} of feeds are"


def _otherwise(why: SlotWhy) -> str:
    if why.without_rule is None:
        return ""
    return f"{why.without_rule.item or 'an unread item'} ({why.without_rule.pool})"


def _columns(posterior: list[Belief]) -> list[Text]:
    """Names, alphas, betas, means and the prior's share, a line per action."""
    rows = [
        (of.action, f"{of.alpha:.1f}", f"{of.beta:.1f}", f"{of.mean:.4f}", f"{of.prior_share:.0%}")
        for of in posterior
    ]
    return [Text("\n".join(column)) for column in zip(*rows, strict=True)]


def _grid(*heads: str) -> table.Table:
    return table.Table(*heads, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
