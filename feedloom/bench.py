"""`feedloom bench`: how long a blend takes beside other libraries, in one process, as ratios of interleaved rounds.

Times of a machine that others use are good to a factor of two. So ours and a peer take turns of a millisecond, what
counts is processor time, and what is said is the median of the rounds' ratios with the least and the greatest.
"""

import gc
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter_ns, process_time_ns
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from rich import box, table
from rich.console import Console
from rich.text import Text

from blending.randomness import key_of
from blending.types import FloatArray
from feedloom.bench_peers import FEED, SEED, Call, Comparison, Duel, our_feed

WARM_CALLS = 20  # before anything is timed: compilers, caches, lazy imports
KEYS_MAX = 20_000  # different draws of ours; a call with a key that it had lately would find its branches learned
TURN_US = 1_000.0  # what the calls of one side should take before it is the other's turn


class Size(NamedTuple):
    """How much is measured: rounds, turns of each side in a round, and calls that are timed one by one."""

    rounds: int
    turns: int
    singles: int


FULL = Size(rounds=21, turns=10, singles=20_000)  # about ten seconds
QUICK = Size(rounds=3, turns=1, singles=1_000)  # that it runs, not how fast


class Row(Struct, frozen=True):
    """One comparison. Times are medians of rounds, in microseconds of processor time a call.

    `ratio` is the median of peer_us / ours_us of each round, `spread` the least and the greatest of them;
    `limit_fraction` is the part of ours that is the call itself, known where the peer is `nop`.
    """

    name: str
    ours_us: float
    peer: str
    peer_us: float
    ratio: float
    spread: tuple[float, float]
    limit_fraction: float | None
    note: str


class Benchmark(Struct, frozen=True):
    """All rows, and the machine that they are from."""

    machine: str
    rows: list[Row]


def rounds_of(compared: Sequence[Comparison], size: Size) -> Iterator[FloatArray]:
    """Measure round by round: µs a call, (duels, 2), ours first; duels as `duels_of` orders them."""
    keys = [key_of(SEED, "bench", str(number)) for number in range(KEYS_MAX)]
    with _no_collector():
        timed = [(duel, (_calls(duel.ours, keys), _calls(duel.theirs, keys))) for duel in duels_of(compared)]
        for _ in range(size.rounds):
            gc.collect()
            yield np.array([_round_us(duel, calls, size.turns, keys) for duel, calls in timed])


def duels_of(compared: Sequence[Comparison]) -> list[Duel]:
    """The duels of all rows, then the asides of those that have one."""
    return [one.duel for one in compared] + [one.aside for one in compared if one.aside]


def singles_us(size: Size) -> FloatArray:
    """Our feed one call at a time, in µs by the clock on the wall, with what reading it takes."""
    keys, call = [key_of(SEED, "single", str(number)) for number in range(size.singles)], our_feed()
    took = []
    with _no_collector():
        _turn_us(call, keys[:WARM_CALLS])
        for key in keys:
            start = perf_counter_ns()
            call(key)
            took.append(perf_counter_ns() - start)
    return np.array(took) / 1e3


def benchmark(compared: Sequence[Comparison], rounds: Sequence[FloatArray], singles: FloatArray) -> Benchmark:
    """What the rounds (each (duels, 2) µs) and the calls one by one (µs) say."""
    times = np.array(rounds)
    asides = iter(range(len(compared), times.shape[1]))
    rows = []
    for at, one in enumerate(compared):
        note = one.note
        if one.aside:
            note += f"; {one.aside_note} {_said(*_ratio(times[:, next(asides)]))} times ours"
        if (one.name, one.peer) == (FEED, "nop"):
            p50, p99 = np.percentile(singles, (50, 99))
            note += f"; ours call by call on the wall clock p50 {p50:.2f} µs, p99 {p99:.2f} µs of {singles.size:,}"
        rows.append(_row(one, times[:, at], note))
    return Benchmark(machine(), rows)


def _row(one: Comparison, times: FloatArray, note: str) -> Row:
    """Of the (rounds, 2) µs of its duel."""
    ours, theirs = (_rounded(side) for side in np.median(times, axis=0))
    ratio, low, high = (_rounded(value) for value in _ratio(times))
    limit_fraction = ratio if one.peer == "nop" else None
    return Row(one.name, ours, one.peer, theirs, ratio, (low, high), limit_fraction, note)


def print_benchmark(found: Benchmark, console: Console) -> None:
    """Print a table of rows, then what each peer does less or more."""
    heads = ("what", "ours µs", "peer", "peer µs", "ratio", "spread")
    grid = table.Table(*heads, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    for row in found.rows:
        times = (f"{row.ours_us:.4g}", row.peer, f"{row.peer_us:.4g}")
        cells = (row.name, *times, *_said(row.ratio, *row.spread).split(" ", 1))
        grid.add_row(*map(Text, cells))
    console.print(grid)
    for row in found.rows:
        console.print(Text(f"{row.name}, {row.peer}: {row.note}"), soft_wrap=True)
    says = f"{found.machine}; processor time; ratio: peer / ours, median of rounds and its range"
    console.print(Text(says), soft_wrap=True)


def machine() -> str:
    """The processors and the Python that the figures are from."""
    model = platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{os.cpu_count()} × {model}, {platform.system()}, Python {platform.python_version()}"


@contextmanager
def _no_collector() -> Iterator[None]:
    """Without collections of cycles, which would fall on whoever is called."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _calls(call: Call, keys: Sequence[np.uint64]) -> int:
    """How many calls make a turn; warms the call up."""
    _turn_us(call, keys[:WARM_CALLS])
    return int(np.clip(TURN_US / _turn_us(call, keys[:WARM_CALLS]) * WARM_CALLS, 1, KEYS_MAX))


def _round_us(duel: Duel, calls: tuple[int, int], turns: int, keys: Sequence[np.uint64]) -> tuple[float, float]:
    """Processor time of a call of each side, in µs, over so many turns."""
    ours = theirs = 0.0
    first = 0
    for _ in range(turns):
        ours += _turn_us(duel.ours, keys[first : first + calls[0]])
        theirs += _turn_us(duel.theirs, keys[: calls[1]])
        first = (first + calls[0]) % (KEYS_MAX - calls[0] + 1)
    return ours / (turns * calls[0]), theirs / (turns * calls[1])


def _turn_us(call: Call, keys: Sequence[np.uint64]) -> float:
    """Processor time of a call for each key, in µs."""
    start = process_time_ns()
    for key in keys:
        call(key)
    return (process_time_ns() - start) / 1e3


def _ratio(times: FloatArray) -> tuple[float, float, float]:
    """Of (rounds, 2) µs: the median of theirs / ours, the least and the greatest."""
    ratios = times[:, 1] / times[:, 0]
    return float(np.median(ratios)), float(ratios.min()), float(ratios.max())


def _said(ratio: float, low: float, high: float) -> str:
    return f"{ratio:.3g} [{low:.3g}, {high:.3g}]"


def _rounded(value: float) -> float:
    """To four significant figures."""
    return float(f"{value:.4g}")
