"""How likely each item was to stand in each slot, against pages that are made again and again."""

import numpy as np
import pytest
from arms import keys
from hypothesis import given, settings
from redraws import Case, cases

from blending.blend import MODES
from blending.placement import placement_of
from blending.propensity import propensities_of
from blending.randomness import key_of
from blending.redraws import redrawn, redrawn_items

SAMPLES, REDRAWS = 4000, 4000
FALSE_ALARM = 1e-6
PLACED: dict[str, Case] = {
    "lists that share items, some mixed at random": Case(
        [6, 9, 3], [60, 80, 20], ["abcd", "aefb", "fdcg"], 4, epsilon=0.4
    ),
    "satiation, several actions, stock that runs out": Case(
        [[6, 2], [9, 5]], [[60, 50], [80, 60]], ["ab", "bcde"], 4, delta=0.6, rewards=[1.0, -0.5], epsilon=0.2
    ),
    "floors, a cap and a pin": Case(
        [6, 9, 3], [60, 80, 20], ["abcd", "efgh", "hijk"], 4, floors=[0, 0, 2], caps=[1, 4, 4], pinned=[(0, 1)]
    ),
    "spread": Case([6, 9], [60, 80], ["abcde", "cafgh"], 5, delta=None, order="spread"),
    "rounded": Case([6, 9], [60, 80], ["abcde", "cafgh"], 5, order="rounded", epsilon=0.3),
}


@pytest.mark.parametrize("name", PLACED)
def test_an_item_stands_in_a_slot_as_often_as_it_is_said_to(name: str) -> None:
    """Hoeffding's bound for two samples, every cell of all cases counted: 300 are more than there are."""
    case = PLACED[name]
    samples = 1500 if case.rules.order != "greedy" else SAMPLES
    key = key_of(3, "ann", name)
    found = placement_of(case.posterior, case.rules, case.lists, samples, key, case.page, delta=0.5)
    counts, worths = np.zeros(found.chances.shape), np.zeros(found.worths.shape)
    for number in range(REDRAWS):
        made = case.made(f"again {number}")
        shown = case.lists.items[made.slot_pools, made.slot_ranks]
        counts[np.arange(shown.size), np.searchsorted(found.items, shown)] += 1.0
        for slot, pool in enumerate(made.slot_pools.tolist()):
            worths[slot, pool] += 0.5 ** made.slot_pools[:slot].tolist().count(pool)
    bound = np.sqrt(np.log(2.0 * 300 / FALSE_ALARM) / 2.0) * np.sqrt(1.0 / samples + 1.0 / REDRAWS)
    assert np.abs(counts / REDRAWS - found.chances).max() < bound
    assert np.abs(worths / REDRAWS - found.worths).max() < bound
    assert ((found.chances > 0) | (counts == 0) | (counts < REDRAWS / 100)).all()
    assert found.chances.sum(axis=1) == pytest.approx(found.pools.sum(axis=1))
    by_pool = propensities_of(case.posterior, case.rules, case.lists, samples, key, case.page)
    assert np.abs(found.pools[: len(by_pool.chances)] - by_pool.chances).max() < bound


@given(cases(conditioned=False), keys)
@settings(max_examples=40)
def test_the_pools_chances_are_those_of_the_redraws_that_know_no_items(case: Case, key: np.uint64) -> None:
    columns = np.maximum(case.lists.items, 0).astype(np.int64)
    for explored in (False, True):
        head = (*case.posterior, case.rules.rewards, case.rules.returns, case.rules.fallback)
        middle = (
            MODES[case.rules.mode],
            case.rules.draws,
            *case.lists,
            *case.page[:1],
            *case.page[3:],
            case.page.pinned[None],
        )
        worth = 0.5 ** np.arange(case.slots)
        pools, items, worths = redrawn_items(*head, *middle, explored, columns, 200, worth, 5, key)
        plain, _, _ = redrawn(*head, *middle, case.slots, explored, 0, np.zeros(0, np.int64), 5, key)
        assert pools == pytest.approx(plain, rel=1e-12)
        assert items.sum(axis=1) == pytest.approx(pools.sum(axis=1))
        assert (worths <= pools * (1.0 + 1e-12)).all()
        assert worths[0] == pytest.approx(pools[0])


def test_a_later_page_and_no_samples_are_refused() -> None:
    case = Case([6, 9], [60, 80], ["abcd", "efgh"], 2, before=[1, 1])
    key = key_of(3, "ann", "later")
    with pytest.raises(ValueError, match="later page"):
        placement_of(case.posterior, case.rules, case.lists, 5, key, case.page)
    with pytest.raises(ValueError, match="at least one sample"):
        placement_of(case.posterior, case.rules, case.lists, 0, key, case.page._replace(start=0))
