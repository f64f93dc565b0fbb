"""Item embeddings theta, learned from everybody's reactions and from what items are.

Three steps: vectors of users and items whose products say what is liked (`factorised`); an item's direction, shrunk
to what its tokens say of it by how little it is known (`engine.offline.attributes`); and the translation from the
version before (`engine.weight_translation`).
"""

from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from blending.types import BoolArray, FloatArray, IntArray
from engine.offline import kernels
from engine.offline.attributes import Attributes, Tokens, believed, expected, learned
from engine.weight_translation import Translation, translation

Float32Array = NDArray[np.float32]

START_SIZE = 0.1  # the standard deviation of a first vector's numbers: any that is not 0 does
LENGTH_MIN = 1e-9  # of an item's vector: below it there is no direction


class Training(Struct, frozen=True):
    """How item vectors are learned.

    A cell of a user and an item has the target 1 if it was liked, else 0, and counts once; `liked_weight` and
    `disliked_weight` are added for a liked one and for any other reaction. `ridge` is on both sides' vectors.
    Vectors are begun anew in `sweeps` over both sides, or carried on from the version before in `warm_sweeps`.
    The constants were found on MovieLens 100k.
    """

    dimensions: int = 24
    liked_weight: float = 4.0
    disliked_weight: float = 0.5
    ridge: float = 10.0
    sweeps: int = 6
    warm_sweeps: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        if min(self.dimensions, self.sweeps, self.warm_sweeps) < 1:
            raise ValueError("dimensions, sweeps and warm_sweeps must be at least 1")
        if not (self.ridge > 0.0 and self.liked_weight >= 0.0 and self.disliked_weight >= 0.0):
            raise ValueError("ridge must be above 0, weights at least 0")


class Reactions(NamedTuple):
    """The cells that were reacted to, each once and liked if ever it was, in any order of (row, column).

    Row r has the `columns[starts[r] : starts[r + 1]]`, increasing: int64 (rows + 1,), int64 and bool (cells,).
    """

    starts: IntArray
    columns: IntArray
    liked: BoolArray


class Embeddings(Struct, frozen=True):
    """One version of the item vectors.

    `theta`, float32 (items, d), has rows of length at most about 1: an item's direction as far as it is known, so
    the shorter the less it is. `variance`, float32 (items,), is what remains unknown of it, the mean over
    dimensions. `factors`, float32 (items, d), are the vectors themselves, 0 of items without reactions, and `gram`,
    float64 (d, d), is what all of them say of any user's vector: a user is fitted by `user_vector` of both, and the
    next training starts from `factors`. `attributes` embed later items. `translation` goes from the features of the
    version before to these, None for the first version and where no item relates the two.
    """

    version: int
    theta: Float32Array
    variance: Float32Array
    factors: Float32Array
    gram: FloatArray
    how: Training
    attributes: Attributes
    translation: Translation | None

    def embed(self, tokens: IntArray) -> tuple[Float32Array, float]:
        """The vector, float32 (d,), that is expected of an item with these tokens (m,), and its variance."""
        numbers = np.asarray(tokens, np.int64)
        vectors, variances = expected(self.attributes, Tokens(np.array([0, numbers.size]), numbers))
        return vectors[0].astype(np.float32), float(variances[0])

    def user_vector(self, factors: FloatArray, liked: BoolArray) -> FloatArray:
        """The vector (d,) of a user who reacted to items of these factors (n, d), and liked some, (n,).

        It is the one that this version's training would give the user, with the items' vectors held.
        """
        found = np.empty(self.gram.shape[0])
        weights = self.how.liked_weight, self.how.disliked_weight
        kernels.solve_row(self.gram, np.arange(liked.size), liked, factors, *weights, found)
        return found


def trained(
    users: IntArray,
    items: IntArray,
    liked: BoolArray,
    tokens: Tokens,
    how: Training,
    previous: Embeddings | None = None,
) -> Embeddings:
    """The item vectors of reactions, (n,) each: numbers of users and items from 0, and whether it was a like.

    `tokens` has an entry for each item. Items only grow in number, so the first ones are the previous version's.
    The order of the reactions does not matter, nor that one is told twice.
    """
    size = tokens.starts.size - 1
    assert users.size == items.size == liked.size, "a reaction has a user, an item and a verdict"
    assert items.max(initial=-1) < size, "tokens have an entry for each item"
    count = int(users.max(initial=-1)) + 1
    by_user, by_item = by_row(users, items, liked, (count, size)), by_row(items, users, liked, (size, count))
    start, sweeps = _start(size, how, previous)
    _, factors = factorised(by_user, by_item, start, sweeps, how)
    reactions = np.diff(by_item.starts).astype(np.float64)
    lengths = np.sqrt(np.einsum("nd,nd->n", factors, factors))
    directions = np.where((lengths > LENGTH_MIN)[:, None], factors / np.maximum(lengths, LENGTH_MIN)[:, None], 0.0)
    attributes = learned(tokens, directions, reactions)
    vectors, variances = believed(attributes, tokens, directions, reactions)
    theta = vectors.astype(np.float32)
    gram = np.zeros((how.dimensions, how.dimensions))
    kernels.add_gram(factors, how.ridge, gram)
    return Embeddings(
        1 if previous is None else previous.version + 1,
        theta,
        variances.astype(np.float32),
        factors.astype(np.float32),
        gram,
        how,
        attributes,
        None if previous is None else _translated(previous.theta, theta, reactions),
    )


def by_row(rows: IntArray, columns: IntArray, liked: BoolArray, shape: tuple[int, int]) -> Reactions:
    """Reactions (n,) as the cells of a table of this shape, sorted."""
    many = max(shape[1], 1)
    keys = np.sort((rows.astype(np.int64) * many + columns) * 2 + liked)
    cells = keys >> 1
    last = np.append(cells[1:] != cells[:-1], True)[: cells.size]  # of equal cells a liked one
    cells, best = cells[last], (keys[last] & 1).astype(np.bool_)
    return Reactions(np.searchsorted(cells, np.arange(shape[0] + 1) * many).astype(np.int64), cells % many, best)


def factorised(
    by_user: Reactions, by_item: Reactions, start: FloatArray, sweeps: int, how: Training
) -> tuple[FloatArray, FloatArray]:
    """Vectors of users (users, d) and items (items, d), from items' vectors to start with, (items, d).

    Alternating least squares for the sum over all cells of c (t - x'y)^2 + ridge (sum |x|^2 + sum |y|^2), which no
    half of a sweep makes greater; `engine.offline.kernels.solve_rows` has the formula and its source.
    """
    users, items = np.zeros((by_user.starts.size - 1, start.shape[1])), np.array(start, np.float64)
    weights = how.liked_weight, how.disliked_weight, how.ridge
    for _ in range(sweeps):
        kernels.solve_rows(*by_user, items, *weights, users)
        kernels.solve_rows(*by_item, users, *weights, items)
    return users, items


def _start(size: int, how: Training, previous: Embeddings | None) -> tuple[FloatArray, int]:
    """Items' vectors to start with, (size, d), and the sweeps they need; a new item is not heard in the first."""
    if previous is None or previous.theta.shape[1] != how.dimensions or not previous.factors.any():
        random = np.random.Generator(np.random.PCG64(how.seed))
        return START_SIZE * random.standard_normal((size, how.dimensions)), how.sweeps
    known = len(previous.factors)
    assert known <= size, "items only ever grow in number"
    start = np.zeros((size, how.dimensions))
    start[:known] = previous.factors
    return start, how.warm_sweeps


def _translated(old: Float32Array, new: Float32Array, reactions: FloatArray) -> Translation | None:
    """From an old theta to a new one, by the items of both, each counted by its reactions; None without any."""
    popularity = reactions[: len(old)]
    if not popularity.sum() or not old.any() or not new[: len(old)].any():
        return None
    return translation(old.astype(np.float64), new[: len(old)].astype(np.float64), popularity)
