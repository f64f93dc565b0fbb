"""Off-policy estimation: what another policy would have earned on the feeds of a log, slot by slot.

A slot j that held a, of kind k, counts with the weight w = P_new(a in j) / P_log(a in j), both given what was known
when the feed was asked for. This is the item-position model: what a slot earns depends on the slot and on what
stands there, and not on the rest of the page (Li, Abbasi-Yadkori, Kveton, Muthukrishnan, Vinay and Wen, "Offline
Evaluation of Ranking Policies with Click Models", KDD 2018). No weight is clipped.

Every estimate is a mean over feeds of a score, so intervals, differences and parts of the log come of the scores:

    IPS    Σ_j w r                                           r: what the slot earned
    SNIPS  Σ_j R_j with R_j = Σ w r / Σ w over all feeds     (Swaminathan and Joachims, 2015), as linearised
    DR     Σ_j [Σ_k P_new(k, j) q(k, j) + w (r - q(k, j))]   (Dudík, Langford and Li, 2011), q of other users

The q of DR is a rate times what the returns model says the item is worth after those of its kind before it. So
where matching kinds is not enough, because a kind's further items are worth less, DR is right as far as that is.

A user's feeds are not independent of each other, so intervals are of the sums over users.
"""

from typing import Literal, NamedTuple

import numpy as np
from msgspec import Struct
from scipy.special import stdtrit

from blending.types import BoolArray, FloatArray, IntArray

Method = Literal["ips", "snips", "dr"]
METHODS: tuple[Method, ...] = ("ips", "snips", "dr")
DOUBT = 0.05  # the chance that an interval, or any of a family of them, misses
FOLDS = 5  # of users: the model of a fold is fitted on the others
CELL_VIEWS = 30.0  # slots' worth of the coarser rate that a cell of the model begins with
NOTHING = -1  # the kind of a slot that held nothing


class Logged(NamedTuple):
    """What a log holds. `users` and `cohorts` (feeds,) are numbers from 0, `weights` (feeds,) what a feed counts.

    `kinds` (feeds, slots) is what kind of thing the slot held, -1 for nothing; `rewards` (feeds, slots) what it
    earned; `worths` (feeds, slots) what a returns model says of it: 1 for the first of its kind on the page, less
    for further ones, or 1 throughout.
    """

    users: IntArray
    cohorts: IntArray
    weights: FloatArray
    kinds: IntArray
    rewards: FloatArray
    worths: FloatArray


class Chosen(NamedTuple):
    """What a policy would have done on the same feeds.

    `ratios` (feeds, slots) are the weights w, 0 where the log holds nothing; `chances` (feeds, slots, kinds) how
    likely each kind was to stand in each slot, and `worths` that times what it would be worth there; `beyond`
    (feeds,) the slots' worth of it that the log has no chance of showing.
    """

    ratios: FloatArray
    chances: FloatArray
    worths: FloatArray
    beyond: FloatArray


class Estimate(Struct, frozen=True):
    """A mean per feed, and its 95 % interval; the interval is null with fewer than two users."""

    mean: float
    low: float | None
    high: float | None


class Support(Struct, frozen=True):
    """What an estimate rests on.

    `effective_feeds` is (Σw)² / Σw² over slots, in feeds, and `effective_users` the same part of the users;
    `weight_mean` is 1 in expectation where nothing is `beyond`: the part of the new pages that the log could not
    have shown.
    """

    feeds: int
    users: int
    effective_feeds: float
    effective_users: float
    weight_mean: float
    weight_max: float
    beyond: float


def scores_of(logged: Logged, chosen: Chosen, method: Method) -> FloatArray:
    """Scores of the feeds, (feeds,), whose weighted mean is the estimate."""
    filled = logged.kinds != NOTHING
    rewards, ratios = np.where(filled, logged.rewards, 0.0), np.where(filled, chosen.ratios, 0.0)
    if method == "ips":
        return np.asarray((ratios * rewards).sum(axis=1))
    if method == "snips":
        weights = logged.weights[:, None]
        total = (weights * ratios).sum(axis=0)
        found = np.where(total > 0.0, total, 1.0)
        rates = (weights * ratios * rewards).sum(axis=0) / found
        expected = chosen.chances.sum(axis=2)
        wanted = (weights * expected).sum(axis=0) / found
        return np.asarray((expected * rates + ratios * (rewards - rates) * wanted).sum(axis=1))
    model = modelled(logged, chosen.chances.shape[2])
    slots = np.arange(logged.kinds.shape[1])
    own = model[np.arange(len(model))[:, None], slots, np.maximum(logged.kinds, 0)]
    own *= logged.worths
    return np.asarray((chosen.worths * model).sum(axis=(1, 2)) + (ratios * (rewards - own)).sum(axis=1))


def modelled(logged: Logged, kinds: int) -> FloatArray:
    """What a slot of worth 1 earns by kind, slot and cohort, (feeds, slots, kinds), of the users of other folds.

    A cell begins as CELL_VIEWS slots of the rate over cohorts, that one as so many of its kind's, that one as so
    many of all. What is fitted takes no weights: it need not be right for DR to be.
    """
    feeds, slots = logged.kinds.shape
    cohorts, folds = int(logged.cohorts.max(initial=0)) + 1, logged.users % FOLDS
    filled = logged.kinds != NOTHING
    place = np.ravel_multi_index(
        (
            np.broadcast_to(folds[:, None], filled.shape)[filled],
            np.broadcast_to(logged.cohorts[:, None], filled.shape)[filled],
            np.broadcast_to(np.arange(slots), filled.shape)[filled],
            logged.kinds[filled],
        ),
        (FOLDS, cohorts, slots, kinds),
    )
    size = FOLDS * cohorts * slots * kinds
    weights = np.broadcast_to(logged.weights[:, None], filled.shape)[filled]
    sums = np.bincount(place, weights * logged.rewards[filled], size).reshape(FOLDS, cohorts, slots, kinds)
    views = np.bincount(place, weights * logged.worths[filled], size).reshape(FOLDS, cohorts, slots, kinds)
    sums, views = sums.sum(axis=0) - sums, views.sum(axis=0) - views
    rate = np.zeros((FOLDS, 1, 1, 1))
    for axes in ((1, 2, 3), (1, 2), (1,), ()):
        own, of = sums.sum(axis=axes, keepdims=True), views.sum(axis=axes, keepdims=True)
        rate = (own + CELL_VIEWS * rate) / (of + CELL_VIEWS) if axes != (1, 2, 3) else own / np.maximum(of, 1e-9)
    return np.asarray(rate[folds, logged.cohorts], np.float64).reshape(feeds, slots, kinds)


def mean_of(scores: FloatArray, logged: Logged, part: BoolArray | None = None, among: int = 1) -> Estimate:
    """The weighted mean of scores over a part (feeds,) of the log, with an interval over its users.

    It is one of `among` intervals that shall all hold together (Bonferroni).

    The variance is that of a ratio of two sums over users, Σ_u (Σ_f g (s - m))² U / (U - 1) / (Σ g)², and the
    quantile Student's t of U - 1.
    """
    weights = logged.weights if part is None else np.where(part, logged.weights, 0.0)
    total = float(weights.sum())
    if total <= 0.0:
        return Estimate(0.0, None, None)
    mean = float((weights * scores).sum()) / total
    users = np.unique(logged.users[weights > 0.0])
    if users.size < 2:
        return Estimate(mean, None, None)
    off = np.bincount(logged.users, weights * (scores - mean))
    error = float(np.sqrt((off * off).sum() * users.size / (users.size - 1))) / total
    half = float(stdtrit(users.size - 1, 1.0 - DOUBT / (2.0 * among))) * error
    return Estimate(mean, mean - half, mean + half)


def support_of(logged: Logged, chosen: Chosen, part: BoolArray | None = None) -> Support:
    """How much of the log speaks of what was chosen, or of a part (feeds,) of it."""
    counted = logged.weights > 0.0 if part is None else part & (logged.weights > 0.0)
    filled = (logged.kinds != NOTHING) & counted[:, None]
    feeds, users = int(counted.sum()), int(np.unique(logged.users[counted]).size)
    ratios, weights = chosen.ratios[filled], np.broadcast_to(logged.weights[:, None], filled.shape)[filled]
    joint = ratios * weights
    squares = float((joint * joint).sum())
    effective = float(joint.sum()) ** 2 / squares / max(joint.size, 1) if squares > 0.0 else 0.0
    given = float((chosen.chances.sum(axis=(1, 2)) * logged.weights)[counted].sum())
    return Support(
        feeds=feeds,
        users=users,
        effective_feeds=feeds * effective,
        effective_users=users * effective,
        weight_mean=float(joint.sum()) / float(weights.sum()) if weights.size else 0.0,
        weight_max=float(ratios.max(initial=0.0)),
        beyond=float((chosen.beyond * logged.weights)[counted].sum()) / given if given > 0.0 else 0.0,
    )
