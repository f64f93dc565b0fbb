"""Large tables in memory, laid out for `engine.slab_kernels`."""

from math import prod
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

LINE_BYTES = 64  # of a cache line

Number = TypeVar("Number", bound=np.generic)


def slab(shape: tuple[int, ...], kind: type[Number]) -> NDArray[Number]:
    """A table of zeros that begins at a cache line; numpy's own begin a quarter into one.

    Columns are a multiple of 16 where `best_scored` reads them; a row that is shorter is filled up with zeros.
    """
    size = np.dtype(kind).itemsize
    numbers = prod(shape)
    memory = np.zeros(numbers + LINE_BYTES // size, kind)
    first = -memory.ctypes.data % LINE_BYTES // size
    return memory[first : first + numbers].reshape(shape)
