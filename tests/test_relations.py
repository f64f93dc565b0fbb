"""How items go together, and what is counted of each: against dictionaries, in any order, over partitions."""

import numpy as np
import pytest

from engine.item_tallies import FAST, FIRST, HALF_LIVES_MS, STARTS, TREND, ItemTallies
from engine.policy import Policy
from engine.population import Sums, fit
from engine.relations import NEAR_MS, SUCCESSORS, UNITS, Relation, kernel_units
from engine.state import Reacted, ReactionLesson

POLICY = Policy()


def absorbed(log: list[tuple[str, str, str, int]]) -> Sums:
    """The sums of (user, item, action, ms) in order."""
    sums, past = Sums(), dict[str, tuple[Reacted, ...]]()
    for number, (user, item, action, at_ms) in enumerate(log):
        before = past.get(user, ())
        sums.absorb([ReactionLesson(item, action, before, at_ms, len(before))], at_ms, POLICY)
        past[user] = (*before, Reacted(at_ms, f"{number:09d}", item, action))
    return sums


def some_log(seed: int, length: int) -> list[tuple[str, str, str, int]]:
    """Random reactions of four users to ten items, minutes apart."""
    random = np.random.default_rng(seed)
    times = np.cumsum(random.integers(0, 200_000, length)) + 1
    actions = random.choice(["like", "rated"], length)
    return [
        (f"u{random.integers(4)}", f"i{random.integers(10)}", str(action), int(at))
        for action, at in zip(actions, times, strict=True)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_what_is_near_and_what_follows_are_sums_over_pairs(seed: int) -> None:
    """An oracle goes over each user's past: the kernel by time, successors by place too."""
    log = some_log(seed, 60)
    population = fit(absorbed(log), POLICY)
    near: dict[tuple[str, str], int] = {}
    after: dict[tuple[str, str], int] = {}
    past: dict[str, list[tuple[str, int]]] = {}
    for user, item, _, at_ms in log:
        latest: dict[str, int] = {}
        for other, other_ms in reversed(past.get(user, [])[-POLICY.population.recent_reactions :]):
            latest.setdefault(other, at_ms - other_ms)
        latest.pop(item, None)
        for lag, (other, apart_ms) in enumerate(latest.items(), start=1):
            units = max(round(UNITS / (1 + apart_ms / NEAR_MS)), 1)
            for pair in ((item, other), (other, item)):
                near[pair] = near.get(pair, 0) + units
            if lag <= SUCCESSORS:
                after[other, item] = after.get((other, item), 0) + max(units // lag, 1)
        past.setdefault(user, []).append((item, at_ms))
    for lists, expected in ((population.near, near), (population.successors, after)):
        found = {
            (population.items[row], population.items[other]): count
            for row, neighbours in enumerate(lists)
            for other, count in zip(neighbours.items.tolist(), neighbours.counts.tolist(), strict=True)
        }
        assert found == expected


def test_a_version_made_from_the_one_before_is_the_version_made_anew() -> None:
    """Also where only some rows changed."""
    log = some_log(9, 80)
    sums, previous = absorbed(log[:50]), None
    previous = fit(sums, POLICY)
    past = {
        user: tuple(Reacted(at, f"{n:09d}", i, a) for n, (u, i, a, at) in enumerate(log[:50]) if u == user)
        for user in ("u0", "u1", "u2", "u3")
    }
    for number, (user, item, action, at_ms) in enumerate(log[50:], start=50):
        before = past[user]
        sums.absorb([ReactionLesson(item, action, before, at_ms, len(before))], at_ms, POLICY)
        past[user] = (*before, Reacted(at_ms, f"{number:09d}", item, action))
        later, anew = fit(sums, POLICY, previous), fit(sums, POLICY)
        for one, other in ((later.near, anew.near), (later.successors, anew.successors)):
            assert [(r.items.tolist(), r.counts.tolist()) for r in one] == [
                (r.items.tolist(), r.counts.tolist()) for r in other
            ]
        previous = later


def test_amounts_add_up_in_any_order() -> None:
    """Rows are sorted by their sums whatever came first."""
    random = np.random.default_rng(1)
    rows, columns = random.integers(0, 5, 200), random.integers(0, 9, 200)
    amounts = random.integers(1, 2000, 200)
    tables = []
    for order in (np.arange(200), random.permutation(200)):
        relation = Relation()
        for at in order.tolist():
            relation.add(rows[at : at + 1], columns[at : at + 1], amounts[at : at + 1], at)
        tables.append(relation.counts.table())
    np.testing.assert_array_equal(*tables)
    assert tables[0][:, 2].sum() == amounts.sum()


def test_the_kernel_halves_and_never_reaches_nothing() -> None:
    """Two minutes apart count half; a year apart counts one unit; a clock that goes back counts as at once."""
    assert kernel_units(np.array([0.0, NEAR_MS, 3.2e10, -5.0])).tolist() == [UNITS, UNITS // 2, 1, UNITS]


def test_likes_fade_and_first_reactions_count() -> None:
    """After a half-life a like counts half; over hundreds of half-lives nothing overflows."""
    tallies = ItemTallies()
    tallies.react(0, liked=True, earlier=0, at_ms=1000)
    tallies.react(1, liked=False, earlier=FIRST, at_ms=1000)
    columns = tallies.at(2, 1000 + HALF_LIVES_MS[FAST])
    assert columns.reactions.tolist() == [1.0, 1.0]
    np.testing.assert_allclose(columns.fading[FAST], [0.5, 0.0])
    np.testing.assert_allclose(columns.fading[TREND, 0], 2 ** -(HALF_LIVES_MS[FAST] / HALF_LIVES_MS[TREND]))
    assert columns.fading[STARTS, 1] == 0.0
    far_ms = 1000 + 5000 * HALF_LIVES_MS[FAST]
    tallies.react(1, liked=True, earlier=9, at_ms=far_ms)
    later = tallies.at(2, far_ms)
    np.testing.assert_allclose(later.fading[FAST], [0.0, 1.0], atol=1e-300)
    assert np.isfinite(later.fading).all()


def test_tallies_of_partitions_are_one_tally() -> None:
    """However reactions are spread, and in whatever numbers the items come."""
    random = np.random.default_rng(2)
    events = [(int(random.integers(6)), bool(random.integers(2)), int(n * 7_000_000 + 1)) for n in range(200)]
    whole, parts = ItemTallies(), (ItemTallies(), ItemTallies())
    for n, (item, liked, at_ms) in enumerate(events):
        whole.react(item, liked=liked, earlier=n % 5, at_ms=at_ms)
        parts[n % 2].react(5 - item if n % 2 else item, liked=liked, earlier=n % 5, at_ms=at_ms)
    merged = ItemTallies()
    merged.merge(parts[0].exported(6), list(range(6)))
    merged.merge(parts[1].exported(6), list(range(5, -1, -1)))
    now_ms = events[-1][2]
    for one, other in zip(whole.at(6, now_ms), merged.at(6, now_ms), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)
