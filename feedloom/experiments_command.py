"""`feedloom experiments results`: what the arms of a policy's experiments have shown, and whether to believe it."""

import sys
from pathlib import Path

import click

from engine.decision import Decision
from engine.errors import InputError
from engine.offline.experiments import ArmResult, ExperimentResult, Outcomes
from engine.policy import Policy
from feedloom.kafka_commands import bootstrap_option, json_option, print_columns, show_document
from feedloom.place import Place, data_option, records_option

HEAD = ("arm", "users", "share", "feeds", "reward per feed", "difference", "at any time", "at once")


@click.group()
def experiments() -> None:
    """Comparisons of arms by users, which the policy's [experiments] say."""


@experiments.command("results")
@records_option
@data_option
@bootstrap_option
@click.option(
    "--policy",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The policy served by; default: what is in force. A recording has its own.",
)
@click.option("--experiment", metavar="NAME", help="Of this one alone.")
@click.option(
    "--alpha",
    type=click.FloatRange(0.0, 0.5, min_open=True),
    default=0.05,
    show_default=True,
    help="The chance that any interval of a table misses the truth.",
)
@json_option
def results_command(
    records: Path | None,
    data: Path | None,
    bootstrap: str | None,
    policy: Path | None,
    experiment: str | None,
    alpha: float,
    *,
    as_json: bool,
) -> None:
    """Print each arm's users, feeds and reward per feed, and the difference from the first arm, by cohort too.

    The interval "at any time" may be looked at as often as you like, and the experiment ended for what it shows;
    the one "at once" only at a time that was chosen before. Exit 1 if an arm has not the users that its share would
    have given it: then do not believe the rest.
    """
    found = results_at(Place(records, data, bootstrap, policy), experiment, alpha)
    if as_json:
        show_document({"experiments": found})
    else:
        for result in found:
            print_result(result)
    mismatched = [result for result in found if result.mismatch]
    for result in mismatched:
        click.echo(f"feedloom: experiment {result.experiment}: {result.mismatch}: do not believe it", err=True)
    if mismatched:
        sys.exit(1)


def results_at(place: Place, name: str | None, alpha: float) -> list[ExperimentResult]:
    """What the experiment of this name, or every one, has shown. Raises InputError where there is none."""
    policy = place.served_by()
    if not policy.experiments:
        raise InputError("the policy has no experiments: its [experiments] say them, see docs/experiments.md")
    if name is not None and name not in policy.experiments:
        raise InputError(f"the policy has no experiment {name}, only {', '.join(policy.experiments)}")
    return results_under(policy, place, name, alpha)


def results_under(policy: Policy, place: Place, name: str | None, alpha: float) -> list[ExperimentResult]:
    """What experiments of this policy have shown in the feeds of a place."""
    outcomes = Outcomes(policy)
    for value, at_ms, partition in place.read("feedback"):
        outcomes.react(value, at_ms, partition)
    for value, _, _ in place.read("feeds"):
        if isinstance(value, Decision):
            outcomes.decide(value)
    return [result for result in outcomes.results(alpha) if name in (None, result.experiment)]


def print_result(found: ExperimentResult) -> None:
    """A table of the arms, and one for each cohort."""
    click.echo(f"experiment {found.experiment}, layer {found.layer}")
    print_columns([HEAD, *map(_row, found.arms)])
    if found.mixed:
        click.echo(f"{found.mixed:,} users were given feeds of several arms, and are left out")
    for cohort, arms in found.cohorts.items() if len(found.cohorts) > 1 else ():
        click.echo(f"\ncohort {cohort or '(none)'}")
        print_columns([HEAD, *map(_row, arms)])
    click.echo(
        f"\nintervals of a table, or of all cohorts, hold together in {1.0 - found.alpha:.4g} of cases; "
        f"sample ratio: p = {found.sample_ratio_chance:.3g}"
    )


def _row(arm: ArmResult) -> tuple[str, ...]:
    reward = "" if arm.reward_per_feed is None else f"{arm.reward_per_feed:.4f}"
    cells = (arm.arm, f"{arm.users:,}", f"{arm.share:.1%}", f"{arm.feeds:,}", reward)
    if arm.difference is None:
        return (*cells, "", "", "")
    intervals = (f"[{low:+.4f}, {high:+.4f}]" for low, high in (arm.difference.at_any_time, arm.difference.at_once))
    return (*cells, f"{arm.difference.estimate:+.4f}", *intervals)
