"""How every hot loop of the project is compiled."""

import inspect
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from numba import njit

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a plain loop with numba; the machine code is cached on disk beside the source.

    Numba by itself renews that when the function's own file changes. Here it is renewed when any file with compiled
    functions in the same folder does, so these may call each other across files, but not across folders.

    No fast-math: re-ordered sums would change recorded decisions. Division follows numpy (no exception),
    which is what lets the sampler keep its state in registers.
    """
    kernel: Any = njit(cache=True, error_model="numpy")(function)
    # The one private place of numba that is touched: its stamp of the source, any value that is compared.
    file = kernel._cache._cache_file
    file._source_stamp = (file._source_stamp, _digest_of(Path(inspect.getfile(function)).parent))
    loop: Callable[P, R] = kernel
    return loop


@cache
def _digest_of(folder: Path) -> bytes:
    """A hash of all files of a folder that hold compiled functions."""
    texts = (path.read_bytes() for path in sorted(folder.glob("*.py")))
    return sha256(b"\0".join(text for text in texts if b"@compiled" in text)).digest()
