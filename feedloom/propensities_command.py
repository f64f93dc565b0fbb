"""`feedloom propensities`: how likely each pool was to get each slot, for all of `feeds` or of a recording."""

from collections.abc import Callable, Iterator
from pathlib import Path

import click
import msgspec
from msgspec import Struct

from engine.decision import Decision
from engine.errors import InputError
from engine.propensity_record import PropensityRecord, propensity_record
from feedloom.progress import progress_bar
from feedloom.worker_command import LEVELS, run_hosted
from streams.permissions import PROPENSITIES
from streams.recording import Entry, Line, add_topic, read_topic, recorded_policy


class Summary(Struct):
    """What the propensities of a recording are like; None where there is nothing to be the most or the least."""

    feeds: int = 0
    quadrature: int = 0
    monte_carlo: int = 0
    error_max: float | None = None
    shown_propensity_min: float | None = None

    def add(self, decision: Decision, made: PropensityRecord) -> None:
        """Count one feed."""
        self.feeds += 1
        if made.method == "quadrature":
            self.quadrature += 1
        else:
            self.monte_carlo += 1
        for row, errors, pool in zip(made.chances, made.errors, decision.slot_pools, strict=True):
            self.error_max = max(self.error_max or 0.0, *errors)
            shown = row[pool]
            self.shown_propensity_min = min(shown if (least := self.shown_propensity_min) is None else least, shown)


@click.command("propensities")
@click.option("--records", type=click.Path(path_type=Path), help="Of this recording, instead of Kafka's `feeds`.")
@click.option("--bootstrap", metavar="HOST:PORT,…", help="Brokers to begin with.")
@click.option("--topic-prefix", help="What every topic's name begins with.")
@click.option("--group", help="The consumer group of the workers; the job's has -propensities behind it.")
@click.option("--log-level", type=click.Choice(LEVELS), help="Least that is logged.  [default: INFO]")
@click.option("--json", "as_json", is_flag=True, help="With --records: the summary as one JSON document on stdout.")
def propensities_command(
    records: Path | None, log_level: str | None, *, as_json: bool, **given: str | None
) -> None:
    """Write to `propensities`, for every decision in `feeds`, how likely each pool was to get each slot.

    It goes on until SIGTERM; start as many as you like. What is not given comes from FEEDLOOM_* variables and
    settings.toml. With --records DIR it writes DIR/propensities.jsonl, says what came of it, and ends.
    """
    if records is None:
        if as_json:
            raise InputError("--json prints the summary of a recording: give --records, or leave --json out")
        run_hosted("streams.propensity_job", PROPENSITIES, given, log_level or "INFO")
        return
    if log_level or any(given.values()):
        raise InputError("--records needs no Kafka: leave out --bootstrap, --topic-prefix, --group and --log-level")
    with progress_bar() as bar:
        task = bar.add_task("computing", total=feeds_of(records))
        found = enrich_recording(records, lambda: bar.advance(task))
    click.echo(msgspec.json.format(msgspec.json.encode(found)).decode() if as_json else in_words(found))


def feeds_of(folder: Path) -> int:
    """How many decisions a recording has. Raises InputError for what is no recording."""
    recorded_policy(folder)
    return sum(1 for _ in read_topic(folder, "feeds"))


def enrich_recording(folder: Path, advance: Callable[[], object] = lambda: None) -> Summary:
    """Write the topic `propensities` of a recording; `advance` is called after every feed.

    Raises InputError with file and line of a record that could not be a decision; nothing is written then.
    """
    found = Summary()

    def entries() -> Iterator[Entry]:
        for line in read_topic(folder, "feeds"):
            decision, made = _made_of(line)
            found.add(decision, made)
            yield Entry("propensities", line.offset, made.user, line.at_ms, made)
            advance()

    add_topic(folder, "propensities", entries())
    return found


def _made_of(line: Line) -> tuple[Decision, PropensityRecord]:
    if not isinstance(line.value, Decision):
        raise InputError(f"{line.place}: a {type(line.value).__name__.lower()} stands among the decisions")
    try:
        return line.value, propensity_record(line.value)
    except (ValueError, IndexError, ArithmeticError) as error:
        raise InputError(f"{line.place}: this could not be a decision: {error}") from error


def in_words(found: Summary) -> str:
    """The summary, for a person."""
    told = f"{found.feeds:,} feeds: {found.quadrature:,} by quadrature, {found.monte_carlo:,} by Monte Carlo"
    if found.error_max is None or found.shown_propensity_min is None:
        return told
    return (
        f"{told}; largest standard error {found.error_max:.2g}; "
        f"smallest propensity of what was shown {found.shown_propensity_min:.2g}"
    )
