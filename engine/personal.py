"""The personal pool: everything that any source offers, ranked by the user's weights over its features."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from blending.randomness import key_of
from blending.sampling import normals
from blending.types import FloatArray, IntArray, ItemArray
from engine import feature_kernels as kernels
from engine.facts import Facts
from engine.feature_kernels import (
    add_counts,
    join_listed,
    join_tops,
    mean_affinities,
    shrunk_mean,
    token_affinities,
)
from engine.features import BEHAVIOUR, Layout, Raw, features_of, gates_of
from engine.indicators import indicators
from engine.learning import PopulationWeights, no_weights
from engine.population import Population
from engine.relations import SUCCESSORS, Neighbours
from engine.state import UserWeights
from engine.weight_kernels import score
from engine.weights import Weights, drawn, faded, no_sums, posterior, score_variances, scores

SOURCES_MAX = 20  # latest reactions from which what is near is looked for
LIKED_MAX = 20  # latest likes from which what is liked together with them is looked for
NEAR_PROFILE_MS = 60_000.0  # after which a reaction counts half as a source of what is near
NEAR_LEAST = 0.01  # and what it counts at least
DISLIKED = 0.3  # of what it would count as a source, had it been liked
RECENT_MS = 600_000.0  # after which a like counts half in the user's recent vector
# The columns that candidates come from, best first, and how many of each as parts of `[weights] depth`.
SOURCE_DEPTHS = {
    kernels.NEAR: 1.5,
    kernels.SUCCESSOR: 1.0,
    kernels.TOGETHER: 1.0,
    kernels.RECENT_EMBEDDING: 1.0,
    kernels.FACTOR: 1.0,
    kernels.LIKES: 0.5,
    kernels.TREND: 0.5,
    kernels.FAST: 0.5,
    kernels.STARTS: 0.5,
    kernels.LIKED_AFFINITY: 0.5,
}
SOURCES = np.array(list(SOURCE_DEPTHS))
NOTHING_LISTED = np.zeros(0, np.int32)
SURE, RECENT_SURE = 3.0, 1.0  # likes' worth of belief that the user is like everybody


class Past(NamedTuple):
    """A user's reactions to known items, the latest first: numbers, none twice, ages in ms, and 1 for likes."""

    items: IntArray
    age_ms: FloatArray
    liked: FloatArray


NO_PAST = Past(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))


class Weighing(NamedTuple):
    """All candidates that were ranked, best first: numbers (m,), features (m, d) as served, and scores (m,)."""

    layout: Layout
    items: IntArray
    x: FloatArray
    etas: FloatArray
    weights: FloatArray


def weigh(
    past: Past,
    own: UserWeights | None,
    excluded: IntArray,
    rankings: Sequence[ItemArray],
    facts: Facts,
    at_ms: int,
    names: tuple[str, str],
    strangers: Sequence[str] = (),
) -> Weighing:
    """Rank what the sources and the other pools' `rankings` offer; `names` are the user's and the request's.

    `strangers` are the items whose numbers begin where the population's end.
    """
    policy, layout = facts.policy, facts.layout
    raw = raw_of(past, rankings, facts)
    candidates = _candidates(raw, excluded, rankings, len(strangers), policy.weights.depth)
    x = features_of(raw, candidates, layout, indicators(candidates, strangers, layout, facts))
    weights = weights_at(own, facts, layout, at_ms)
    taken = weights.mean
    if policy.weights.temperature > 0.0:
        noise = normals(key_of(policy.blend.seed, "weights", *names), taken.size)
        taken = drawn(weights, np.sqrt(policy.weights.temperature) * noise)
    etas = scores(x, taken)
    order = np.lexsort((candidates, -etas))
    return Weighing(layout, candidates[order], np.ascontiguousarray(x[order]), etas[order], taken)


def weights_at(own: UserWeights | None, facts: Facts, layout: Layout, at_ms: int) -> Weights:
    """What a user's weights are believed to be: the population's, moved by what the user alone has shown."""
    settings = facts.policy.weights
    shared = facts.population.weights
    if shared is None or shared.layout != layout.key:
        shared = no_weights(layout.key, len(layout.names), settings)
    if own is None or own.layout != layout.key or not settings.own:
        return _without_own(shared)
    sums = np.frombuffer(own.precision), np.frombuffer(own.moment)
    scale = faded((at_ms - own.landmark_ms) / facts.policy.memory.weights_half_life_ms)
    return posterior(shared.precision, shared.mean, *sums, scale=scale)


def _without_own(shared: PopulationWeights) -> Weights:
    return posterior(shared.precision, shared.mean, *no_sums(shared.mean.size))


def raw_of(past: Past, rankings: Sequence[ItemArray], facts: Facts) -> Raw:
    """What features of items are made of, for a user with this past; `rankings` are those of the other pools."""
    population = facts.population
    statistics, likes = population.statistics, population.likes.astype(np.float64)
    reactions = statistics.reactions
    columns = np.zeros((kernels.COLUMNS, population.size))
    columns[kernels.LIKES], columns[kernels.REACTIONS] = likes, reactions
    columns[kernels.TREND : kernels.STARTS + 1] = statistics.fading
    columns[kernels.SUCCESSOR] = successors_of(past, population)
    columns[kernels.AFFINITY] = affinity_of(past, facts)
    columns[kernels.LIKED_AFFINITY] = liked_affinity(columns[kernels.AFFINITY], population)
    near, last_near, together = (columns[place] for place in (kernels.NEAR, kernels.LAST_NEAR, kernels.TOGETHER))
    sources, ages = past.items[:SOURCES_MAX], past.age_ms[:SOURCES_MAX]
    likings = np.where(past.liked[:SOURCES_MAX] > 0, 1.0, DISLIKED)
    recency = (1.0 / (1.0 + ages / NEAR_PROFILE_MS) + NEAR_LEAST) * likings
    _spread(population.near, sources, recency / np.sqrt(np.maximum(reactions[sources], 1.0)), near)
    near /= statistics.damping
    if past.items.size:
        latest = population.near[past.items[0]]
        last_near[latest.items] = latest.counts / statistics.damping[latest.items]
    liked, own = past.items[past.liked > 0], np.sqrt(np.maximum(likes, 1.0))
    _spread(population.neighbours, liked[:LIKED_MAX], 1.0 / own[liked[:LIKED_MAX]], together)
    together /= own
    vectors, factors, embeddings = facts.items.vectors, facts.items.factors, facts.embeddings
    if vectors is not None and factors is not None and embeddings is not None and past.items.size:
        mean, lately = _user_vectors(past, vectors)
        score(vectors, mean, columns[kernels.EMBEDDING])
        score(vectors, lately, columns[kernels.RECENT_EMBEDDING])
        fitted = embeddings.user_vector(factors[past.items], past.liked > 0)
        score(factors, fitted, columns[kernels.FACTOR])
    since_ms = float(past.age_ms[0]) if past.items.size else 0.0
    return Raw(columns, facts.items.described, past.items.size, since_ms, rankings)


def _user_vectors(past: Past, vectors: FloatArray) -> tuple[FloatArray, FloatArray]:
    """A user's vector, and the one of late, each (d,): what the liked items have in common, shrunk to nothing."""
    lately = past.liked / (1.0 + past.age_ms / RECENT_MS)
    totals = np.zeros((2, vectors.shape[1]))
    shrunk_mean(vectors, past.items, past.liked, totals[0], SURE)
    shrunk_mean(vectors, past.items, lately, totals[1], RECENT_SURE)
    return totals[0], totals[1]


def variances_of(weighing: Weighing, past: Past, own: UserWeights | None, facts: Facts, at_ms: int) -> FloatArray:
    """How unsure the score of each ranked item is, (m,): the variance of x'w by all that is not known of w and x.

    Of w it is x' Sigma x. Of x there are two parts. The products of the embeddings' vectors have the variance
    |user|^2 times that of an item's vector, through the scale of their features. And what reactions will say of an
    item without any is as unsure as it differs among the others: there b, the features that are made of reactions,
    adds the mean of b' Sigma b + (w'b - mean of w'b)^2 over the candidates that somebody has reacted to.
    """
    layout, x = weighing.layout, weighing.x
    belief = weights_at(own, facts, layout, at_ms)
    found = score_variances(x, belief) + _vector_variances(weighing, belief.mean, past, facts)
    unknown = x[:, layout.names.index("reacted_to")] == 0.0
    if unknown.any() and not unknown.all():
        behaviour = np.ascontiguousarray(x[~unknown] * layout.of_groups(BEHAVIOUR))
        spread = scores(behaviour, belief.mean).var() + score_variances(behaviour, belief).mean()
        found[unknown] += spread
    return found


def _vector_variances(weighing: Weighing, weights: FloatArray, past: Past, facts: Facts) -> FloatArray:
    """What is not known of the items' vectors, as variances of their scores (m,), the `_log` feature left out."""
    found = np.zeros(weighing.items.size)
    vectors, variances = facts.items.vectors, facts.items.variances
    if facts.embeddings is None or vectors is None or variances is None or not (past.liked > 0).any():
        return found
    known = weighing.items < facts.population.size
    inside = weighing.items[known]
    gates = gates_of(past.items.size, float(past.age_ms[0]))
    for base, user in zip(("embedding", "recent_embedding"), _user_vectors(past, vectors), strict=True):
        greatest = (vectors[inside] @ user).max(initial=0.0)
        slope = sum(
            gate * weights[weighing.layout.names.index(name)]
            for name, gate in ((base, 1.0), *((f"{base} × {gate}", by) for gate, by in gates.items()))
            if name in weighing.layout.names
        )
        scale = slope / greatest if greatest > 0.0 else slope
        found[known] += scale**2 * float(user @ user) * variances[inside]
        found[~known] += scale**2 * float(user @ user) * facts.embeddings.attributes.whole
    return found


def successors_of(past: Past, population: Population) -> FloatArray:
    """How often each item, (items,), followed the user's latest, the k-th of which counts 1 / k."""
    found = np.zeros(population.size)
    followed = past.items[:SUCCESSORS]
    lags = 1.0 / np.arange(1.0, followed.size + 1.0)
    weights = lags / np.sqrt(population.statistics.followed[followed] + 1.0)
    _spread(population.successors, followed, weights, found)
    return found / population.statistics.damping


def affinity_of(past: Past, facts: Facts) -> FloatArray:
    """How much more than others the user likes what each item's attributes say it is, (items,), in logarithms."""
    population = facts.population
    found = np.zeros(population.size)
    starts, tokens = facts.items.starts, facts.items.tokens
    if tokens.size and past.items.size:
        rates = (population.likes[past.items] + 2.0) / (population.statistics.reactions[past.items] + 4.0)
        of_token = np.zeros(facts.catalogue.tokens)
        token_affinities(starts, tokens, past.items, past.liked, rates, of_token)
        mean_affinities(starts, tokens, of_token, found)
    return found


def liked_affinity(affinity: FloatArray, population: Population) -> FloatArray:
    """exp(affinity) times log(1 + likes), (items,), above 0 where anybody has liked the item."""
    return np.exp(affinity) * np.log1p(population.likes.astype(np.float64))


def _spread(lists: list[Neighbours], sources: IntArray, weights: FloatArray, scores: FloatArray) -> None:
    """Add up what goes with the sources."""
    for source, weight in zip(sources.tolist(), weights.tolist(), strict=True):
        row = lists[source]
        add_counts(row.items, row.counts, weight, scores)


@cache
def _depths(depth: int) -> IntArray:
    """How many items each of the SOURCES is asked for."""
    return np.maximum((np.array(list(SOURCE_DEPTHS.values())) * depth).astype(np.int64), 1)


def _candidates(
    raw: Raw, excluded: IntArray, rankings: Sequence[ItemArray], strangers: int, depth: int
) -> IntArray:
    """The union of what each source offers and the other pools list, in that order."""
    most = np.minimum(_depths(depth), raw.columns.shape[1])
    listed = np.concatenate(rankings) if rankings else NOTHING_LISTED
    numbers = raw.columns.shape[1] + strangers
    barred = np.zeros(numbers, np.uint8)
    barred[excluded] = 1
    union = np.empty(min(int(most.sum()) + listed.size, numbers), np.int64)
    filled = join_tops(raw.columns, SOURCES, most, barred, union)
    return union[: join_listed(listed, barred, union, filled)]
