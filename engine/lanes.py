"""Two things that a plain loop cannot say: ask for a row of a large table ahead of its use, and sum in fixed lanes.

A sum in the order of a loop waits for each addition; letting the compiler re-order it would make the result depend
on the machine. Here the order is fixed and wide: 16 sums side by side, which are added up in a fixed tree.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils as untyped
from numba.extending import intrinsic

LANES = 16  # float32 numbers of a cache line
LINE_BYTES = 64
INTO_SECOND_CACHE = 2  # llvm.prefetch's locality: the nearest takes too few requests at a time
cgutils: Any = untyped
INT = ir.IntType(32)
BYTE_POINTER = ir.IntType(8).as_pointer()
FLOATS, HALVES = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.HalfType(), LANES)


def _prefetch(_typing: Any, table: Any, row: Any) -> Any:
    """Ask for a row of a table (n, d), or (n, ., d), without waiting for it."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [BYTE_POINTER, INT, INT, INT])
        call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        start, width = _row(context, builder, signature.args, given)
        how = [ir.Constant(INT, number) for number in (0, INTO_SECOND_CACHE, 1)]  # to read, and it is data
        for at in _steps(builder, width, LINE_BYTES * 8 // signature.args[0].dtype.bitwidth):
            builder.call(call, [builder.bitcast(builder.gep(start, [at]), BYTE_POINTER), *how])
        return context.get_dummy_value()

    return types.void(table, row), code


def _dot(_typing: Any, table: Any, row: Any, weights: Any) -> Any:
    """The float32 dot product of a row of a table (n, d) with weights float32 (d,); d is a multiple of LANES.

    The table is float32, or float16 given as `table.view(np.uint16)`, of which numba knows no arrays.
    """
    stored = HALVES if table.dtype == types.uint16 else FLOATS

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        start, width = _row(context, builder, signature.args, given)
        others = context.make_array(signature.args[2])(context, builder, given[2]).data
        sums = cgutils.alloca_once_value(builder, ir.Constant(FLOATS, [0.0] * LANES))
        for at in _steps(builder, width, LANES):
            left = _load(builder, start, at, stored)
            wide = builder.fpext(left, FLOATS) if stored is HALVES else left
            product = builder.fmul(wide, _load(builder, others, at, FLOATS))
            builder.store(builder.fadd(builder.load(sums), product), sums)
        return _added_up(builder, builder.load(sums))

    return types.float32(table, row, weights), code


def _row(context: Any, builder: Any, kinds: Any, given: Any) -> tuple[Any, Any]:
    """A pointer to the row of the table, and how many numbers it has."""
    table = context.make_array(kinds[0])(context, builder, given[0])
    _, width, *deeper = cgutils.unpack_tuple(builder, table.shape, kinds[0].ndim)
    for size in deeper:
        width = builder.mul(width, size)
    row = context.cast(builder, given[1], kinds[1], types.intp)
    return builder.gep(table.data, [builder.mul(row, width)]), width


def _steps(builder: Any, width: Any, step: int) -> Any:
    """The body of a loop over the places 0, step, ... below width: what is built in it is built once."""
    kind = width.type
    loop = cgutils.for_range_slice(builder, ir.Constant(kind, 0), width, ir.Constant(kind, step), kind)
    with loop as (at, _):
        yield at


def _load(builder: Any, start: Any, at: Any, kind: Any) -> Any:
    """A vector of this kind from a place of an array, whatever its alignment."""
    pointer = builder.bitcast(builder.gep(start, [at]), kind.as_pointer())
    return builder.load(pointer, align=2 if kind is HALVES else 4)


def _added_up(builder: Any, total: Any) -> Any:
    """The sum of all lanes: halves are added until one is left."""
    lanes = LANES
    while lanes > 1:
        lanes //= 2
        low, high = (ir.Constant(ir.VectorType(INT, lanes), [*range(at, at + lanes)]) for at in (0, lanes))
        total = builder.fadd(builder.shuffle_vector(total, total, low), builder.shuffle_vector(total, total, high))
    return builder.extract_element(total, ir.Constant(INT, 0))


prefetch: Any = intrinsic(_prefetch)
dot: Any = intrinsic(_dot)
