"""Nothing that is said of items, times or features makes a weight, a sum or a score that is not finite."""

import numpy as np
import pytest
from arms import SEED

from engine.catalogue import TOKENS_MAX
from engine.events import TS_MS_MAX, Acted, ItemUpdate, Organic, Reaction, Request, Seen
from engine.features import layout_of
from engine.learning import WeightSums, add_lesson, bytes_of, learned, rows_of
from engine.personal import variances_of, weights_at
from engine.policy import EmbeddingsPolicy, MemoryPolicy, Policy, WeightsPolicy
from engine.pool_policy import PoolPolicy
from engine.state import WeightLesson
from engine.weights import no_sums
from streams.embedded import EmbeddedRunner

POLICY = Policy(
    pools={
        "personal": PoolPolicy("personal"),
        "popular": PoolPolicy("popular"),
        "random": PoolPolicy("random"),
        "listed": PoolPolicy("external", required=2),
    },
    memory=MemoryPolicy(weights_half_life_ms=60_000, history_max=20),
    weights=WeightsPolicy(attributes=16, temperature=0.5, full_after_slots=10),
    embeddings=EmbeddingsPolicy(every_reactions=20, dimensions=4),
)
ABSURD: list[dict[str, str | int | float | bool | list[str]]] = [
    {"price": 1e6, "weight": 1e30, "count": 10**18},
    {"": "", "kind": ""},
    {"tags": [f"t{number}" for number in range(10_000)]},
    {"tags": ["same"] * 5_000, "kind": "x" * 100_000},
    {},
    {"kind": "a", "new": True, "price": -1e300},
    {"price": float("inf"), "weight": float("nan")},
]
HOURS = (0, 1_000, 500, 0, TS_MS_MAX, 10, TS_MS_MAX - 1, 1_700_000_000_000, 1_600_000_000_000, 0)


def lesson(x: np.ndarray, etas: tuple[float, ...], kind: str = "choice") -> WeightLesson:
    return WeightLesson(kind, "l", bytes_of(x), etas, 0, 1.0, 0)  # type: ignore[arg-type]


def step(runner: EmbeddedRunner, number: int, at_ms: int, random: np.random.Generator) -> None:
    """A request at this time, reactions to it, and what no sane product would send."""
    user, name = f"u{number % 3}", f"r{number}"
    listed = [f"i{int(random.integers(20))}", f"stranger-{number}", "i1", f"i{int(random.integers(20))}"]
    request = Request(request_id=name, user=user, slots=6, candidates={"listed": listed}, ts_ms=at_ms)
    decision = runner.serve(request, runner.gather(request, at_ms), at_ms)
    assert decision.considered
    assert np.isfinite(decision.considered.etas).all()
    assert np.abs(rows_of(decision.considered.x, len(decision.considered.items))).max() <= 1.0
    assert len(set(decision.slot_items)) == len(decision.slot_items) > 0
    reactions: list[Reaction] = [Organic(event_id=f"o{number}", user=user, item=f"never-{number}", action="like")]
    for slot, item in enumerate(decision.slot_items):
        of = {"user": user, "request_id": name, "slot": slot, "item": item}
        reactions += [Seen(event_id=f"s{number}-{slot}", **of)] * 2
        if random.random() < 0.5:
            reactions.append(Acted(event_id=f"a{number}-{slot}", action="like", **of))
    reactions.append(Seen(event_id="?", user=user, request_id="none", slot=900, item="none"))
    for reaction in reactions:
        runner.react(reaction, int(random.choice([at_ms, max(at_ms - 5_000, 0), at_ms + 5_000])))


def test_absurd_items_and_times_reach_no_weight() -> None:
    random = np.random.default_rng(SEED)
    runner = EmbeddedRunner(POLICY)
    for number, attributes in enumerate(ABSURD * 2):
        runner.put(ItemUpdate(item=f"i{number}", attributes=attributes), 0)
        assert runner.facts.catalogue.tokens_of(f"i{number}").size <= TOKENS_MAX
    for number in range(80):
        step(runner, number, HOURS[number % len(HOURS)], random)
    facts = runner.facts
    assert facts.embeddings is not None
    layout = layout_of(POLICY, facts.catalogue)
    for number in range(3):
        state = runner.state(f"u{number}")
        assert state.weights is not None
        for part in (state.weights.precision, state.weights.moment):
            assert np.isfinite(np.frombuffer(part)).all()
        for at_ms in (0, 10**12, TS_MS_MAX):
            belief = weights_at(state.weights, facts, layout, at_ms)
            assert np.isfinite(belief.mean).all()
            assert np.isfinite(belief.factor).all()
            request = Request(request_id=f"{at_ms}", user=f"u{number}", slots=6, candidates={"listed": ["?"]})
            gathered = runner.gather(request, at_ms)
            weighing = gathered.weighing
            assert weighing is not None
            assert np.isfinite(weighing.x).all()
            assert (np.diff(weighing.etas) <= 0.0).all()
            assert np.unique(weighing.items).size == weighing.items.size
            unsure = variances_of(weighing, gathered.visitor.past, state.weights, facts, at_ms)
            assert np.isfinite(unsure).all()
            assert (unsure > 0.0).all()
    shared = facts.population.weights
    assert shared is not None
    assert np.isfinite(shared.mean).all()
    assert np.isfinite(shared.precision).all()
    assert np.isfinite(runner.sums.weights.exported(1).precision).all()


@pytest.mark.parametrize("kind", ["choice", "seen"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused_whole(kind: str, bad: float) -> None:
    rows = np.random.default_rng(SEED).uniform(-1, 1, (3, 5))
    rows = rows if kind == "choice" else rows[:1]
    good, etas = lesson(rows, (0.5, 0.1, -0.3)[: len(rows)], kind), (0.5, 0.1, -0.3)[: len(rows)]
    sums = no_sums(5)
    assert add_lesson(sums, good, 1.0, full=True)
    before = sums.precision.copy(), sums.moment.copy()
    spoilt = lesson(rows, (*etas[:-1], bad), kind)
    assert not add_lesson(sums, spoilt, 1.0, full=True)
    for part, was in zip(sums, before, strict=True):
        assert np.array_equal(part, was)
    own = learned(None, good, 1_000, full=True)
    assert learned(own, spoilt, 1_000, full=True) == own
    everybody = WeightSums()
    everybody.add(good, 1_000)
    known = everybody.exported(1_000)
    everybody.add(spoilt, 1_000)
    assert everybody.exported(1_000) == known
