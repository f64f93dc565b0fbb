"""How every hot loop of the project is compiled."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from numba import njit

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a plain loop with numba; the machine code is cached on disk beside the source.

    The cache is renewed when the function's own file changes, and only then: so a compiled function calls no
    compiled function of another file.

    No fast-math: re-ordered sums would change recorded decisions. Division follows numpy (no exception),
    which is what lets the sampler keep its state in registers.
    """
    kernel: Callable[P, R] = njit(cache=True, error_model="numpy")(function)
    return kernel
