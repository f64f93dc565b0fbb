"""An item without reactions has a score, and in the mean a wider interval than known ones of its attributes."""

from functools import cache

import numpy as np
from arms import SEED
from msgspec.structs import replace

from engine.events import ItemUpdate, Organic, Request
from engine.features import layout_of
from engine.personal import variances_of, weights_at
from engine.pools import Gathered
from engine.state import UserWeights
from engine.weights import score_variances
from simulator.taste_loop import HOUR_MS, TasteLife, policy_for_tastes
from simulator.tastes import Tastes

WORLD = Tastes(items=64, feeds=30, traits=("kind",), values=4, liked=1, gains=(3.0,))
NOW_MS = (WORLD.feeds + 1) * HOUR_MS


@cache
def told() -> tuple[Gathered, UserWeights | None, list[str]]:
    """What a user's request sees. `young` has had one like, since the last training, and `cold` none.

    With the items that are of the same kind as these, and known.
    """
    policy = policy_for_tastes()
    life = TasteLife(WORLD, replace(policy, embeddings=replace(policy.embeddings, every_reactions=40)), SEED, 6)
    life.run()
    runner, kind = life.runner, life.values[0, 0]
    for item in ("young", "cold"):
        runner.put(ItemUpdate(item=item, attributes=WORLD.attributes(life.values[0])), 0)
    for number in range(policy.population.every_records):  # the one reaction, and until a version knows of it
        runner.react(Organic(event_id="y", user="other", item="young", action="like"), NOW_MS - number)
    same = [f"item-{number}" for number in np.flatnonzero(life.values[:, 0] == kind).tolist()]
    candidates = {"listed": ["cold", "young", *same[:8]]}
    request = Request(request_id="now", user="user-0", slots=10, candidates=candidates)
    return runner.gather(request, NOW_MS), runner.state("user-0").weights, same


def test_a_cold_item_has_a_finite_score_and_a_wider_interval_than_its_like_in_the_mean() -> None:
    gathered, own, same = told()
    facts, weighing = gathered.facts, gathered.weighing
    assert weighing is not None
    assert facts.embeddings is not None
    assert np.isfinite(weighing.etas).all()
    unsure = variances_of(weighing, gathered.visitor.past, own, facts, NOW_MS)
    assert np.isfinite(unsure).all()
    names = [*facts.population.items[: facts.population.size], *gathered.strangers]
    of = {names[number]: place for place, number in enumerate(weighing.items.tolist())}
    known = [of[item] for item in same if item in of and item not in gathered.strangers]
    assert len(known) >= 5
    print(unsure[of["cold"]], unsure[of["young"]], unsure[known])
    # Not than each of them: an item with features that others have not got is unsure too, though it is known.
    assert unsure[of["cold"]] > unsure[known].mean()
    assert (unsure[of["cold"]] > unsure[known]).mean() > 0.75


def test_an_item_known_by_its_attributes_alone_has_a_less_sure_vector() -> None:
    gathered, own, same = told()
    facts, weighing = gathered.facts, gathered.weighing
    assert weighing is not None
    assert facts.items.variances is not None
    number = facts.population.number("young")
    assert number is not None
    belief = weights_at(own, facts, layout_of(facts.policy, facts.catalogue), NOW_MS)
    whole = variances_of(weighing, gathered.visitor.past, own, facts, NOW_MS)
    of_vectors = whole - score_variances(weighing.x, belief)
    here = np.isin(
        weighing.items, [facts.population.number(item) for item in same if item not in gathered.strangers]
    )
    assert facts.items.factors is not None
    reacted_to = facts.items.factors.any(axis=1)  # when vectors were trained last
    trained = here & reacted_to[np.minimum(weighing.items, facts.population.size - 1)]
    young = weighing.items == number
    assert trained.sum() >= 5
    assert of_vectors[young][0] > of_vectors[trained].max() > 0.0
    # It is in proportion to the variance of the vector.
    inside = facts.items.variances[weighing.items[trained | young]]
    ratio = of_vectors[trained | young] / inside
    assert np.abs(ratio / ratio[0] - 1.0).max() < 1e-6
