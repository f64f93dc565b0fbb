"""`feedloom policy what-if`: what a policy would have shown and earned on recorded traffic."""

import sys
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from engine.errors import InputError
from engine.offline.verdict import Limits, verdict_of
from engine.policy import Policy
from engine.what_if import SAMPLES, Match, Matching, UnsupportedError
from feedloom.kafka_commands import bootstrap_option, chosen_settings
from feedloom.progress import progress_bar
from feedloom.undo_commands import read_time
from feedloom.what_if_report import print_verdict
from streams.kept_traffic import cluster_traffic, kept_traffic
from streams.past import Traffic, recorded_traffic
from streams.policy_file import read_policy
from streams.what_if import Question, WhatIf, asked_of

LIMITS = Limits()


@click.command("what-if")
@click.argument("policy", metavar="NEW.toml", type=click.Path(path_type=Path))
@click.option(
    "--log",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="A recording, or the data of a server; default: the topics of the settings' cluster.",
)
@bootstrap_option
@click.option(
    "--since", metavar="TIME", default="0", help="Look only at feeds since a time, or a duration ago such as 1d."
)
@click.option("--only", type=click.Choice(["explored"]), help="Look only at feeds that were mixed at random.")
@click.option(
    "--match",
    type=click.Choice(["pool", "item"]),
    help="What makes a slot the same: its pool, or its item.  [default: pool where the lists are the same]",
)
@click.option("--by", "cohort_by", metavar="KEY", default="", help="Key of a request's context to tell cohorts by.")
@click.option(
    "--least-users",
    type=click.FloatRange(0.0, 1e9),
    default=LIMITS.users_min,
    show_default=True,
    help="Effective users below which the log says nothing.",
)
@click.option(
    "--samples", type=click.IntRange(1), default=SAMPLES, show_default=True, help="Redraws of a page for chances."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def what_if(
    policy: Path, folder: Path | None, bootstrap: str | None, only: str | None, match: Match | None, **how: Any
) -> None:
    """Say what NEW.toml would have shown and earned on the traffic of a log: better or worse, and by how much.

    Users and what is learned are as they were; one page at a time is asked anew. Exit 1 where the log cannot say.
    """
    asked, since_ms = read_policy(policy), read_time("--since", how["since"])
    with ExitStack() as stack:
        traffic = stack.enter_context(traffic_of(folder, bootstrap))
        refuse_unnamed(traffic.policy, asked)
        try:
            matched, usable, as_recorded = asked_of(traffic.policy, asked, match)
        except UnsupportedError as error:
            refuse(str(error), as_json=how["as_json"])
            return
        matching = Matching(matched, only == "explored", how["samples"], traffic.delta)
        question = Question(usable, matching, how["cohort_by"], since_ms)
        bar = stack.enter_context(progress_bar())
        task = bar.add_task("asking", total=traffic.feeds)
        try:
            observed = WhatIf(traffic, question).read(lambda: bar.advance(task))
        except UnsupportedError as error:
            bar.stop()
            refuse(str(error), as_json=how["as_json"])
            return
    verdict = verdict_of(observed, LIMITS._replace(users_min=how["least_users"]))
    if how["as_json"]:
        document = {
            "recorded": traffic.policy.version,
            "asked": asked.version,
            "match": matched,
            "delta": traffic.delta,
            "as_recorded": as_recorded,
            **msgspec.to_builtins(verdict),
        }
        click.echo(msgspec.json.format(msgspec.json.encode(document)).decode())
    else:
        notes = [f"slots are the same if their {matched} is"]
        if as_recorded:
            notes.append(f"what was learned is as it was, so these keys are as recorded: {', '.join(as_recorded)}")
        if traffic.policy.rewards != usable.rewards:
            notes.append("both policies are valued by the new rewards")
        print_verdict(verdict, notes, Console())
    if verdict.refused:
        sys.exit(1)


def refuse_unnamed(recorded: Policy, asked: Policy) -> None:
    """Raise InputError where actions of the log would be worth nothing because nobody has named them."""
    missing = [action for action, worth in recorded.rewards.items() if worth and action not in asked.actions]
    if missing:
        raise InputError(
            f'the log has {", ".join(missing)}, which NEW.toml does not name: add [actions."{missing[0]}"], with '
            "reward = 0 if it is worth nothing"
        )


def traffic_of(folder: Path | None, bootstrap: str | None) -> AbstractContextManager[Traffic]:
    """The traffic of a recording, of a server's data, or of a cluster. Raises InputError for two of them."""
    if folder is None:
        return cluster_traffic(chosen_settings(bootstrap))
    if bootstrap is not None:
        raise InputError("give --log or --bootstrap: they say two places")
    if (folder / "about.json").exists():
        return nullcontext(kept_traffic(folder))
    return nullcontext(recorded_traffic(folder))


def refuse(reason: str, *, as_json: bool) -> None:
    """Say why no log could speak of the policy, and exit 1."""
    click.echo(msgspec.json.encode({"refused": reason}).decode() if as_json else f"refused: {reason}")
    sys.exit(1)
