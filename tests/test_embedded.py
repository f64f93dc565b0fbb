"""The in-memory runner: where batches are cut changes nothing, and nothing is half-applied."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from arms import SEED
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple

from engine.decision import difference
from engine.errors import InputError
from engine.events import Acted, ItemUpdate, Organic, Request, Seen
from engine.evidence import evidence_at
from engine.facts import Facts, cohort_of
from engine.fold import fold
from engine.learning import rows_of as rows_of_features
from engine.newcomers import NewcomersRecord
from engine.policy import ActionPolicy, EmbeddingsPolicy, Policy, PopulationPolicy, WeightsPolicy
from engine.population import Sums, fit
from engine.priors import prior_for
from engine.state import CohortCell, Tally, UserState
from streams.embedded import EmbeddedRunner
from streams.recording import Entry, Recording
from streams.replay import replay as decided_again

Row = tuple[int, int, bool]  # user, item, whether it asks for a feed first


class MemoryLog:
    """Keeps every batch it is given; fails at the batch numbered `fails_at`, keeping none of it."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.batches: list[list[Entry]] = []
        self._fails_at = fails_at

    def append(self, entries: Sequence[Entry]) -> None:
        if len(self.batches) == self._fails_at:
            raise OSError("disk full")
        self.batches.append(list(entries))

    @property
    def entries(self) -> list[Entry]:
        return [entry for batch in self.batches for entry in batch]


def step(runner: EmbeddedRunner, number: int, row: Row, slots: int = 3) -> None:
    """One interaction: perhaps a feed that is seen whole, and the user's choice."""
    user, item = f"u{row[0]}", f"i{row[1]}"
    organic = Organic(event_id=f"{number}", user=user, item=item, action="like")
    if not row[2]:
        runner.react(organic, number)
        return
    request = Request(request_id=f"r{number}", user=user, slots=slots)
    decision = runner.serve(request, runner.gather(request, number), number)
    for slot, shown in enumerate(decision.slot_items):
        seen = Seen(event_id=f"{number}-{slot}", user=user, request_id=f"r{number}", slot=slot, item=shown)
        runner.react(seen, number)
    if item in decision.slot_items:
        slot = decision.slot_items.index(item)
        runner.react(
            Acted(event_id=f"{number}", user=user, request_id=f"r{number}", slot=slot, item=item, action="like"),
            number,
        )
    else:
        runner.react(organic, number)


def replay(rows: list[Row], policy: Policy, batch: int) -> tuple[EmbeddedRunner, MemoryLog]:
    """Run all rows and commit."""
    log = MemoryLog()
    runner = EmbeddedRunner(policy, log, batch)
    for number, row in enumerate(rows):
        step(runner, number, row)
    runner.commit()
    return runner, log


def exported(runner: EmbeddedRunner) -> dict[CohortCell, NewcomersRecord]:
    """What newcomers have taught."""
    return {cell: newcomers.exported() for cell, newcomers in runner.sums.newcomers.items()}


rows_of = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12), st.booleans()), max_size=40)


@settings(max_examples=40)
@given(rows_of, st.integers(1, 9), st.sampled_from([1, 2, 5, 64]))
def test_where_micro_batches_are_cut_changes_no_decision_and_no_state(
    rows: list[Row], every: int, batch: int
) -> None:
    policy = Policy(population=PopulationPolicy(every_records=every))
    whole, whole_log = replay(rows, policy, 10_000)
    cut, cut_log = replay(rows, policy, batch)
    assert cut_log.entries == whole_log.entries
    assert cut.states == whole.states
    assert exported(cut) == exported(whole)
    assert cut.facts.population.strengths == whole.facts.population.strengths


@settings(max_examples=40)
@given(rows_of, st.integers(1, 9))
def test_a_decision_sees_the_version_of_its_position_whatever_came_after_the_boundary(
    rows: list[Row], every: int
) -> None:
    policy = Policy(population=PopulationPolicy(every_records=every))
    runner, log = replay(rows, policy, 1)
    # A second sum over the same log, fitted from nothing at every boundary, says what each version holds.
    states: dict[str, UserState] = {}
    sums = Sums()
    versions = [fit(sums, policy)]
    for entry in log.entries:
        if entry.topic == "requests":
            continue  # its record of the log is counted with its decision
        if entry.topic == "feeds":
            decision = entry.value
            state = states.get(entry.key, UserState())
            version = versions[decision.population_version]
            assert decision.cohort == cohort_of(policy, {}, first=not any(state.served.values()))
            believed = Facts(policy, version).delays
            own = evidence_at(state, entry.at_ms, policy.memory, believed)
            table = [
                [[astuple(own.get((pool, "like"), Tally()))[which]] for pool in policy.pools] for which in (0, 1)
            ]
            prior, _ = prior_for(state, Facts(policy, version), decision.cohort, np.array(table))
            for place, part in enumerate(decision.pools):
                tally = own.get((part.pool, "like"), Tally())
                assert part.alpha == [prior.alpha[place, 0] + tally.successes]
                assert part.beta == [prior.beta[place, 0] + max(tally.exposure - tally.successes, 0.0)]
                assert part.delays == [believed[part.pool, "like"]]
            boundaries = [at for at in range(1, entry.offset + 1) if at < every or at % every == 0]
            assert decision.population_version == len(boundaries)
        folded = fold(states.get(entry.key, UserState()), entry.value, entry.at_ms, policy.memory)
        states[entry.key] = folded.state
        sums.absorb(folded.lessons, entry.at_ms, policy)
        if sums.records < every or sums.records % every == 0:
            versions.append(fit(sums, policy))
    assert states == runner.states


@settings(max_examples=40)
@given(rows_of)
def test_every_decision_is_rebuilt_from_its_record(rows: list[Row]) -> None:
    _, log = replay(rows, Policy(), 7)
    made = [entry.value for entry in log.entries if entry.topic == "feeds"]
    assert [difference(decision) for decision in made] == [None] * len(made)


def test_states_are_kept_only_after_the_log_has_taken_the_batch() -> None:
    runner = EmbeddedRunner(Policy(), MemoryLog(fails_at=1), 2)
    for number in range(2):
        runner.react(Organic(event_id=f"{number}", user="u", item="i", action="like"), number)
    runner.react(Organic(event_id="2", user="v", item="i", action="like"), 2)  # commits the first two
    kept = dict(runner.states)
    with pytest.raises(OSError, match="disk full"):
        runner.commit()
    assert runner.states == kept
    assert "v" not in runner.states


def test_a_request_id_is_answered_once_per_user() -> None:
    runner = EmbeddedRunner(Policy())
    request = Request(request_id="r", user="u", slots=3)
    runner.serve(request, runner.gather(request, 0), 0)
    with pytest.raises(InputError, match="has a decision already"):
        runner.serve(request, runner.gather(request, 1), 1)
    other = Request(request_id="r", user="v", slots=3)
    assert runner.serve(other, runner.gather(other, 1), 1).request.user == "v"


def test_an_action_that_the_policy_does_not_name_is_refused_before_anything_counts() -> None:
    log = MemoryLog()
    runner = EmbeddedRunner(Policy(), log)
    with pytest.raises(InputError, match=r"add \[actions.\"purchase\"\]"):
        runner.react(Organic(event_id="1", user="u", item="i", action="purchase"), 0)
    runner.commit()
    assert (log.entries, runner.states, runner.sums.records) == ([], {}, 0)


def test_more_slots_than_the_policy_allows_are_refused_before_anything_counts() -> None:
    log = MemoryLog()
    runner = EmbeddedRunner(Policy(), log)
    request = Request(request_id="r", user="u", slots=101)
    with pytest.raises(InputError, match="at most 100 slots"):
        runner.serve(request, runner.gather(request, 0), 0)
    runner.commit()
    assert (log.entries, runner.states, runner.sums.records) == ([], {}, 0)


def test_a_new_user_starts_from_the_population_and_leaves_it_by_acting() -> None:
    rows = [(user, item, True) for item in range(6) for user in range(4)]
    runner, _ = replay(rows, Policy(), 256)
    request = Request(request_id="new", user="nobody", slots=3)
    decision = runner.serve(request, runner.gather(request, 1000), 1000)
    prior, _ = prior_for(UserState(), runner.facts, "new")
    assert [part.alpha for part in decision.pools] == prior.alpha.tolist()
    assert [part.beta for part in decision.pools] == prior.beta.tolist()
    place = decision.slot_pools[0]
    seen = Seen(event_id="s", user="nobody", request_id="new", slot=0, item=decision.slot_items[0])
    runner.react(seen, 1001)
    after = Request(request_id="new2", user="nobody", slots=3)
    part = runner.serve(after, runner.gather(after, 1002), 1002).pools[place]
    pool = decision.pools[place].pool
    arrived = runner.facts.delays[pool, "like"].arrived(2)
    own = np.zeros((2, len(decision.pools), 1))
    own[1, place, 0] = arrived
    prior, _ = prior_for(UserState(), runner.facts, "", own)
    assert part.alpha == prior.alpha[place].tolist()
    assert part.beta == pytest.approx([prior.beta[place, 0] + arrived], rel=1e-6)


def test_the_same_user_id_never_shares_draws_with_another_seed() -> None:
    rates = []
    for seed in (0, 1):
        policy = msgspec.convert({"blend": {"seed": seed}}, Policy)
        runner = EmbeddedRunner(policy)
        request = Request(request_id="r", user="u", slots=3)
        rates.append([part.rates for part in runner.serve(request, runner.gather(request, 0), 0).pools])
    assert rates[0] != rates[1]


@pytest.mark.parametrize("every", [1, 8, 256])
def test_a_recording_is_decided_again_whatever_the_catalogue_learns_between_versions(
    every: int, tmp_path: Path
) -> None:
    """Items are put and met between two versions, and vectors are trained at those of their positions."""
    policy = Policy(
        actions={"like": ActionPolicy(1.0), "rated": ActionPolicy(0.0)},
        population=PopulationPolicy(every_records=every),
        weights=WeightsPolicy(ready_likes=5),
        embeddings=EmbeddingsPolicy(every_reactions=10, dimensions=3),
    )
    random = np.random.default_rng(SEED)
    with Recording(tmp_path / "log", policy) as recording:
        runner = EmbeddedRunner(policy, recording)
        for number in range(120):
            user, item = f"u{random.integers(4)}", f"i{random.integers(1 + number // 3)}"
            if number % 5 == 0:
                runner.put(ItemUpdate(item=f"i{number // 3}", attributes={"kind": f"k{number % 3}"}), number)
            action = "like" if number % 3 else "rated"
            runner.react(Organic(event_id=f"o{number}", user=user, item=item, action=action), number)
            request = Request(request_id=f"r{number}", user=user, slots=3)
            runner.serve(request, runner.gather(request, number), number)
        runner.commit()
    assert runner.facts.embeddings is not None
    assert runner.facts.embeddings.version > 1
    assert decided_again(tmp_path / "log") == (120, None)


def test_what_is_remembered_of_candidates_is_what_they_were_ranked_by() -> None:
    rows = [(user, item, True) for item in range(9) for user in range(4)]
    runner, _ = replay(rows, Policy(weights=WeightsPolicy(ready_likes=1)), 256)
    request = Request(request_id="r", user="0", slots=3)
    gathered = runner.gather(request, 1000)
    weighing = gathered.weighing
    assert weighing is not None
    considered = runner.serve(request, gathered, 1000).considered
    assert considered is not None
    found = rows_of_features(considered.x, len(considered.items))
    names = gathered.names(weighing.items)
    assert set(considered.items) <= set(names)
    flag = weighing.layout.placed
    for name, row, eta in zip(considered.items, found, considered.etas, strict=True):
        place = names.index(name)
        assert np.array_equal(np.delete(row, flag), np.delete(weighing.x[place], flag))
        assert eta == pytest.approx(weighing.etas[place] + row[flag] * weighing.weights[flag], abs=1e-4)
