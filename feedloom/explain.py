"""`feedloom explain`: why each slot of a recorded feed holds what it holds, from the decision's record alone."""

from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from msgspec import Struct
from msgspec.structs import astuple
from rich import box, table
from rich.console import Console
from rich.text import Text

from blending.propensity import Method, Propensities
from engine.counterfactual import without_rule
from engine.decision import Decision
from engine.errors import InputError
from engine.page import Degraded
from engine.propensities import propensities
from streams.recording import read_topic

RULES = {  # the letters of `engine.page.slot_rules`
    "p": "pin",
    "r": "required slots",
    "f": "floor",
    "x": "mixing at random",
    "b": "fallback",
    "d": "draw",
}


class Belief(Struct, frozen=True):
    """The posterior of one action of a pool, before the temperature.

    `prior_share` is the part of it that is the cohort's: of a prior of s views, s / (s + the user's own).
    """

    action: str
    alpha: float
    beta: float
    mean: float
    prior_share: float


class Otherwise(Struct, frozen=True):
    """What a slot would have held without its rule; the item is null where its list was not read that far."""

    pool: str
    item: str | None


class SlotWhy(Struct, frozen=True):
    """One slot. Slots and ranks count from 0; `rank` is the item's place in the list of the pool that placed it.

    `rule` is what gave the slot to its pool, `without_rule` what it would have held else (null where it was the
    draw), `offered_by` all pools whose lists held the item. `utility` is what was drawn for the pool, the sum of
    its actions' rewards times drawn rates, or its share of the fallback; `propensity` how likely its pool was,
    whatever was drawn, null where that is not known.
    """

    slot: int
    item: str
    pool: str
    rank: int
    rule: str
    without_rule: Otherwise | None
    offered_by: list[str]
    utility: float
    posterior: list[Belief]
    propensity: float | None
    error: float | None


class PoolWhy(Struct, frozen=True):
    """One pool. `intended` is how many slots utilities alone would have given it, `realised` how many it got.

    `floor` and `cap` are how many it had to get and could (null: all); `missing` says that it did not answer in
    time. `duplicates` counts its entries that another pool had placed, `filtered` what it left out because the user
    had reacted to it; `propensities` and `errors` have an entry per slot.
    """

    pool: str
    posterior: list[Belief]
    stock: int
    filtered: int
    intended: int
    realised: int
    duplicates: int
    floor: int
    cap: int | None
    missing: bool
    propensities: list[float] | None
    errors: list[float] | None


class Explanation(Struct, frozen=True):
    """One decision in words and numbers. `method` and `samples` say how the propensities were found.

    `feed` is the request of its first page, and `start` how many slots earlier pages hold.
    """

    request_id: str
    user: str
    feed: str
    start: int
    at_ms: int
    cohort: str
    mode: str
    order: str
    degraded: list[Degraded]
    explored: bool
    epsilon: float
    temperature: float
    delta: float | None
    method: Method | None
    samples: int
    slots: list[SlotWhy]
    pools: list[PoolWhy]


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
        for record in _decisions(folder)
        if record.request.request_id == request_id and user in (None, record.request.user)
    }
    if not found:
        whose = "" if user is None else f" of user {user}"
        raise InputError(f"{folder} has no decision on a request {request_id}{whose}; its feeds.jsonl lists them")
    if len(found) > 1:
        some = ", ".join([*sorted(found)[:3], *(["…"] if len(found) > 3 else [])])
        raise InputError(f"{len(found)} users have a request {request_id}: add --user, one of {some}")
    return next(iter(found.values()))


def _decisions(folder: Path) -> Iterator[Decision]:
    for line in read_topic(folder, "feeds"):
        if not isinstance(line.value, Decision):
            raise InputError(f"{line.place}: not a decision")
        yield line.value


def explanation(record: Decision) -> Explanation:
    """Everything that a record says of its slots. Raises ValueError for one that could not be a decision."""
    found = _likely(record)
    return Explanation(
        record.request.request_id,
        record.request.user,
        record.feed,
        record.start,
        record.at_ms,
        record.cohort,
        record.mode,
        record.order,
        record.degraded,
        record.explored,
        record.epsilon,
        record.temperature,
        record.delta,
        None if found is None else found.method,
        0 if found is None else found.samples,
        [_slot(record, slot, found) for slot in range(len(record.slot_items))],
        [_pool(record, pool, found) for pool in range(len(record.pools))],
    )


def _likely(record: Decision) -> Propensities | None:
    """The propensities; those of a later page are not known where its feed began by rules that are not its own."""
    try:
        return propensities(record)
    except ValueError:
        if record.start:
            return None
        raise


def _slot(record: Decision, slot: int, found: Propensities | None) -> SlotWhy:
    pool, item = record.slot_pools[slot], record.slot_items[slot]
    part = record.pools[pool]
    drawn = part.rates[slot % len(part.rates)]
    instead = without_rule(record, slot)
    return SlotWhy(
        record.start + slot,
        item,
        part.pool,
        part.items.index(item),
        RULES[record.slot_rules[slot]],
        None if instead is None else Otherwise(record.pools[instead.pool].pool, instead.item),
        [offer.pool for place, offer in enumerate(record.pools) if record.slot_offers[slot] >> place & 1],
        part.fallback
        if record.slot_rules[slot] == "b"
        else sum(rate * reward for rate, reward in zip(drawn, record.rewards, strict=True)),
        _beliefs(record, pool),
        None if found is None else float(found.chances[slot, pool]),
        None if found is None else float(found.errors[slot, pool]),
    )


def _pool(record: Decision, pool: int, found: Propensities | None) -> PoolWhy:
    part = record.pools[pool]
    return PoolWhy(
        part.pool,
        _beliefs(record, pool),
        part.stock,
        part.filtered,
        part.intended,
        part.realised,
        part.verdicts.count("d"),
        part.floor,
        part.cap,
        part.missing,
        None if found is None else found.chances[:, pool].tolist(),
        None if found is None else found.errors[:, pool].tolist(),
    )


def _beliefs(record: Decision, pool: int) -> list[Belief]:
    part = record.pools[pool]
    return [
        Belief(action, alpha, beta, alpha / (alpha + beta), min(strength / (alpha + beta), 1.0))
        for action, alpha, beta, strength in zip(record.actions, part.alpha, part.beta, part.strength, strict=True)
    ]


def print_explanation(found: Explanation, console: Console) -> None:
    """Print a table of slots, one of pools, and how to read them."""
    console.print(Text(f"request {found.request_id} of user {found.user}: {_how(found)}"), soft_wrap=True)
    slots = _grid("slot", "item", "pool", "rank", "by", "without it", "drawn utility", "propensity")
    for why in found.slots:
        likely = "unknown" if why.propensity is None else f"{why.propensity:.4f} ± {why.error:.4f}"
        place = (str(why.slot), why.item, why.pool, str(why.rank), why.rule, _otherwise(why))
        slots.add_row(*map(Text, (*place, f"{why.utility:.4g}", likely)))
    console.print(slots if found.slots else Text("no pool had an item left for it"))
    pools = _grid(
        "pool", "action", "alpha", "beta", "mean", "prior's share", "intended", "realised", "stock", "duplicates"
    )
    for of in found.pools:
        counts = (of.intended, of.realised, of.stock, of.duplicates)
        pools.add_row(Text(of.pool), *_columns(of.posterior), *map(str, counts))
    console.print(pools)
    for rule, pool, wanted, got in map(astuple, found.degraded):
        what = "beliefs could not be drawn from: fixed ratios" if rule == "posterior" else f"{rule} of {pool}"
        console.print(Text(what if rule == "posterior" else f"{what} could not be kept: {got} slots, not {wanted}"))
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
