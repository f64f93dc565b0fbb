"""The three ways through a feed: their probabilities against simulation, and what never happens in them."""

from itertools import product

import numpy as np
import pytest
from chance import assert_counts
from hypothesis import given
from hypothesis import strategies as st

from simulator.choice import ACT, LOOK, Cascade, Choice, Logit, PositionBased

SEED = 20161111
WALKS = 20_000
UNEVEN = np.array([0.3, 0.05, 0.6, 0.1, 0.2, 0.4])
FALLING = (1.0, 0.8, 0.8, 0.5, 0.2, 0.1)

MODELS: dict[str, Choice] = {
    "position": PositionBased(FALLING),
    "cascade": Cascade(persistence=0.9, stop=0.5),
    "cascade of one action": Cascade(persistence=1.0, stop=1.0),
    "cascade that ignores actions": Cascade(persistence=0.7, stop=0.0),
    "logit": Logit(),
}
models = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
any_model = st.sampled_from(list(MODELS.values()))
attractions_of = st.lists(st.floats(0.01, 0.99), min_size=1, max_size=6).map(np.array)


def walks(model: Choice, attractions: np.ndarray, times: int = WALKS) -> np.ndarray:
    """(2, times, slots) of seen and acted."""
    uniforms = np.random.default_rng(SEED).random((times, attractions.size, 2))
    return np.array([model.react(attractions, numbers) for numbers in uniforms]).swapaxes(0, 1)


@models
def test_every_slot_is_seen_and_acted_on_as_often_as_its_formula_says(model: Choice) -> None:
    seen, acted = walks(model, UNEVEN).sum(axis=1)
    assert_counts(seen, WALKS, model.seen_probability(UNEVEN), 2 * UNEVEN.size)
    assert_counts(acted, WALKS, model.acted_probability(UNEVEN), 2 * UNEVEN.size)


@models
def test_one_slot_alone_is_acted_on_with_its_attraction(model: Choice) -> None:
    alone = np.array([0.3])
    assert model.acted_probability(alone) == pytest.approx(0.3)
    assert_counts(walks(model, alone)[1].sum(axis=0), WALKS, alone)


@models
def test_an_action_is_on_a_slot_that_was_seen(model: Choice) -> None:
    seen, acted = walks(model, UNEVEN, 2_000)
    assert not (acted & ~seen).any()


@given(any_model, attractions_of)
def test_acting_is_no_likelier_than_seeing(model: Choice, attractions: np.ndarray) -> None:
    seen, acted = model.seen_probability(attractions), model.acted_probability(attractions)
    assert seen.shape == acted.shape == attractions.shape
    assert ((acted > 0) & (acted <= seen) & (seen <= 1)).all()


@given(any_model, attractions_of, st.integers(0, 5), st.integers(0, 2**32))
def test_a_more_attractive_item_in_its_slot_is_acted_on_whenever_the_worse_one_was(
    model: Choice, attractions: np.ndarray, slot: int, seed: int
) -> None:
    slot %= attractions.size
    uniforms = np.random.default_rng(seed).random((attractions.size, 2))
    better = attractions.copy()
    better[slot] = 0.995
    if model.react(attractions, uniforms).acted[slot]:
        assert model.react(better, uniforms).acted[slot]


def test_position_based_slots_do_not_mind_each_other() -> None:
    model = PositionBased(FALLING)
    uniforms = np.random.default_rng(SEED).random((500, UNEVEN.size, 2))
    other = np.array([*UNEVEN[:5], 0.99])
    for numbers in uniforms:
        before, after = model.react(UNEVEN, numbers), model.react(other, numbers)
        assert (before.acted[:5] == after.acted[:5]).all()


class Test_cascade:
    """
    slot   0   1   2   3   4   5
    sees   x   x   x             a prefix, at least the first
    acts       x   x
    """

    def test_what_is_seen_is_the_top_and_never_nothing(self) -> None:
        seen, _ = walks(Cascade(0.9, 0.5), UNEVEN, 2_000)
        assert seen[:, 0].all()
        assert (seen[:, 1:] <= seen[:, :-1]).all()

    def test_an_action_that_stops_leaves_the_rest_unseen(self) -> None:
        seen, acted = walks(Cascade(1.0, 1.0), UNEVEN, 2_000)
        assert (acted.sum(axis=1) <= 1).all()
        last_seen = seen.sum(axis=1) - 1
        acts = acted.any(axis=1)
        assert (acted.argmax(axis=1) == last_seen)[acts].all()
        assert (last_seen == UNEVEN.size - 1)[~acts].all()
        assert acts.any()
        assert not acts.all()

    def test_how_far_a_user_looks_varies(self) -> None:
        depth = walks(Cascade(0.9, 0.5), UNEVEN, 2_000)[0].sum(axis=1)
        assert set(depth.tolist()) == set(range(1, UNEVEN.size + 1))

    def test_the_formula_is_the_sum_over_every_walk(self) -> None:
        model, attractions = Cascade(0.9, 0.5), np.array([0.3, 0.05, 0.6])
        seen, acted = np.zeros(3), np.zeros(3)
        for acts, goes in product(product((0, 1), repeat=3), repeat=2):
            weight, on = 1.0, True
            for slot in range(3):
                weight *= attractions[slot] if acts[slot] else 1 - attractions[slot]
                go = 0.9 * (1 - 0.5 * acts[slot])
                weight *= go if goes[slot] else 1 - go
            for slot in range(3):
                seen[slot] += weight * on
                acted[slot] += weight * on * acts[slot]
                on = on and bool(goes[slot])
        assert model.seen_probability(attractions) == pytest.approx(seen)
        assert model.acted_probability(attractions) == pytest.approx(acted)

    @pytest.mark.parametrize("wrong", [(-0.1, 0.5), (1.1, 0.5), (0.5, -0.1), (0.5, 1.1), (np.nan, 0.5)])
    def test_what_is_no_probability_is_refused(self, wrong: tuple[float, float]) -> None:
        with pytest.raises(ValueError, match="not probabilities"):
            Cascade(*wrong)


class Test_logit:
    def test_at_most_one_action_and_everything_is_seen(self) -> None:
        seen, acted = walks(Logit(), UNEVEN, 2_000)
        assert seen.all()
        assert set(acted.sum(axis=1).tolist()) == {0, 1}

    def test_items_take_from_each_other_and_from_no_choice_in_proportion(self) -> None:
        one, two = np.array([0.5]), np.array([0.5, 0.5])
        assert Logit().acted_probability(one) == pytest.approx(1 / 2)
        assert Logit().acted_probability(two) == pytest.approx([1 / 3, 1 / 3])

    def test_a_number_of_zero_is_an_answer_too(self) -> None:
        outcome = Logit().react(UNEVEN, np.zeros((UNEVEN.size, 2)))
        assert not outcome.acted.any()


class Test_examination:
    @pytest.mark.parametrize("wrong", [(), (1.1, 1.0), (0.5, 0.6), (1.0, 0.0), (1.0, -0.1)])
    def test_only_a_falling_one_is_taken(self, wrong: tuple[float, ...]) -> None:
        with pytest.raises(ValueError, match="examination must fall"):
            PositionBased(wrong)

    def test_a_shorter_feed_has_the_first_of_it(self) -> None:
        assert PositionBased(FALLING).seen_probability(UNEVEN[:2]).tolist() == [1.0, 0.8]

    def test_seeing_and_acting_use_numbers_of_their_own(self) -> None:
        numbers = np.zeros((6, 2))
        numbers[:, LOOK] = 0.99  # sees slot 0 alone
        assert PositionBased(FALLING).react(UNEVEN, numbers).seen.tolist() == [True] + [False] * 5
        numbers[:, [LOOK, ACT]] = 0.0, 0.99  # sees all and acts on nothing
        outcome = PositionBased(FALLING).react(UNEVEN, numbers)
        assert outcome.seen.all()
        assert not outcome.acted.any()
