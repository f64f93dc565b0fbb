"""The command line. Results go to stdout, all else to stderr; exit 0 done, 1 a check failed, 2 bad input."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
from msgspec.structs import replace
from rich.console import Console

from engine.errors import InputError
from engine.policy import Policy
from feedloom.bench import FULL, QUICK, benchmark, print_benchmark, rounds_of, singles_us
from feedloom.bench_rows import comparisons, missing_peers
from feedloom.dead_letters_command import dead_letters
from feedloom.doctor import examine
from feedloom.experiments_command import experiments
from feedloom.explain import explain
from feedloom.funnel_command import funnel_command
from feedloom.interaction_log import CATEGORY_VALUES_MAX, item_updates, read_items, read_log
from feedloom.kafka_commands import COMMANDS
from feedloom.movielens import movielens
from feedloom.option_types import BreakType, DurationType
from feedloom.policy_commands import policy
from feedloom.progress import bar_of_each, progress_bar
from feedloom.propensities_command import propensities_command
from feedloom.report import print_table, write_report
from feedloom.serve_command import serve_command
from feedloom.simulation_report import print_scoreboard, write_simulation
from feedloom.undo_commands import state, users
from feedloom.what_if_command import what_if
from feedloom.worker_command import worker
from simulator.backtest import backtest, policy_of_logs
from simulator.closed_loop import ACTION
from simulator.interactions import Interaction
from simulator.peers import available_peers
from simulator.referee import Plan, judged, seeded, trial, trials
from simulator.replay_plan import Clock, ReplayPlan
from simulator.scoreboard import Backtest
from simulator.worlds import WORLDS
from streams.policy_file import read_policy
from streams.recording import Recording
from streams.replay import replay

MOVIELENS_POSITIVE = "value>=4"
MOVIELENS_SESSION_MS = 30 * 60_000  # gaps of a session of the demo
Options = dict[str, Any]
Command = Callable[..., None]

OPTIONS = [
    click.option(
        "--items",
        type=click.Path(path_type=Path),
        help="CSV with the column item and attributes, which are known from the first row on; one with more than "
        f"{CATEGORY_VALUES_MAX:,} values, such as a title, is no category and only for the report.",
    ),
    click.option("--policy", type=click.Path(path_type=Path), help="TOML file; the defaults are in policy.toml."),
    click.option("--positive", metavar="'COLUMN OP VALUE'", help="Rows that ask for a feed, such as 'value>=4'."),
    click.option("--train-fraction", type=float, default=0.2, show_default=True, help="First part, not scored."),
    click.option("--slots", type=click.IntRange(1), default=10, show_default=True, help="Slots of a feed."),
    click.option("--seed", type=int, help="Seed of all draws; default: the policy's."),
    click.option(
        "--batch", type=click.IntRange(1), default=256, show_default=True, help="Inputs of a micro-batch."
    ),
    click.option(
        "--clock",
        type=click.Choice(get_args(Clock)),
        default="strict",
        show_default=True,
        help="A request's time: that of the row before, or the event's own.",
    ),
    click.option(
        "--shuffle-within",
        type=DurationType(),
        help="Run once more without the order inside sessions, whose gaps are at most this: 30m, 1h, or off.",
    ),
    click.option("--ablate", metavar="PART", help="Run once more without a group of features, or 'own' weights."),
    click.option("--break", "broken", type=BreakType(), help="Run once more with a pool random from there on."),
    click.option("--record", type=click.Path(path_type=Path), help="Write the topics into this new folder."),
    click.option("--out", type=click.Path(path_type=Path), help="Write the report page into this folder."),
    click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout instead of the table."),
]


def backtest_options(command: Command) -> Command:
    """Give a command the options of a backtest."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("feedloom"), prog_name="feedloom")
def cli() -> None:
    """Weave candidate pools into one feed, and learn from every reaction."""


@cli.command("backtest")
@click.argument("log", type=click.Path(path_type=Path))
@backtest_options
def backtest_command(log: Path, **options: Any) -> None:
    """Replay LOG (CSV: user,item,timestamp[,value][,action]) against the single pools and the plain blends.

    Every positive row asks for a feed first; the other rows only teach.
    """
    run_backtest(log, log.stem, options)


@cli.command()
@backtest_options
def demo(**options: Any) -> None:
    """The backtest on MovieLens-100K, which is downloaded once; the report page goes to feedloom-demo.

    It runs once more without the order inside sessions: --shuffle-within is 30m here.
    """
    checked(options)
    log, items = movielens(lambda doing: click.echo(doing, err=True))
    given = {name: value for name, value in options.items() if value is not None}
    defaults = {
        "items": items,
        "positive": MOVIELENS_POSITIVE,
        "out": Path("feedloom-demo"),
        "shuffle_within": MOVIELENS_SESSION_MS,
    }
    run_backtest(log, "movielens-100k", {**options, **defaults, **given})


def run_backtest(log: Path, dataset: str, options: Options) -> None:
    """Check every input before the first event, replay, then show what came of it."""
    policy, plan = checked(options)
    rows = read_log(log, options["positive"])
    items = read_items(options["items"]) if options["items"] else {}
    with ExitStack() as stack:
        stack.enter_context(promised(options["out"]))
        recording = stack.enter_context(Recording(options["record"], policy)) if options["record"] else None
        with progress_bar() as bar:
            progress = bar_of_each(bar, len(rows))
            result = backtest(
                rows,
                policy,
                plan,
                dataset=dataset,
                items=item_updates(items),
                log=recording,
                progress=progress,
            )
        titles = {item: " ".join(of["title"]) for item, of in items.items() if of.get("title")}
        warn(rows, policy)
        show(result, titles, options["out"], as_json=options["as_json"])


def checked(options: Options) -> tuple[Policy, ReplayPlan]:
    """The policy and the plan of a backtest, and refusal of options that do not go together."""
    policy = policy_of_logs(chosen_policy(options["policy"], options["seed"]))
    plan = ReplayPlan(
        train_fraction=options["train_fraction"],
        slots=options["slots"],
        batch=options["batch"],
        clock=options["clock"],
        shuffle_within_ms=options["shuffle_within"] or None,
        ablate=options["ablate"],
        broken=options["broken"],
    )
    plan.check(policy)
    return policy, plan


def warn(rows: Sequence[Interaction], policy: Policy) -> None:
    """Say what a log can hardly show."""
    pairs = {(row.user, row.item) for row in rows}
    if len(pairs) < len(rows):
        click.echo(
            f"note: {len(rows) - len(pairs):,} of {len(rows):,} rows repeat a user and item; an item reacted to is "
            "not offered again, so these cannot be hit",
            err=True,
        )
    likes, ready = sum(row.positive for row in rows), policy.weights.ready_likes
    if policy.personal and likes < ready:
        click.echo(
            f"note: the pool {policy.personal} waits for {ready:,} likes where others fill the page, and the log "
            f"has {likes:,}; with a lower ready_likes in [weights] of a policy it comes earlier",
            err=True,
        )


def chosen_policy(path: Path | None, seed: int | None) -> Policy:
    """The policy of a file or the default one, with the seed of the command line if there is one."""
    policy = read_policy(path) if path else Policy()
    if seed is None:
        return policy
    try:
        return replace(policy, blend=replace(policy.blend, seed=seed))
    except ValueError as error:
        raise InputError(f"--{error}") from error


@contextmanager
def promised(folder: Path | None) -> Iterator[None]:
    """Refuse a folder that cannot be had before the work, and leave none behind if the work fails."""
    made = [] if folder is None else [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        yield
    except FileExistsError as error:
        raise InputError(f"{folder} is not a folder: choose another --out") from error
    except BaseException:
        for path in made:
            with suppress(OSError):  # it holds something by now
                path.rmdir()
        raise


def show(result: Backtest, titles: dict[str, str], out: Path | None, *, as_json: bool) -> None:
    """Print the figures and write the report page."""
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(result.summary)).decode())
    else:
        print_table(result, Console())
    if out:
        page, picture = write_report(result, titles, out)
        click.echo(f"report: {page} and {picture}", err=True)


@cli.command()
@click.argument("scenario", metavar="SCENARIO", type=click.Choice(sorted(WORLDS)))
@click.option("--seed", type=int, default=0, show_default=True, help="First seed, of the world and of all draws.")
@click.option(
    "--seeds", type=click.IntRange(1), default=1, show_default=True, help="Seeds from there on, in parallel."
)
@click.option("--feeds", type=click.IntRange(1), default=2000, show_default=True, help="Feeds of each user.")
@click.option("--users", type=click.IntRange(1), default=1, show_default=True, help="Users that live at a time.")
@click.option("--policy", type=click.Path(path_type=Path), help="TOML file; its pools give way to the world's.")
@click.option("--batch", type=click.IntRange(1), default=256, show_default=True, help="Inputs of a micro-batch.")
@click.option("--record", type=click.Path(path_type=Path), help="Write the topics into this new folder (one seed).")
@click.option("--out", type=click.Path(path_type=Path), help="Write the report page into this folder.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout instead of the table.")
def simulate(scenario: str, seed: int, seeds: int, **options: Any) -> None:
    """Let simulated users live with the blend, and say what it lost against the best feeds of their world."""
    if options["record"] and seeds > 1:
        raise InputError("--record takes the topics of one run: leave out --seeds")
    if seed < 0:
        raise InputError(f"--seed counts from 0, so {seed} is none")
    policy = chosen_policy(options["policy"], None)
    if ACTION not in policy.likes:
        raise InputError(f"simulated users {ACTION} items: give [actions.{ACTION}] a reward above 0")
    plan = Plan(scenario, policy, options["feeds"], options["users"], options["batch"])
    left_out(available_peers(len(WORLDS[scenario].pools), 0)[1])
    with ExitStack() as stack:
        stack.enter_context(promised(options["out"]))
        if options["record"]:
            recording = stack.enter_context(Recording(options["record"], seeded(plan, seed)))
            runs = iter([trial(plan, seed, recording)])
        else:
            runs = trials(plan, range(seed, seed + seeds))
        with progress_bar() as bar:
            result, curves = judged(plan, seed, bar.track(runs, total=seeds, description="simulating"))
        if options["as_json"]:
            click.echo(msgspec.json.format(msgspec.json.encode(result)).decode())
        else:
            print_scoreboard(result, curves, Console())
        if options["out"]:
            page, picture = write_simulation(result, curves, options["out"])
            click.echo(f"report: {page} and {picture}", err=True)


def left_out(missing: list[str]) -> list[str]:
    """The peers that are not installed, of which the user is told."""
    if missing:
        click.echo(f"left out, not installed (pip install 'feedloom[bench]'): {', '.join(missing)}", err=True)
    return missing


@cli.command()
@click.option("--rounds", type=click.IntRange(1), help=f"Rounds of the comparison; default: {FULL.rounds}.")
@click.option("--quick", is_flag=True, help="A few short rounds: that it runs, not how fast.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout instead of the table.")
def bench(rounds: int | None, *, quick: bool, as_json: bool) -> None:
    """Time the blend beside other libraries, in turn in one process, and say what each does less or more."""
    size = QUICK if quick else FULL
    size = size._replace(rounds=rounds or size.rounds)
    with ExitStack() as stack:
        compared = comparisons(left_out(missing_peers()), stack)
        with progress_bar() as bar:
            times = list(bar.track(rounds_of(compared, size), total=size.rounds, description="measuring"))
        found = benchmark(compared, times, singles_us(size))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        print_benchmark(found, Console())


@cli.command("replay")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--batch", type=click.IntRange(1), default=256, show_default=True, help="Inputs of a micro-batch.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def replay_command(folder: Path, batch: int, *, as_json: bool) -> None:
    """Decide every request of the recording DIR again, and compare byte for byte."""
    equal, difference = replay(folder, batch)
    if as_json:
        click.echo(msgspec.json.encode({"equal": equal, "difference": difference}).decode())
    elif difference:
        click.echo(f"{equal} decisions are the same, then {difference}")
    else:
        click.echo(f"{equal} decisions, all the same byte for byte")
    if difference:
        sys.exit(1)


@cli.command()
@click.option("--records", type=click.Path(path_type=Path), help="Rebuild every decision of this recording.")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Read all that a server has kept, and rebuild its feeds."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def doctor(records: Path | None, data: Path | None, *, as_json: bool) -> None:
    """Check this installation, and with --records that every decision follows from its record alone.

    With --data DIR also that every batch and every state that `feedloom serve` has kept there can be read.
    """
    checks = examine(records, data)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode({"checks": checks})).decode())
    else:
        for check in checks:
            click.echo(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.detail}")
    if not all(check.ok for check in checks):
        sys.exit(1)


policy.add_command(what_if)

for command in (
    *COMMANDS,
    dead_letters,
    experiments,
    explain,
    funnel_command,
    policy,
    propensities_command,
    serve_command,
    state,
    users,
    worker,
):
    cli.add_command(command)


def main() -> None:
    """Run, and turn what a user can mend into one sentence on stderr and exit 2."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        fail(f"name a command; {error.ctx.command_path} --help lists them")
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "feedloom"
        fail(f"{error.format_message().rstrip('.')}; see {path} --help")
    except (InputError, click.ClickException) as error:
        fail(error.format_message() if isinstance(error, click.ClickException) else str(error))
    except OSError as error:
        fail(f"{error.strerror or error}: {error.filename or 'writing the output'}")
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped", err=True)
        sys.exit(130)


def fail(sentence: str) -> None:
    """One line on stderr, exit 2."""
    click.echo("feedloom: " + " ".join(sentence.split()), err=True)
    sys.exit(2)
