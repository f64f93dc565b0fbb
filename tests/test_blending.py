"""The bandit on opaque arms: bits, Beta draws, posteriors, and who gets which slot.

Statistical tests are seeded, so they pass always or never; what a test says of its false alarms is the chance
that a right program meets an unlucky seed. Together they stay below 5e-6.
"""

import json
import math
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import gammainc, gammaln

from blending.blend import Lists, Rules, blend, lists_of
from blending.kernels import (
    DUPLICATE,
    EXPLORE_STREAM,
    PLACED,
    TIE_STREAM,
    UNREAD,
    allocate,
    bits_at,
    draw_rates,
    intended_counts,
    log_gamma_variate,
    stream,
    tie_breaks,
    uniform_at,
    utilities_of,
)
from blending.posterior import Beta, capped, updated
from blending.randomness import key_of
from blending.returns import returns_table

ROOT = Path(__file__).parent.parent
SEED = 20161111
FALSE_ALARM = 1e-7  # of each statistical test below

WORD = 2**64
GAMMA, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

words = st.integers(0, WORD - 1)
names = st.lists(st.text("12:a", max_size=6), max_size=4)
shapes = st.floats(0.05, 500.0)
keys = words.map(np.uint64)


# Randomness


def splitmix64(key: int, counter: int) -> int:
    """Output number `counter` of SplitMix64 with the seed `key`, in plain integers."""
    mixed = (key + (counter + 1) * GAMMA) % WORD
    mixed = (mixed ^ mixed >> 30) * MIX_1 % WORD
    mixed = (mixed ^ mixed >> 27) * MIX_2 % WORD
    return mixed ^ mixed >> 31


def key_giving(bits: int) -> np.uint64:
    """The key whose first output is `bits`: the mix, walked backwards."""
    mixed = unshifted(bits, 31) * pow(MIX_2, -1, WORD) % WORD
    mixed = unshifted(mixed, 27) * pow(MIX_1, -1, WORD) % WORD
    return np.uint64((unshifted(mixed, 30) - GAMMA) % WORD)


def unshifted(mixed: int, by: int) -> int:
    """The x of which x ^ (x >> by) is `mixed`."""
    x = mixed
    for _ in range(64 // by):
        x = mixed ^ x >> by
    return x


def test_the_oracle_gives_the_published_outputs_of_splitmix64() -> None:
    """The first outputs for the seed 1234567, as printed with the reference code in many places."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [splitmix64(1234567, counter) for counter in range(4)] == published


@given(words, words)
@example(0, 0)
@example(WORD - 1, WORD - 1)
def test_bits_are_those_of_splitmix64(key: int, counter: int) -> None:
    assert int(bits_at(np.uint64(key), np.uint64(counter))) == splitmix64(key, counter)


@given(st.tuples(st.integers(-20, 20), names), st.tuples(st.integers(-20, 20), names))
@example((0, ["ab", "c"]), (0, ["a", "bc"]))
@example((0, ["a", ""]), (0, ["a"]))
@example((0, ["1:a"]), (0, ["", "a"]))
@example((1, ["a20:1234567", "0123456789"]), (11, ["a", "123456710:0123456789"]))
def test_seeds_and_names_that_differ_give_keys_that_differ(
    one: tuple[int, list[str]], other: tuple[int, list[str]]
) -> None:
    """Of 64-bit keys that only chance makes equal, 100 pairs hold an equal one once in 1e17 runs."""
    assert (key_of(one[0], *one[1]) == key_of(other[0], *other[1])) == (one == other)


@pytest.mark.parametrize("bits", [0, 1, 2**11, 2**63, WORD - 2**12, WORD - 2**11, WORD - 1])
def test_a_uniform_number_lies_strictly_between_0_and_1_whatever_the_bits(bits: int) -> None:
    key = key_giving(bits)
    assert int(bits_at(key, np.uint64(0))) == bits
    assert 0.0 < uniform_at(key, np.uint64(0)) < 1.0


@given(words, words)
def test_a_uniform_number_is_its_bits_as_a_fraction(key: int, counter: int) -> None:
    exact = Fraction(splitmix64(key, counter), WORD)
    found = uniform_at(np.uint64(key), np.uint64(counter))
    assert abs(Fraction(found) - exact) <= Fraction(1, 2**52)


def test_uniform_numbers_are_uniform_along_counters_and_across_keys() -> None:
    """Two Kolmogorov-Smirnov tests at 1e-7."""
    key = key_of(SEED)
    along = [uniform_at(key, np.uint64(counter)) for counter in range(50_000)]
    across = [uniform_at(key_of(SEED, "user", str(number)), np.uint64(0)) for number in range(50_000)]
    assert stats.kstest(along, "uniform").pvalue > FALSE_ALARM, f"seed {SEED}"
    assert stats.kstest(across, "uniform").pvalue > FALSE_ALARM, f"seed {SEED}"


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_streams_lie_2_to_the_32_counters_apart(one: int, other: int) -> None:
    assert int(stream(one)) - int(stream(other)) == (one - other) * 2**32


# Draws


def plain_log_gamma(shape: float, key: np.uint64, counter: int) -> tuple[float, int]:
    """Marsaglia and Tsang's method again: G(shape) = G(shape + 1) U^(1/shape) and a cubed normal."""

    def uniform() -> float:
        nonlocal counter
        counter += 1
        return uniform_at(key, np.uint64(counter - 1))

    if shape < 1.0:
        boost = math.log(uniform()) / shape
        log_variate, counter = plain_log_gamma(shape + 1.0, key, counter)
        return log_variate + boost, counter
    d = shape - 1.0 / 3.0
    while True:
        normal = math.sqrt(-2.0 * math.log(uniform())) * math.cos(2.0 * math.pi * uniform())
        v = (1.0 + normal / math.sqrt(9.0 * d)) ** 3
        accepted = uniform()
        if v > 0.0 and math.log(accepted) < normal**2 / 2.0 + d * (1.0 - v + math.log(v)):
            return math.log(d * v), counter


@given(st.floats(1e-3, 1e4), keys, st.integers(0, 2**40))
def test_a_gamma_variate_equals_the_plain_one(shape: float, key: np.uint64, counter: int) -> None:
    found, after = log_gamma_variate(shape, key, np.uint64(counter))
    expected, expected_after = plain_log_gamma(shape, key, counter)
    assert int(after) == expected_after
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


def log_gamma_cdf(log_x: np.ndarray, shape: float) -> np.ndarray:
    """P(log G <= log_x). Far left, where x itself underflows, the density is x^(shape - 1) / Gamma(shape)."""
    far_left = log_x < -40.0  # there the next term of the series is below 1e-17
    series = np.exp(shape * np.minimum(log_x, 0.0) - gammaln(shape + 1.0))
    return np.where(far_left, series, gammainc(shape, np.exp(np.maximum(log_x, -40.0))))


@pytest.mark.parametrize("shape", [1e-3, 0.3, 1.0, 2.5, 50.0, 2000.0])
def test_log_gamma_variates_have_their_distribution(shape: float) -> None:
    """Kolmogorov-Smirnov at 1e-7 each: six tests."""
    key = key_of(SEED, "gamma", str(shape))
    starts = [np.uint64(stream(number)) for number in range(50_000)]
    found = np.array([log_gamma_variate(shape, key, start)[0] for start in starts])
    assert stats.kstest(found, lambda x: log_gamma_cdf(x, shape)).pvalue > FALSE_ALARM, f"seed {SEED}"


@pytest.mark.parametrize(
    ("alpha", "beta"),
    [(0.5, 3.0), (1.0, 1.0), (2.5, 7.0), (50.0, 500.0), (1.0, 19.0), (1e-2, 1.0), (3.0, 0.5), (40.0, 2.0)],
)
def test_rates_have_the_beta_distribution_of_their_arm(alpha: float, beta: float) -> None:
    """Kolmogorov-Smirnov at 1e-7 each: eight tests. Half the draws come from one key, half from many."""
    cells = (50, 50)
    wide = draw_rates(np.full(cells, alpha), np.full(cells, beta), key_of(SEED, "wide"), 20)
    one = (np.full((5, 5), alpha), np.full((5, 5), beta))
    many = [draw_rates(*one, key_of(SEED, "many", str(number)), 2) for number in range(1000)]
    drawn = np.concatenate([wide.ravel(), np.ravel(many)])
    assert stats.kstest(drawn, stats.beta(alpha, beta).cdf).pvalue > FALSE_ALARM, f"seed {SEED}"


def test_the_draws_of_neighbouring_arms_and_slots_are_uncorrelated() -> None:
    """The correlation of n independent pairs is normal with variance 1 / n: beyond 5.5 sd once in 2.6e7."""
    rates = draw_rates(np.ones((50_000, 2)), np.ones((50_000, 2)), key_of(SEED, "pairs"), 2)
    pairs = {
        "two actions": (rates[0, :, 0], rates[0, :, 1]),
        "two pools": (rates[0, :-1, 1], rates[0, 1:, 0]),
        "two slots": (rates[0, :, 0], rates[1, :, 0]),
    }
    for which, (one, other) in pairs.items():
        assert abs(np.corrcoef(one, other)[0, 1]) < 5.5 / math.sqrt(one.size), f"seed {SEED}, {which}"


def test_what_was_compiled_long_ago_draws_the_bits_of_todays_sources(tmp_path: Path) -> None:
    """Machine code is kept beside the source; another process compiles anew in an empty folder."""
    program = (
        "import numpy as np; from blending.kernels import draw_rates; from blending.randomness import key_of; "
        "print(draw_rates(np.array([[0.5, 3.0]]), np.array([[7.0, 0.2]]), key_of(1, 'a'), 2).ravel().tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        timeout=120,
        capture_output=True,
        text=True,
        check=True,
    )
    here = draw_rates(np.array([[0.5, 3.0]]), np.array([[7.0, 0.2]]), key_of(1, "a"), 2).ravel().tolist()
    assert json.loads(done.stdout) == here


@st.composite
def posteriors(draw: st.DrawFn, pools_max: int = 5, actions_max: int = 4) -> Beta:
    """Any posterior of a few pools and actions."""
    size = (draw(st.integers(1, pools_max)), draw(st.integers(1, actions_max)))
    column = st.lists(shapes, min_size=size[0] * size[1], max_size=size[0] * size[1])
    return Beta(np.reshape(draw(column), size), np.reshape(draw(column), size))


@given(posteriors(), keys, st.integers(1, 3), st.data())
def test_another_arms_posterior_never_moves_a_draw(
    posterior: Beta, key: np.uint64, draws: int, data: st.DataObject
) -> None:
    before = draw_rates(*posterior, key, draws)
    pool, action = (data.draw(st.integers(0, size - 1)) for size in posterior.alpha.shape)
    alpha, beta = posterior.alpha.copy(), posterior.beta.copy()
    alpha[pool, action] += data.draw(shapes)
    beta[pool, action] += data.draw(shapes)
    after = draw_rates(alpha, beta, key, draws)
    others = np.ones(before.shape, bool)
    others[:, pool, action] = False
    assert np.array_equal(before[others], after[others])
    assert np.all(before[:, pool, action] != after[:, pool, action])


@given(posteriors(), keys, keys)
def test_draws_are_a_function_of_the_key(posterior: Beta, key: np.uint64, other: np.uint64) -> None:
    rates = draw_rates(*posterior, key, 1)
    assert np.array_equal(rates, draw_rates(*posterior, key, 1))
    assert np.array_equal(rates, draw_rates(*posterior, other, 1)) == (key == other)


@given(posteriors(), keys, st.integers(1, 4))
def test_drawing_for_more_slots_only_appends(posterior: Beta, key: np.uint64, draws: int) -> None:
    assert np.array_equal(draw_rates(*posterior, key, draws + 1)[:draws], draw_rates(*posterior, key, draws))


# Posteriors


@st.composite
def evidence(draw: st.DrawFn) -> tuple[Beta, np.ndarray, np.ndarray]:
    """A prior of quarters, which floats hold exactly, with whole S <= E."""
    cells = draw(st.integers(1, 6))
    quarters = st.lists(st.integers(1, 4000), min_size=cells, max_size=cells)
    views = draw(st.lists(st.integers(0, 10**6), min_size=cells, max_size=cells))
    followed = [draw(st.integers(0, count)) for count in views]
    prior = Beta(np.array([draw(quarters)]) / 4.0, np.array([draw(quarters)]) / 4.0)
    return prior, np.array([followed], float), np.array([views], float)


@given(evidence())
def test_the_update_adds_successes_to_alpha_and_failures_to_beta_exactly(
    given_: tuple[Beta, np.ndarray, np.ndarray],
) -> None:
    prior, S, E = given_
    posterior = updated(prior, S, E)
    for at in np.ndindex(S.shape):
        assert Fraction(posterior.alpha[at]) == Fraction(prior.alpha[at]) + int(S[at])
        assert Fraction(posterior.beta[at]) == Fraction(prior.beta[at]) + int(E[at]) - int(S[at])


@given(evidence(), st.floats(1e-3, 1e4))
def test_a_capped_prior_keeps_its_mean_and_is_never_stronger_than_the_cap_or_itself(
    given_: tuple[Beta, np.ndarray, np.ndarray], strength_max: float
) -> None:
    posterior = updated(*given_)
    prior = capped(posterior, strength_max)
    strength = prior.alpha + prior.beta
    assert prior.mean == pytest.approx(posterior.mean, rel=1e-12)
    assert strength == pytest.approx(np.minimum(posterior.alpha + posterior.beta, strength_max), rel=1e-12)


@given(evidence(), st.floats(1e-3, 1e4))
def test_after_n_views_the_prior_has_the_share_s_of_s_plus_n_in_the_mean(
    given_: tuple[Beta, np.ndarray, np.ndarray], strength_max: float
) -> None:
    learned, S, n = given_
    prior = capped(learned, strength_max)
    s = np.minimum(learned.alpha + learned.beta, strength_max)
    share = s / (s + n)
    own = np.divide(S, n, out=np.zeros_like(S), where=n > 0)
    expected = share * learned.mean + (1.0 - share) * own
    assert updated(prior, S, n).mean == pytest.approx(expected, rel=1e-9)


# Giving out slots


class Offer(NamedTuple):
    """What `allocate` is given: utilities by draw and pool, h by items given, and a feed mixed at random or not."""

    utilities: np.ndarray
    ties: np.ndarray
    returns: np.ndarray
    lists: Lists
    slots: int
    explored: bool = False
    key: np.uint64 = np.uint64(SEED)

    @property
    def rankings(self) -> list[list[int]]:
        """The lists without their padding."""
        return [row[:size].tolist() for row, size in zip(*self.lists, strict=True)]

    @property
    def feed(self) -> list[int]:
        """The items that `allocate` puts into the slots."""
        slot_pools, slot_ranks, _ = self.allocated()
        return self.lists.items[slot_pools, slot_ranks].tolist()

    def allocated(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What `allocate` makes of it."""
        utilities, ties, returns, lists, slots, explored, key = self
        return allocate(utilities, ties, returns, lists.items, lists.stock, slots, explored, key)


SLOTS_MAX = 20


@st.composite
def offers(draw: st.DrawFn, *, tied: bool = True, explored: bool | None = None) -> Offer:
    """Short lists over few items: pools run empty, share items and tie. The padding is an item, too."""
    pools, slots = draw(st.integers(1, 5)), draw(st.integers(1, SLOTS_MAX - 1))
    item = st.integers(0, 14)
    ranking = st.lists(item, unique=True, max_size=3) | st.lists(item, unique=True, min_size=5, max_size=9)
    rankings = draw(st.lists(ranking, min_size=pools, max_size=pools))
    stock = np.array([len(entries) for entries in rankings], np.int64)
    items = np.full((pools, max(map(len, rankings)) + draw(st.integers(0, 2))), 7, np.int32)
    for row, entries in zip(items, rankings, strict=True):
        row[: len(entries)] = entries
    utility = st.sampled_from([-2.5, -1.0, -0.0, 0.0, 0.25, 0.5]) if tied else st.floats(-10.0, 10.0)
    cells = pools * draw(st.sampled_from([1, SLOTS_MAX]))
    utilities = draw(st.lists(utility, min_size=cells, max_size=cells, unique=not tied))
    returns = returns_table(SLOTS_MAX, draw(st.sampled_from([None, 1.0, 0.5, 0.85])))
    ties = draw(st.permutations(range(pools)))
    return Offer(
        np.reshape(utilities, (-1, pools)),
        np.array(ties, np.int64),
        returns,
        Lists(items, stock),
        slots,
        draw(st.booleans()) if explored is None else explored,
        draw(keys),
    )


def plain_allocation(offer: Offer) -> tuple[list[tuple[int, int]], list[str]]:
    """Slot by slot in plain Python: the pools that have something left, and the best of them or any."""
    unread = [list(enumerate(ranking)) for ranking in offer.rankings]
    slots: list[tuple[int, int]] = []
    shown: set[int] = set()
    verdicts = ["" for _ in unread]
    while len(slots) < offer.slots and any(unread):
        left = [pool for pool, entries in enumerate(unread) if entries]
        if offer.explored:
            picks = sum(map(len, verdicts))
            uniform = uniform_at(offer.key, np.uint64(EXPLORE_STREAM * 2**32 + picks + 1))
            pool = left[int(uniform * len(left))]
        else:
            pool = max(left, key=lambda pool: (worth(offer, pool, slots), offer.ties[pool]))
        rank, item = unread[pool].pop(0)
        verdicts[pool] += "d" if item in shown else "p"
        if item not in shown:
            slots.append((pool, rank))
            shown.add(item)
    return slots, verdicts


def worth(offer: Offer, pool: int, slots: list[tuple[int, int]]) -> float:
    """What this pool's next item is worth in the next slot."""
    utility = offer.utilities[len(slots) % len(offer.utilities), pool]
    given_already = [by for by, _ in slots].count(pool)
    return utility * offer.returns[given_already] if utility > 0.0 else utility


def letters(verdicts: np.ndarray) -> list[str]:
    """Verdicts as words of p and d; anything after the first unread entry would show as a dot."""
    return ["".join(".pd"[verdict] for verdict in row).rstrip(".") for row in verdicts.tolist()]


@given(offers())
def test_allocation_equals_the_plain_one(offer: Offer) -> None:
    assert (UNREAD, PLACED, DUPLICATE) == (0, 1, 2)
    slot_pools, slot_ranks, verdicts = offer.allocated()
    slots, expected_verdicts = plain_allocation(offer)
    assert list(zip(slot_pools.tolist(), slot_ranks.tolist(), strict=True)) == slots
    assert letters(verdicts) == expected_verdicts


@given(offers(explored=False))
def test_when_the_winner_takes_the_slots_pools_are_walked_one_after_another(offer: Offer) -> None:
    """One draw and h = 1: utilities stand still, so each pool is read to its end before the next begins."""
    offer = offer._replace(utilities=offer.utilities[:1].copy(), returns=np.ones(SLOTS_MAX))
    by_rank = sorted(range(offer.ties.size), key=lambda p: (offer.utilities[0, p], offer.ties[p]), reverse=True)
    walked = dict.fromkeys(item for pool in by_rank for item in offer.rankings[pool])
    assert offer.feed == list(walked)[: offer.slots]


def test_a_drawing_of_one_allocation() -> None:
    """Utilities 0.1, 0.3, 0.2 and five slots.

    pool 0   1 2 3 4          not read beyond the last slot
    pool 1   5 1              best: both placed
    pool 2   1 6 5 7          second: 1 and 5 stand in the feed already
    feed     5 1 6 7 2        2 comes from pool 0, after its duplicate 1
    """
    lists = lists_of([np.array(row, np.int32) for row in ([1, 2, 3, 4], [5, 1], [1, 6, 5, 7])])
    offer = Offer(np.array([[0.1, 0.3, 0.2]]), np.arange(3), np.ones(5), lists, 5)
    assert offer.feed == [5, 1, 6, 7, 2]
    assert letters(offer.allocated()[2]) == ["dp", "pp", "dpdp"]


def test_websters_returns_share_the_slots_in_proportion_to_utility() -> None:
    """Utilities 5, 3, 2 and ten slots: u / (2n + 1) gives 5, 3, 2 of them, in brackets their numbers.

    divided by  1        3         5        7        9
    pool 0      5  [1]   1.67 [4]  1   [5]  .71 [7]  .56 [10]
    pool 1      3  [2]   1    [6]  .6  [9]                        1 comes after pool 0's: it has the lower tie
    pool 2      2  [3]   .67  [8]
    """
    offer = Offer(np.array([[5.0, 3.0, 2.0]]), np.array([2, 1, 0]), returns_table(10, None), disjoint(3, 10), 10)
    assert offer.allocated()[0].tolist() == [0, 1, 2, 0, 0, 1, 0, 2, 1, 0]
    assert intended_counts(offer.utilities, offer.ties, offer.returns, 10).tolist() == [5, 3, 2]


@given(offers())
def test_a_feed_holds_every_item_once_and_as_many_as_there_are(offer: Offer) -> None:
    distinct = set().union(*offer.rankings)
    assert len(offer.feed) == min(offer.slots, len(distinct))
    assert len(set(offer.feed)) == len(offer.feed)
    assert set(offer.feed) <= distinct


@given(offers())
def test_within_a_feed_every_pool_keeps_its_own_order(offer: Offer) -> None:
    slot_pools, slot_ranks, _ = offer.allocated()
    for pool in range(len(offer.rankings)):
        ranks = slot_ranks[slot_pools == pool]
        assert np.all(np.diff(ranks) > 0)


@given(offers())
def test_a_longer_feed_begins_with_the_shorter_one(offer: Offer) -> None:
    longer = offer._replace(slots=offer.slots + 1)
    assert longer.feed[: offer.slots] == offer.feed


@given(offers())
def test_as_many_candidates_as_slots_are_as_good_as_all(offer: Offer) -> None:
    """Everything read of a list stands in the feed, so nothing is read past as many entries as slots."""
    items, stock = offer.lists
    shorter = offer._replace(lists=Lists(items[:, : offer.slots].copy(), np.minimum(stock, offer.slots)))
    assert shorter.feed == offer.feed


@given(offers())
def test_verdicts_account_for_every_slot_and_every_entry_that_was_read(offer: Offer) -> None:
    slot_pools, slot_ranks, verdicts = offer.allocated()
    assert np.count_nonzero(verdicts == PLACED) == slot_pools.size
    shown: list[int] = offer.feed
    for pool, ranking in enumerate(offer.rankings):
        row = verdicts[pool]
        read = np.count_nonzero(row)
        assert np.all(row[:read] != UNREAD)
        assert read <= len(ranking)
        assert np.flatnonzero(row == PLACED).tolist() == slot_ranks[slot_pools == pool].tolist()
        elsewhere = {item for item, by in zip(shown, slot_pools, strict=True) if by != pool}
        assert {ranking[rank] for rank in np.flatnonzero(row == DUPLICATE)} <= elsewhere


@given(offers(tied=False, explored=False), st.data())
def test_exchanging_pools_exchanges_the_result(offer: Offer, data: st.DataObject) -> None:
    """With h = 1, as h(n) could make two products equal."""
    offer = offer._replace(returns=np.ones(SLOTS_MAX))
    order = np.array(data.draw(st.permutations(range(offer.ties.size))))
    items, stock = offer.lists
    other = offer._replace(
        utilities=offer.utilities[:, order].copy(), lists=Lists(items[order].copy(), stock[order].copy())
    )
    slot_pools, slot_ranks, verdicts = offer.allocated()
    moved_pools, moved_ranks, moved_verdicts = other.allocated()
    assert order[moved_pools].tolist() == slot_pools.tolist()
    assert moved_ranks.tolist() == slot_ranks.tolist()
    assert moved_verdicts.tolist() == verdicts[order].tolist()


@given(offers(explored=False))
def test_intended_counts_are_what_pools_that_never_run_out_would_get(offer: Offer) -> None:
    endless = offer._replace(lists=disjoint(offer.ties.size, offer.slots))
    placed = np.bincount(endless.allocated()[0], minlength=offer.ties.size)
    intended = intended_counts(offer.utilities, offer.ties, offer.returns, offer.slots)
    assert intended.tolist() == placed.tolist()


@given(keys, st.integers(1, 32))
def test_tie_breaks_come_from_a_stream_that_no_draw_uses(key: np.uint64, pools: int) -> None:
    """32 pools, 32 actions and a draw for each of 1000 slots use the streams below 2 ** 20 only."""
    assert TIE_STREAM >= 2**20
    expected = [splitmix64(int(key), TIE_STREAM * 2**32 + pool) >> 1 for pool in range(pools)]
    assert tie_breaks(pools, key).tolist() == expected


# The whole blend


def disjoint(pools: int, length: int) -> Lists:
    """Lists without a common item."""
    return lists_of([np.arange(pool * length, (pool + 1) * length, dtype=np.int32) for pool in range(pools)])


def plain_rules(rewards: list[float], slots: int) -> Rules:
    """The winner takes the slots; one draw, as it is."""
    return Rules(np.array(rewards), np.ones(slots))


def first_slots(posterior: Beta, rules: Rules, purpose: str, blends: int) -> np.ndarray:
    """How often each pool got the first slot, over many keys."""
    lists = disjoint(len(posterior.alpha), rules.returns.size)
    pools = [
        blend(posterior, rules, lists, key_of(SEED, purpose, str(number))).slot_pools[0] for number in range(blends)
    ]
    return np.bincount(pools, minlength=len(posterior.alpha))


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), st.lists(shapes, min_size=3, max_size=3), keys)
def test_utilities_are_added_in_the_order_of_the_actions(
    rewards: list[float], alpha: list[float], key: np.uint64
) -> None:
    rates = draw_rates(np.array([alpha]), np.ones((1, 3)), key, 2)
    products = [[rate * reward for rate, reward in zip(row, rewards, strict=True)] for row in rates[:, 0].tolist()]
    expected = [[one + two + three] for one, two, three in products]
    assert utilities_of(rates, np.array(rewards)).tolist() == expected


def test_the_order_of_addition_shows_in_the_last_bit() -> None:
    rates, rewards = np.array([[[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]]]), np.ones(3)
    assert utilities_of(rates, rewards).tolist() == [[0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1]]
    assert 0.1 + 0.2 + 0.3 != 0.3 + 0.2 + 0.1


@st.composite
def rules(draw: st.DrawFn, actions: int, slots: int) -> Rules:
    """Any rules for a feed of so many slots."""
    return Rules(
        np.array(draw(st.lists(st.floats(-5.0, 5.0), min_size=actions, max_size=actions))),
        returns_table(slots, draw(st.sampled_from([None, 1.0, 0.8]))),
        draw(st.sampled_from([0.15, 1.0, 3.0])),
        draw(st.sampled_from([0.0, 0.5])),
        draw(st.sampled_from([1, slots])),
    )


@given(posteriors(), keys, st.integers(1, 12), st.data())
def test_a_blend_is_its_draws_its_utilities_and_its_allocation(
    posterior: Beta, key: np.uint64, slots: int, data: st.DataObject
) -> None:
    pools, actions = posterior.alpha.shape
    by = data.draw(rules(actions, slots))
    lists = disjoint(pools, 4)
    made = blend(posterior, by, lists, key)
    rates = draw_rates(posterior.alpha / by.temperature, posterior.beta / by.temperature, key, by.draws)
    utilities, ties = utilities_of(rates, by.rewards), tie_breaks(pools, key)
    explored = uniform_at(key, np.uint64(EXPLORE_STREAM * 2**32)) < by.epsilon
    placed, verdicts = plain_allocation(Offer(utilities, ties, by.returns, lists, slots, explored, key))
    assert np.array_equal(made.rates, rates)
    assert made.explored == explored
    assert list(zip(made.slot_pools.tolist(), made.slot_ranks.tolist(), strict=True)) == placed
    assert letters(made.verdicts) == verdicts
    assert made.intended.tolist() == intended_counts(utilities, ties, by.returns, slots).tolist()


@given(posteriors(), keys, st.integers(1, 12), st.data())
def test_one_belief_serves_feeds_of_every_length(
    posterior: Beta, key: np.uint64, slots: int, data: st.DataObject
) -> None:
    """Whether it was drawn once or for each slot, and whether the feed was mixed at random or not."""
    pools, actions = posterior.alpha.shape
    by, lists = data.draw(rules(actions, slots)), disjoint(pools, 3)
    delta = 1.0 if slots == 1 else by.returns[1]
    longer_by = by._replace(
        returns=returns_table(slots + 1, None if delta == 1.0 / 3.0 else delta),
        draws=1 if by.draws == 1 else slots + 1,
    )
    shorter, longer = blend(posterior, by, lists, key), blend(posterior, longer_by, lists, key)
    assert np.array_equal(longer.rates[: by.draws], shorter.rates)
    assert longer.slot_pools[:slots].tolist() == shorter.slot_pools.tolist()
    assert longer.slot_ranks[:slots].tolist() == shorter.slot_ranks.tolist()


@given(posteriors(), keys, st.sampled_from([None, 1.0, 0.5]), st.booleans())
def test_a_feed_is_full_even_when_every_utility_is_negative(
    posterior: Beta, key: np.uint64, delta: float | None, one_draw: bool
) -> None:
    pools, actions = posterior.alpha.shape
    slots = 3 * pools
    by = Rules(np.full(actions, -74.0), returns_table(slots, delta), draws=1 if one_draw else slots)
    assert blend(posterior, by, disjoint(pools, 3), key).slot_pools.size == slots


def test_pools_with_nothing_to_offer_leave_the_feed_empty_and_the_blend_whole() -> None:
    empty = lists_of([np.zeros(0, np.int32)] * 2)
    made = blend(Beta(np.ones((2, 1)), np.ones((2, 1))), plain_rules([1.0], 5), empty, key_of(SEED))
    assert made.slot_pools.tolist() == []
    assert made.verdicts.shape == (2, 0)


def test_arms_without_evidence_share_the_first_slot_equally() -> None:
    """Chi-squared with 3 degrees of freedom at 1e-7."""
    newcomers = Beta(np.full((4, 2), 1.0), np.full((4, 2), 19.0))
    counts = first_slots(newcomers, plain_rules([1.0, -2.0], 1), "equal arms", 6000)
    assert stats.chisquare(counts).pvalue > FALSE_ALARM, f"seed {SEED}: {counts}"


UNEQUAL = Beta(np.array([[1.0], [5.0], [20.0], [80.0]]), np.full((4, 1), 3.0))


def test_pools_that_tie_share_the_first_slot_equally() -> None:
    """A reward of 0 makes every utility 0. Chi-squared with 3 degrees of freedom at 1e-7."""
    counts = first_slots(UNEQUAL, plain_rules([0.0], 1), "ties", 6000)
    assert stats.chisquare(counts).pvalue > FALSE_ALARM, f"seed {SEED}: {counts}"


def test_a_feed_mixed_at_random_takes_any_two_pools_equally_often() -> None:
    """Whatever their utilities: chi-squared over the 16 pairs of the first two slots, at 1e-7."""
    by, lists = Rules(np.ones(1), np.ones(2), epsilon=1.0 - 2.0**-53), disjoint(4, 2)
    made = [blend(UNEQUAL, by, lists, key_of(SEED, "mixed", str(number))) for number in range(6000)]
    assert all(one.explored for one in made)
    counts = np.zeros((4, 4), int)
    for one in made:
        counts[tuple(one.slot_pools)] += 1
    assert stats.chisquare(counts.ravel()).pvalue > FALSE_ALARM, f"seed {SEED}: {counts}"


@pytest.mark.parametrize("epsilon", [0.0, 0.02, 0.5])
def test_a_feed_is_mixed_at_random_with_the_probability_epsilon(epsilon: float) -> None:
    """Three two-sided binomial tests at 1e-7; with epsilon 0, none may be."""
    by, lists = Rules(np.ones(1), np.ones(1), epsilon=epsilon), disjoint(4, 1)
    mixed = sum(blend(UNEQUAL, by, lists, key_of(SEED, "mix", str(n))).explored for n in range(5000))
    assert stats.binomtest(mixed, 5000, epsilon).pvalue > FALSE_ALARM, f"seed {SEED}: {mixed}"


@pytest.mark.parametrize("temperature", [0.15, 4.0])
def test_temperature_divides_both_parameters(temperature: float) -> None:
    """Two Kolmogorov-Smirnov tests at 1e-7."""
    posterior, lists = Beta(np.full((100, 50), 3.0), np.full((100, 50), 9.0)), disjoint(100, 1)
    by = Rules(np.ones(50), np.ones(1), temperature=temperature)
    drawn = np.ravel([blend(posterior, by, lists, key_of(SEED, "warm", str(n))).rates for n in range(4)])
    expected = stats.beta(3.0 / temperature, 9.0 / temperature)
    assert stats.kstest(drawn, expected.cdf).pvalue > FALSE_ALARM, f"seed {SEED}"


@pytest.mark.parametrize("draws", [1, 2])
def test_a_pool_comes_first_as_often_as_it_is_the_best(draws: int) -> None:
    """Thompson sampling matches probabilities: the share of pool p is the integral of f_p times all F_q.

    Two chi-squared tests with 2 degrees of freedom at 1e-7; 400 Gauss-Legendre nodes give shares to 1e-12.
    """
    alpha, beta = np.array([3.0, 2.0, 10.0]), np.array([7.0, 8.0, 40.0])
    nodes, weights = np.polynomial.legendre.leggauss(400)
    x = (nodes + 1.0) / 2.0
    density = stats.beta.pdf(x[:, None], alpha, beta)
    below = stats.beta.cdf(x[:, None], alpha, beta)
    shares = np.array([np.sum(weights / 2.0 * density[:, p] * np.delete(below, p, 1).prod(1)) for p in range(3)])
    assert shares.sum() == pytest.approx(1.0, abs=1e-9)
    posterior, by = Beta(alpha[:, None], beta[:, None]), Rules(np.ones(1), np.ones(2), draws=draws)
    counts = first_slots(posterior, by, "matching", 6000)
    pvalue = stats.chisquare(counts, shares / shares.sum() * counts.sum()).pvalue
    assert pvalue > FALSE_ALARM, f"seed {SEED}: {counts}"


WITHOUT_END = """
import json, signal, sys
import numpy as np
from blending.blend import Rules, blend, lists_of
from blending.posterior import Beta

lists = lists_of([np.arange(3, dtype=np.int32), np.arange(3, 6, dtype=np.int32)])
for line in sys.stdin:
    parameter, pool, bad, temperature = json.loads(line)
    posterior = Beta(np.ones((2, 2)), np.ones((2, 2)))
    posterior[parameter][pool, 1] = bad
    signal.alarm(30)
    try:
        blend(posterior, Rules(np.ones(2), np.ones(3), temperature), lists, np.uint64(1))
        print("a blend", flush=True)
    except ValueError as error:
        print(error, flush=True)
"""


@pytest.mark.parametrize(
    ("alpha", "beta", "rewards", "pools"),
    [
        ((2, 2), (2, 1), 2, 2),
        ((2, 2), (1, 2), 2, 2),
        ((2, 1), (2, 2), 2, 2),
        ((2, 2), (2, 2), 3, 2),
        ((2, 2), (2, 2), 2, 3),
        ((2, 0), (2, 0), 0, 2),
        ((0, 2), (0, 2), 2, 0),
    ],
)
def test_a_blend_refuses_shapes_that_do_not_agree(
    alpha: tuple[int, int], beta: tuple[int, int], rewards: int, pools: int
) -> None:
    """Its loops would read past the end of an array."""
    with pytest.raises(ValueError, match="needs a posterior of that shape"):
        blend(
            Beta(np.ones(alpha), np.ones(beta)), plain_rules([1.0] * rewards, 3), disjoint(pools, 3), key_of(SEED)
        )


def test_a_blend_refuses_what_its_sampler_would_never_finish() -> None:
    """In a process of its own with an alarm, so that a sampler without an end is a failure and not a wait."""
    no_parameters = [math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0]
    cases = [(parameter, pool, bad, 1.0) for bad in no_parameters for parameter in (0, 1) for pool in (0, 1)]
    cases += [(0, 0, 1.0, temperature) for temperature in (0.0, -1.0, math.nan, math.inf)]
    cases += [(0, 1, 1e308, 0.15), (1, 0, 2000.0, 1e-308)]  # finite, but not when divided
    lines = "".join(json.dumps(case) + "\n" for case in cases)
    command = [sys.executable, "-c", WITHOUT_END]
    done = subprocess.run(command, cwd=ROOT, input=lines, timeout=300, capture_output=True, text=True, check=False)
    answers = done.stdout.splitlines()
    assert len(answers) == len(cases), f"of {cases[len(answers)]} nothing was heard; {done.stderr[-300:]}"
    assert [
        case for case, said in zip(cases, answers, strict=True) if not said.startswith("a Beta posterior needs")
    ] == []
