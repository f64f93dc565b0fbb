"""`feedloom policy`: look at a policy, put it into force, see who changed it, and take it back."""

import getpass
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from engine.errors import InputError
from engine.offline.experiments import ExperimentResult
from engine.policy import Policy
from engine.revisions import Revision, differences, undone_to
from feedloom.canary import PREFIX, Canary, Verdict, is_canary, tried_by_some, watched
from feedloom.experiments_command import results_under
from feedloom.kafka_commands import json_option, show_document
from feedloom.option_types import DurationType, PercentType
from feedloom.place import Place
from feedloom.policy_reference import document_schema
from feedloom.undo_commands import confirmed, date_of, of_a_target, target_of
from streams.asking import Change
from streams.orders import KafkaTarget
from streams.policy_file import RefusedError, read_policy

FILE = click.Path(path_type=Path)
FOLLOW_SECONDS = 15.0  # that workers have to say they took it


@click.group()
def policy() -> None:
    """What a feed should be, as data: TOML in, one revision after the other, all of them kept."""


@policy.command("validate")
@click.argument("file", type=FILE)
@json_option
def validate_command(file: Path, *, as_json: bool) -> None:
    """Check FILE whole. Exit 1 if it is refused, 2 if it cannot be read."""
    try:
        read = read_policy(file)
    except RefusedError as error:
        if as_json:
            show_document({"valid": False, "reason": str(error)})
        click.echo(f"refused: {error}", err=True)
        raise SystemExit(1) from error
    if as_json:
        show_document({"valid": True, "version": read.version})
        return
    click.echo(f"{file} is a policy: version {read.version}, pools {', '.join(read.pools)}")


@policy.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of a policy file, for editors."""
    show_document(document_schema())


@policy.command("diff")
@click.argument("file", type=FILE)
@click.option("--with", "other", type=FILE, metavar="FILE", help="Another file, instead of what is in force.")
@of_a_target
def diff_command(file: Path, other: Path | None, **options: Any) -> None:
    """Show what FILE changes of the policy in force, or of another file."""
    before = read_policy(other) if other else in_force(options).policy
    found = differences(before, read_policy(file))
    if options["as_json"]:
        show_document({"changes": [{"key": key, "from": old, "to": new} for key, old, new in found]})
        return
    print_differences(found)


@policy.command("apply")
@click.argument("file", type=FILE)
@click.option("--why", required=True, help="For those who look at the history.")
@click.option("--who", help="Who wants it; default: your user name and this machine's.")
@click.option("--after", type=click.IntRange(0), help="Only if this revision is in force, as `diff` showed it.")
@click.option("--canary", "part", type=PercentType(), help="A part of the users tries it first: 5%.")
@click.option(
    "--guardrail",
    type=PercentType(),
    default="5%",
    show_default=True,
    help="Of the reward per feed, that it may lose.",
)
@click.option(
    "--for", "trial_ms", type=DurationType(), default="1h", show_default=True, help="How long it is tried."
)
@click.option(
    "--every", "every_ms", type=DurationType(), default="30s", show_default=True, help="How often looked at."
)
@click.option("--watch", type=FILE, metavar="DIR", help="With --url and --canary: the data of that server.")
@of_a_target
def apply_command(
    file: Path, why: str, who: str | None, after: int | None, part: float | None, **options: Any
) -> None:
    """Put FILE into force: every worker takes it between two of its turns.

    With --canary a part of the users tries it first, as an experiment, while this command watches: the old policy
    returns by itself, with exit 1, as soon as the new one is sure to earn less than the guardrail allows, or if at
    the end it is not sure to earn more than that.
    """
    wanted, now = read_policy(file), in_force(options, missing=True)
    found = differences(now.policy if now else Policy(), wanted)
    if now and not found:
        raise InputError(f"{file} is what is in force already, as revision {now.number}")
    if not options["as_json"]:
        print_differences(found)
    confirmed("put this into force", yes=options["yes"])
    after = after if after is not None or now is None else now.number
    if part is None:
        show_in_force(options, put(options, wanted, who, why, after), {})
    elif now is None:
        raise InputError("there is no policy that others could keep: apply it without --canary first")
    else:
        how = Canary(part, options["guardrail"], options["trial_ms"] / 1000.0, options["every_ms"] / 1000.0)
        try_first(options, now, wanted, how, who, why)


def try_first(
    options: dict[str, Any], now: Revision, wanted: Policy, how: Canary, who: str | None, why: str
) -> None:
    """Let some users try a policy, and keep it or take it back. Exit 1 if it is taken back."""
    if options["url"] is not None and options["watch"] is None:
        raise InputError("to watch a canary of a server, say where its data is: --watch DIR")
    name = f"{PREFIX}{now.number + 1}"
    tried = tried_by_some(now.policy, wanted, how.part, name)
    place = Place(None, options["watch"], options["bootstrap"], None, "latest")
    results_under(tried, place, name, how.alpha)  # before anybody tries it: whether it can be watched there
    begun = put(options, tried, who, f"canary of {how.part:.3g}: {why}", now.number)
    click.echo(f"revision {begun.number} lets {how.part:.3g} of the users try it", err=True)
    place = place._replace(start=begun.at_ms)

    def look(policy: Policy) -> ExperimentResult | None:
        if in_force(options).number != begun.number:
            return None
        return results_under(policy, place, name, how.alpha)[0]

    verdict = Verdict(kept=False, reason="the canary was not watched to its end")
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C does: what is left behind is taken back
        signal.signal(number, lambda *_: sys.exit(1))
    try:
        verdict = watched(tried, how, look, lambda said: click.echo(said, err=True))
    finally:  # also when it is interrupted
        revision = None if verdict.over else ended(options, verdict, now, wanted, begun, who, why)
    if revision is not None:
        show_in_force(options, revision, {"kept": verdict.kept, "reason": verdict.reason})
    if not verdict.kept:
        click.echo(verdict.reason if verdict.over else f"taken back: {verdict.reason}", err=True)
        sys.exit(1)


def ended(
    options: dict[str, Any], verdict: Verdict, now: Revision, wanted: Policy, begun: Revision, *said: str | None
) -> Revision:
    """Keep what was tried, or take it back. Raises InputError where that cannot be, and says what is left."""
    who, why = said
    try:
        if verdict.kept:
            return put(options, wanted, who, f"{why}: {verdict.reason}", begun.number)
        return put(options, now.policy, who, f"canary taken back: {verdict.reason}", begun.number, now.number)
    except InputError as error:
        raise InputError(
            f"the canary may be in force still, `feedloom policy rollback` ends it: {error}"
        ) from error


@policy.command("history")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="So many, the latest.")
@of_a_target
def history_command(limit: int, **options: Any) -> None:
    """Show who changed the policy, when and why, and what."""
    revisions = target_of(options).revisions(limit + 1)
    if not revisions:
        raise InputError("there is no policy in force yet: begin a worker, or `feedloom policy apply`")
    before = [None, *revisions[:-1]]
    rows = list(zip(before, revisions, strict=True))[-limit:]
    if options["as_json"]:
        show_document({"revisions": [about(one, old) for old, one in rows]})
        return
    for old, one in rows:
        click.echo(
            f"revision {one.number}  {date_of(one.at_ms)}  {one.version}  {one.who} ({one.source}): {one.why}"
        )
        if old is not None:
            print_differences(differences(old.policy, one.policy), indent="    ")


@policy.command("rollback")
@click.option("--to", "number", type=click.IntRange(1), help="A revision; default: the one before.")
@click.option("--why", default="rollback", show_default=True, help="For those who look at the history.")
@click.option("--who", help="Who wants it; default: your user name and this machine's.")
@of_a_target
def rollback_command(number: int | None, why: str, who: str | None, **options: Any) -> None:
    """Undo the last change of the policy, and the one before if it is done again; `--to N` takes any revision.

    Canaries are stepped over. What comes into force is a new revision.
    """
    revisions = target_of(options).revisions()
    if not revisions:
        raise InputError("there is no policy in force yet, so there is nothing to go back to")
    if number is None:
        wanted = undone_to(revisions, is_canary)
        if wanted is None:
            raise InputError("there is no earlier revision of the policy to go back to: `--to N` takes any")
    else:
        wanted = next((one for one in revisions if one.number == number), None)
        if wanted is None:
            raise InputError(f"there is no revision {number}: `feedloom policy history` lists them")
    found = differences(revisions[-1].policy, wanted.policy)
    if not found:
        raise InputError(f"revision {wanted.number} says what is in force already")
    if not options["as_json"]:
        print_differences(found)
    confirmed(f"go back to revision {wanted.number}", yes=options["yes"])
    why = f"{why} (to revision {wanted.number})"
    made = put(options, wanted.policy, who, why, revisions[-1].number, wanted.number)
    show_in_force(options, made, {})


def put(
    options: dict[str, Any],
    wanted: Policy,
    who: str | None,
    why: str,
    after: int | None,
    restores: int | None = None,
) -> Revision:
    """Put a policy into force. Raises InputError where it is refused, or another one is there meanwhile."""
    who = who or f"{getpass.getuser()}@{socket.gethostname()}"
    return target_of(options).apply(Change(wanted, who, why, after, restores=restores))


def show_in_force(options: dict[str, Any], revision: Revision, more: dict[str, Any]) -> None:
    """Say that a revision is in force, and how far the workers have come."""
    target = target_of(options) if options["url"] is options["data"] is None else None
    followers = target.followers(revision, FOLLOW_SECONDS) if isinstance(target, KafkaTarget) else None
    if options["as_json"]:
        show_document(about(revision) | more | ({"partitions": followers} if followers else {}))
    else:
        click.echo(f"revision {revision.number}, version {revision.version}, is in force")
        if followers:
            click.echo(f"{followers[0]} of {followers[1]} partitions are turned by it")
    if followers and followers[0] < followers[1]:
        click.echo("the others have not said so: is a worker running? `feedloom tail alerts` may know", err=True)
        sys.exit(1)


def in_force(options: dict[str, Any], *, missing: bool = False) -> Any:
    """The newest revision of a target; None if there is none and that may be `missing`."""
    revisions = target_of(options).revisions(1)
    if not revisions and not missing:
        raise InputError("there is no policy in force yet: begin a worker, or `feedloom policy apply`")
    return revisions[-1] if revisions else None


def about(revision: Revision, before: Revision | None = None) -> dict[str, Any]:
    """A revision as a document, with what it changed of the one before."""
    shown = {name: getattr(revision, name) for name in ("number", "version", "who", "why", "source", "at_ms")}
    if before is None:
        return shown
    found = differences(before.policy, revision.policy)
    return shown | {"changes": [{"key": key, "from": old, "to": new} for key, old, new in found]}


def print_differences(found: list[tuple[str, object, object]], indent: str = "") -> None:
    """A line for each key."""
    if not found:
        click.echo(f"{indent}nothing differs")
    for key, old, new in found:
        click.echo(f"{indent}{key}: {_shown(old)} → {_shown(new)}")


def _shown(value: object) -> str:
    return "(none)" if value is None else msgspec.json.encode(value).decode()
