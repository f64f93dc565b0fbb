"""The rows of `feedloom bench`: which there are, in which order, and the libraries that they need."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec

from feedloom import bench_peers
from feedloom.bench_peers import DRAW, FEED, Comparison
from feedloom.bench_weights import DIAGONAL, FULL, SCORE, weight_rows
from simulator.peers import PEERS

MODULES = {name: module for name, (module, _) in PEERS.items()} | {
    "padasip": "padasip",
    "implicit": "implicit",
    "faiss": "faiss",
}


def missing_peers() -> list[str]:
    """The libraries that are not installed, by name."""
    return [name for name, module in MODULES.items() if not find_spec(module)]


def comparisons(missing: Sequence[str], end: ExitStack) -> list[Comparison]:
    """The rows, without the peers that are `missing`; what a peer holds is let go at the `end`."""
    makers: dict[str, Callable[[], list[Comparison]]] = {
        "mabwiser": bench_peers.mabwiser_rows,
        "river": bench_peers.river_rows,
        "vw": partial(bench_peers.vw_rows, end=end),
    }
    rows = [row for name, make in makers.items() if name not in missing for row in make()]
    rows += bench_peers.nop_rows() + weight_rows(missing, end)
    return [row for name in (DRAW, FEED, DIAGONAL, FULL, SCORE) for row in rows if row.name == name]
