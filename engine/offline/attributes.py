"""What an item's tokens say of its vector: a mixed model of token effects and what is its own.

Item i of m tokens has theta_i = mu + x_i'B + u_i, where x_i is 1 / sqrt(m) at each of its tokens, u_i ~
N(0, tau^2) and each effect in B ~ N(0, tau^2 / TOKEN_RIDGE), the same for all dimensions. What is observed of an
item with n reactions is theta_i + N(0, tau^2 RELIABLE / n). With w_i = n / (n + RELIABLE) the posterior is

    B = C X'W (y - mu), C = (X'WX + TOKEN_RIDGE I)^-1
    E theta_i   = mu + x_i'B + w_i (y_i - mu - x_i'B)
    Var theta_i = tau^2 ((1 - w_i) + (1 - w_i)^2 x_i'C x_i)

so an item without reactions gets its conditional expectation, and more variance than one that is known. Tokens
that no known item has say nothing: an item of them alone, or of none, has the mean mu and the variance of items of
any attributes. Source: Robinson, "That BLUP is a Good Thing: The Estimation of Random Effects" (1991).
"""

from typing import NamedTuple

import numpy as np

from blending.types import FloatArray, IntArray
from engine.offline import kernels

# RELIABLE and TOKEN_RIDGE were tried on MovieLens 100k (genres and decades), theta of a log's first part against
# its next tenth: the likelihood is greatest with 3; the next liked film is among the ten nearest to the latest
# liked ones in .201 with 10 to 30 reactions, in .190 with no shrinking.
RELIABLE = 20.0  # reactions say as much of an item's vector as its attributes do
TOKEN_RIDGE = 3.0  # times smaller than what is an item's own is the variance that a token explains
TOKENS_MAX = 512  # with effects of their own: the covariance of all of them is kept; the rarest count as unseen
VARIANCE_VIEWS = 1.0  # items' worth: vectors in any direction of length 1 stand beside those that are known


class Tokens(NamedTuple):
    """The tokens of items: those of item i are `tokens[starts[i] : starts[i + 1]]`.

    `starts` are int64 (items + 1,), `tokens` integers from 0 (total,).
    """

    starts: IntArray
    tokens: IntArray


class Attributes(NamedTuple):
    """What embeds an item that nobody reacted to.

    `known` are the numbers of the tokens that have effects, increasing, int64 (t,); `mean` mu, float64 (d,),
    `effects` B, (t, d), and `covariance` C, (t, t), in units of `residual`, which is tau^2; `whole` is the variance
    of an item whose attributes say nothing. Variances are means over dimensions.
    """

    known: IntArray
    mean: FloatArray
    effects: FloatArray
    covariance: FloatArray
    residual: float
    whole: float


class Belief(NamedTuple):
    """Vectors, float64 (items, d), and their variances, (items,), the mean over dimensions."""

    vectors: FloatArray
    variances: FloatArray


def no_tokens(items: int) -> Tokens:
    """The tokens of items without attributes."""
    return Tokens(np.zeros(items + 1, np.int64), np.zeros(0, np.int64))


def learned(tokens: Tokens, observed: FloatArray, reactions: FloatArray) -> Attributes:
    """What the observed vectors (items, d) of items with so many reactions (items,) say of their tokens.

    An item without reactions, or with the vector 0, says nothing.
    """
    dimensions = observed.shape[1]
    weights = _weights(observed, reactions)
    mean = np.einsum("n,nd->d", reactions, observed) / max(reactions[weights > 0.0].sum(), 1.0)
    centred = observed - mean
    known = _most_used(tokens, weights)
    size = known.size
    starts, rows = _rows_of(tokens, known)
    gram, moment, covariance = np.zeros((size, size)), np.zeros((size, dimensions)), np.empty((size, size))
    kernels.add_normal_equations(starts, rows, weights, centred, gram, moment)
    gram[np.diag_indices(size)] += TOKEN_RIDGE
    kernels.invert(gram, covariance)
    effects = np.einsum("st,td->sd", covariance, moment)
    squares = np.einsum("n,nd->d", weights, centred**2)
    whole = _variance(squares, int(np.count_nonzero(weights)))
    told = (np.diff(np.append(0, np.cumsum(rows >= 0))[starts]) > 0) & (weights > 0)
    within = np.einsum("n,nd->d", weights * told, centred**2) - np.einsum("td,td->d", moment, effects)
    residual = _variance(within, int(np.count_nonzero(told))) if told.any() else whole
    return Attributes(known, mean, effects, covariance, min(residual, whole), whole)


def _weights(observed: FloatArray, reactions: FloatArray) -> FloatArray:
    """How much of what is believed of items, (items,), is what was observed; a vector of 0 says nothing."""
    return np.where(np.any(observed != 0.0, axis=1), reactions / (reactions + RELIABLE), 0.0)


def _variance(squares: FloatArray, items: int) -> float:
    """The mean over dimensions of sums of squares (d,) over items, with the prior of vectors in any direction."""
    prior = VARIANCE_VIEWS / squares.size
    return float(np.mean((np.maximum(squares, 0.0) + prior) / (items + VARIANCE_VIEWS)))


def _most_used(tokens: Tokens, weights: FloatArray) -> IntArray:
    """The tokens of items that have a weight (items,): of too many those of the greatest weights."""
    if not tokens.tokens.size:
        return np.zeros(0, np.int64)
    sums = np.bincount(tokens.tokens, np.repeat(weights, np.diff(tokens.starts)))
    best = np.argsort(-sums, kind="stable")[:TOKENS_MAX]
    return np.sort(best[sums[best] > 0.0]).astype(np.int64)


def _rows_of(tokens: Tokens, known: IntArray) -> tuple[IntArray, IntArray]:
    """Where each item's tokens begin, each token once, and their rows among the known, or -1 for others, first."""
    items = tokens.starts.size - 1
    of = np.repeat(np.arange(items), np.diff(tokens.starts))
    many = int(tokens.tokens.max(initial=0)) + 1
    keys = np.unique(of * many + tokens.tokens)
    of, numbers = keys // many, keys % many
    rows = np.full(numbers.size, -1, np.int64)
    if known.size:
        places = np.minimum(np.searchsorted(known, numbers), known.size - 1)
        rows = np.where(known[places] == numbers, places, -1)
    order = np.lexsort((rows, of))
    return np.searchsorted(of, np.arange(items + 1)).astype(np.int64), rows[order]


def expected(attributes: Attributes, tokens: Tokens) -> Belief:
    """What is believed of items with these tokens before any reaction."""
    items = tokens.starts.size - 1
    return believed(attributes, tokens, np.zeros((items, attributes.mean.size)), np.zeros(items))


def believed(attributes: Attributes, tokens: Tokens, observed: FloatArray, reactions: FloatArray) -> Belief:
    """What is believed of items, given the vectors (items, d) that so many reactions (items,) made.

    They are those that the attributes were learned from.
    """
    starts, rows = _rows_of(tokens, attributes.known)
    items = starts.size - 1
    predicted, unsure, unseen = np.empty_like(observed), np.empty(items), np.empty(items)
    kernels.predict(starts, rows, attributes.effects, attributes.covariance, predicted, unsure, unseen)
    predicted += attributes.mean
    weights = _weights(observed, reactions)
    own = attributes.residual + unseen * (attributes.whole - attributes.residual)
    variances = (1.0 - weights) * own + (1.0 - weights) ** 2 * attributes.residual * unsure
    return Belief(predicted + weights[:, None] * (observed - predicted), variances)
