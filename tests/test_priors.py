"""What is believed of users before their own evidence: from all pools to one, a cohort, and how alike they are.

Random numbers are seeded, and printed; each bound is derived where it stands.
"""

from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from pages import LIKE, asked, external, facts_of, lists, reacted
from test_fold import AT_ONCE, decision

from blending.hierarchy import Prior, fitted
from engine.evidence import evidence_at
from engine.facts import Facts, cohort_of, cohorts_of
from engine.fold import close_due, fold
from engine.newcomers import Newcomers
from engine.policy import ActionPolicy, BlendPolicy, MemoryPolicy, Policy
from engine.population import STRENGTH_SD, TAIL_VIEWS, Sums, fit
from engine.priors import mixed_chance, prior_for
from engine.state import Lesson, PriorLesson, Tally, Taught, UserState

TWO_ACTIONS = {"like": ActionPolicy(1.0), "hide": ActionPolicy(-1.0)}
COUNTRIES = BlendPolicy(cohort_by="country", cohorts=("de", "fr"))
AB = external(a={}, b={})
HALF_LIFE_MS = 1_000_000
Z = 5.4  # standard deviations of a normal variate, left in 7 of 100 million cases


def facts_at_once(policy: Policy, sums: Sums | None = None, **changes: object) -> Facts:
    """What the sums say; every action comes at once, so that views count whole."""
    population = fit(sums or Sums(), policy)
    delays = {(pool, action): AT_ONCE for pool in policy.pools for action in policy.actions}
    return Facts(policy, replace(population, delays=delays, **changes))


# Cohorts


def test_a_cohort_is_a_listed_value_of_the_context_and_whether_it_is_the_first_page() -> None:
    policy = Policy(AB, LIKE, COUNTRIES)
    for context, named in (({"country": "fr"}, "fr"), ({"country": "it"}, ""), ({}, ""), ({"other": "fr"}, "")):
        assert cohort_of(policy, context, first=False) == named
        assert cohort_of(policy, context, first=True) == (f"{named} new" if named else "new")
    assert cohorts_of(policy) == ["", "new", "de", "de new", "fr", "fr new"]
    assert cohorts_of(Policy(AB, LIKE)) == ["", "new"]


@given(st.sets(st.sampled_from(["a", "b new x", "newer", "a b", "New", "renew"])))
def test_no_two_cohorts_have_one_name(values: set[str]) -> None:
    policy = Policy(AB, LIKE, BlendPolicy(cohort_by="c" if values else "", cohorts=tuple(sorted(values))))
    assert len(set(cohorts_of(policy))) == len(cohorts_of(policy)) == 2 * (len(values) + 1)


def test_users_of_values_that_are_not_listed_share_what_they_teach() -> None:
    facts, sums = facts_at_once(Policy(AB, LIKE, COUNTRIES)), Sums()
    for user, country in (("u", "it"), ("v", "es"), ("w", "fr")):
        served = asked(facts, "r", 4, lists(9, "a"), user=user, context={"country": country})
        _, lessons = close_due(reacted(served, facts, dict.fromkeys(range(4))), 10**9, facts.policy.memory)
        sums.absorb(lessons, 10**9, facts.policy)
    exposure = {cell: newcomers.exposure for cell, newcomers in sums.newcomers.items()}
    assert exposure == pytest.approx({("new", "a", "like"): 8.0, ("fr new", "a", "like"): 4.0})


# The mean


@st.composite
def newcomers_of(draw: st.DrawFn, policy: Policy) -> dict:
    """S and E of some cells."""
    cells = [(c, pool, action) for c in cohorts_of(policy) for pool in policy.pools for action in policy.rewards]
    return {
        cell: Tally(views * draw(st.floats(0.0, 1.0)), views)
        for cell in draw(st.lists(st.sampled_from(cells), unique=True, max_size=9))
        for views in [draw(st.floats(0.0, 5000.0))]
    }


@given(st.data(), st.floats(0.5, 5000.0))
def test_a_new_users_prior_goes_from_all_pools_to_one_and_to_the_cohort(data: st.DataObject, most: float) -> None:
    """Each level is as sure of the next as the base prior's 130 views."""
    policy = Policy(AB, TWO_ACTIONS, replace(COUNTRIES, prior_strength=most))
    newcomers = data.draw(newcomers_of(policy))
    strengths = {cell: data.draw(st.floats(1.0, 500.0)) for cell in newcomers}
    facts = facts_at_once(policy, newcomers=newcomers, strengths=strengths)
    cohort = data.draw(st.sampled_from(cohorts_of(policy)))
    prior, _ = prior_for(UserState(), facts, cohort)

    def total(pools: tuple[str, ...], action: str, cohorts: list[str]) -> np.ndarray:
        tallies = [newcomers.get((one, pool, action), Tally()) for one in cohorts for pool in pools]
        return np.array([sum(t.successes for t in tallies), sum(t.exposure for t in tallies)])

    for i, pool in enumerate(policy.pools):
        for j, action in enumerate(policy.rewards):
            mean = 10.0 / 130.0
            for pools, cohorts in (
                (("a", "b"), cohorts_of(policy)),
                ((pool,), cohorts_of(policy)),
                ((pool,), [cohort]),
            ):
                successes, views = total(pools, action, cohorts)
                mean = (130.0 * mean + successes) / (130.0 + views)
            alike = strengths[cohort, pool, action] if views > 1e-6 else np.inf
            strength = min(130.0 + views, alike, most)
            assert prior.alpha[i, j] == pytest.approx(min(mean, 0.999) * strength, rel=1e-9)
            assert prior.alpha[i, j] + prior.beta[i, j] == pytest.approx(strength, rel=1e-9)


def test_a_new_users_first_page_is_the_populations_blend_of_first_pages() -> None:
    """b is liked on first pages, a by those who know the feed; and c, whose floor is 0.2, by nobody."""
    pools = external(a={}, b={}, c={"floor": 0.2})
    known = {("new", "b", "like"): Tally(900.0, 3000.0), ("", "a", "like"): Tally(1500.0, 3000.0)}
    known |= {("new", "a", "like"): Tally(30.0, 3000.0), ("new", "c", "like"): Tally(3.0, 3000.0)}
    facts = facts_at_once(Policy(pools, LIKE, BlendPolicy(epsilon=0.0, returns="winner")), newcomers=known)
    page = asked(facts, "r", 10, lists(20, "a", "b", "c")).decision
    prior, _ = prior_for(UserState(), facts, "new")
    assert [part.alpha for part in page.pools] == prior.alpha.tolist()
    assert [part.beta for part in page.pools] == prior.beta.tolist()
    assert page.cohort == "new"
    assert [part.realised for part in page.pools] == [0, 8, 2]
    assert sorted(page.slot_rules) == list("d" * 8 + "f" * 2)


@pytest.mark.parametrize("views", [1, 10, 100])
def test_the_share_of_the_prior_after_n_views_is_s_of_s_plus_n(views: int) -> None:
    known = {("", "a", "like"): Tally(40.0, 400.0)}
    policy = Policy(AB, LIKE, BlendPolicy(prior_strength=60.0), memory=MemoryPolicy(half_life_slots=10**12))
    facts = facts_at_once(policy, newcomers=known, delta=1.0)
    served = asked(facts, "r", views, lists(100, "a"))
    state = reacted(served, facts, dict.fromkeys(range(views)))
    part = asked(facts, "r2", 1, lists(1, "a"), state, at_ms=1).decision.pools[0]
    share = part.strength[0] / (part.alpha[0] + part.beta[0])
    assert share == pytest.approx(60.0 / (60.0 + views), rel=1e-6)


# How alike users are


def taught_by(user: int, pages: list[tuple[int, int]], sums: Sums, policy: Policy, cohort: str = "de") -> None:
    """A user's decisions of (views, successes) of pool a are made, seen and closed."""
    state, lessons = UserState(), ()
    for number, (views, successes) in enumerate(pages):
        made = replace(decision(f"r{number}", [0] * views), cohort=cohort)
        state = fold(state, made, 0, policy.memory).state
        row = state.ledger[f"r{number}"]
        tallies = {"a": (Tally(float(successes), float(views)), Tally(0.0, float(views)))}
        state = replace(state, ledger={f"r{number}": replace(row, tallies=tallies)})
        state, closed = close_due(state, 10**8, policy.memory)
        lessons += closed
    sums.absorb(lessons, 10**8, policy)


def test_the_beta_distribution_of_two_thousand_users_is_found_again() -> None:
    """Beta(3, 57): the mean is .05, and users are 60 views alike. Three pages of 20 views each.

    A user's S / 60 has variance m (1 - m) (1 / 61 + 60 / 61 / 60), the users' own and the coin's, so the mean of
    2,000 has a standard deviation of .00088; the base prior's 130 of 120,130 views pull it by less than .00004.
    """
    seed = 17
    random = np.random.Generator(np.random.PCG64(seed))
    policy = Policy(AB, TWO_ACTIONS, COUNTRIES)
    sums, users = Sums(), 2000
    for user, rate in enumerate(random.beta(3.0, 57.0, users)):
        taught_by(user, [(20, int(random.binomial(20, rate))) for _ in range(3)], sums, policy)
    facts = facts_at_once(policy, sums)
    cell = ("de", "a", "like")
    base = Prior(10.0 / 130.0, 130.0, STRENGTH_SD, policy.blend.prior_strength)
    found = fitted(sums.newcomers[cell].tails_at(sums.at_ms, TAIL_VIEWS), base)
    print(f"seed {seed}: strength {found.strength:.1f}, its interval {found.strength_interval()}")
    low, high = found.strength_interval(Z)
    assert low < 60.0 < high < 2.5 * low
    assert facts.population.strengths[cell] == pytest.approx(found.strength, rel=0.02)
    prior, _ = prior_for(UserState(), facts, "de")
    error = (0.05 * 0.95 * (1 / 61 + 60 / 61 / 60) / users) ** 0.5
    assert abs(prior.mean[0, 0] - 0.05) < Z * error + 4e-5
    assert prior.alpha[0, 0] + prior.beta[0, 0] == pytest.approx(facts.population.strengths[cell])


def test_a_cohort_of_few_is_taken_for_one_of_everybody_and_a_large_one_for_itself() -> None:
    """Everybody is 20 views alike; the two of "fr" seem all the same, as do two thousand others of "de" really."""
    seed = 5
    random = np.random.Generator(np.random.PCG64(seed))
    policy = Policy(AB, TWO_ACTIONS, COUNTRIES)
    sums = Sums()
    for user, rate in enumerate(random.beta(2.0, 18.0, 1000)):
        taught_by(user, [(40, int(random.binomial(40, rate)))], sums, policy, "")
    for user in range(2):
        taught_by(user, [(40, 4)], sums, policy, "fr")
    for _ in range(300):
        taught_by(0, [(40, int(random.binomial(40, 0.1)))], sums, policy, "de")
    strengths = fit(sums, policy).strengths
    print(f"seed {seed}: {strengths}")
    like = {cohort: strengths[cohort, "a", "like"] for cohort in ("", "fr", "de")}
    assert abs(log(like["fr"] / like[""])) < 0.5 * abs(log(like["de"] / like[""]))
    assert like["de"] > 5.0 * like[""]
    prior, _ = prior_for(UserState(), facts_at_once(policy, sums), "fr")
    everybody = facts_at_once(policy, sums).population.newcomers["", "a", "like"]
    pool = everybody.successes / everybody.exposure
    assert abs(prior.mean[0, 0] - pool) < 0.4 * abs(pool - 0.1) + 0.01  # 80 views against the base prior's 130


@given(st.lists(st.tuples(st.integers(1, 30), st.floats(0.0, 1.0)), min_size=1, max_size=6), st.integers(0, 10**10))
def test_what_a_user_taught_does_not_move_that_users_own_prior(pages, later_ms: int) -> None:
    policy = Policy(AB, TWO_ACTIONS, COUNTRIES)
    sums, state = Sums(), UserState()
    for number, (views, rate) in enumerate(pages):
        made = decision(f"r{number}", [0] * views, at_ms=number * 10**9)
        state = fold(state, made, made.at_ms, policy.memory).state
        row = state.ledger[f"r{number}"]
        tallies = {"a": (Tally(float(round(rate * views)), float(views)), Tally(0.0, float(views)))}
        state = replace(state, ledger={f"r{number}": replace(row, tallies=tallies)})
        state, lessons = close_due(state, made.at_ms + 10**8, policy.memory)
        sums.absorb(lessons, made.at_ms + 10**8, policy)
    sums.absorb((), sums.at_ms + later_ms, policy)
    facts = facts_at_once(policy, sums)
    (prior, _), (base, _) = prior_for(state, facts, "de"), prior_for(UserState(), facts_of(policy), "de")
    assert prior.alpha == pytest.approx(base.alpha, rel=1e-9)
    assert prior.beta == pytest.approx(base.beta, rel=1e-9)
    others, _ = prior_for(UserState(), facts, "de")
    assert others.mean[0, 0] != base.mean[0, 0]


@pytest.mark.parametrize(("slots", "most"), [(20, 100), (25, 100), (30, 120), (1, 100)])
def test_a_heavy_user_weighs_no_more_than_the_first_newcomer_slots(slots: int, most: int) -> None:
    """The page that the last of them is on counts whole in the mean; how users differ is found from fewer."""
    policy = Policy(
        external(a={}), LIKE, BlendPolicy(newcomer_slots=100), memory=MemoryPolicy(cohort_half_life_ms=10**15)
    )
    facts = facts_at_once(policy)
    state, sums = UserState(), Sums()
    for number in range(200 // slots):
        served = asked(facts, f"r{number}", slots, lists(slots, "a"), state, number * 10**8)
        state = reacted(served, facts, dict.fromkeys(range(slots), "like"), number * 10**8 + 1)
        state, lessons = close_due(state, (number + 1) * 10**8, policy.memory)
        sums.absorb(lessons, 10**8, policy)
    views = sum(newcomers.exposure for newcomers in sums.newcomers.values())
    tails = sum(newcomers.tails.exposure.sum() for newcomers in sums.newcomers.values())
    assert views == pytest.approx(most, rel=0.01)
    assert tails <= len(sums.newcomers) * TAIL_VIEWS * (1.0 + 1e-9)


# Ageing and adding up


lessons_of = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 5), st.floats(0.0, 5.0), st.integers(0, 2000 * HALF_LIFE_MS)),
    min_size=1,
    max_size=20,
)


def as_lessons(steps: list[tuple[int, int, float, int]]) -> list[PriorLesson]:
    """What each of four users taught, in their order."""
    known: dict[int, Tally] = {}
    lessons = []
    for user, successes, failures, at_ms in steps:
        old = known.get(user, Tally())
        known[user] = old.plus(float(successes), successes + failures)
        lessons.append(PriorLesson(("de", "a", "like"), old, known[user], successes + failures, at_ms))
    return lessons


@given(lessons_of, st.data())
def test_what_newcomers_taught_halves_in_a_half_life_in_any_order_over_any_partitions(steps, data) -> None:
    lessons = as_lessons(steps)
    now_ms = 2000 * HALF_LIFE_MS
    weights = [2.0 ** (-(now_ms - lesson.at_ms) / HALF_LIFE_MS) for lesson in lessons]
    exposure = sum(w * x.exposure for w, x in zip(weights, lessons, strict=True))
    successes = sum(w * (x.after.successes - x.before.successes) for w, x in zip(weights, lessons, strict=True))
    parts: list[Newcomers] = []
    owners = data.draw(st.lists(st.integers(0, 3), min_size=len(lessons), max_size=len(lessons)))
    for number in range(4):
        own = data.draw(st.permutations([x for x, owner in zip(lessons, owners, strict=True) if owner == number]))
        if own:
            parts.append(Newcomers(own[0].at_ms, HALF_LIFE_MS, 50))
            for lesson in own:
                parts[-1].add(lesson)
    records = [part.exported() for part in data.draw(st.permutations(parts))]
    whole = Newcomers(records[0].landmark_ms, HALF_LIFE_MS, 50)
    for record in records:
        whole.merge(record)
    found, later = whole.at(now_ms), whole.at(now_ms + HALF_LIFE_MS)
    assert found.exposure == pytest.approx(exposure, rel=1e-9, abs=1e-250)
    assert found.successes == pytest.approx(successes, rel=1e-9, abs=1e-250)
    assert (later.successes, later.exposure) == pytest.approx((found.successes / 2, found.exposure / 2), rel=1e-9)
    tails = whole.tails_at(now_ms, 50)
    plain = Newcomers(now_ms, HALF_LIFE_MS, 50)
    for lesson in lessons:
        plain.add(lesson)
    for tail, other in zip(tails, plain.tails_at(now_ms, 50), strict=True):
        assert tail == pytest.approx(other, rel=1e-9, abs=1e-15)


# A user's evidence on it


@given(st.data())
def test_evidence_only_adds_to_the_prior_however_much_of_it_is_forgotten(data: st.DataObject) -> None:
    policy = Policy(AB, TWO_ACTIONS, BlendPolicy(epsilon=0.0), memory=MemoryPolicy(half_life_slots=5))
    known = {("", "a", "like"): Tally(300.0, 1000.0), ("", "b", "hide"): Tally(100.0, 1000.0)}
    facts = facts_at_once(policy, newcomers=known)
    believed = {(pool, action): AT_ONCE for pool in "ab" for action in TWO_ACTIONS}
    state, at_ms = UserState(), 0
    for number in range(data.draw(st.integers(1, 5))):
        served = asked(facts, f"r{number}", 6, lists(9, "a", "b"), state, at_ms)
        page, own = served.decision, evidence_at(state, at_ms, policy.memory, believed)
        table = np.zeros((2, 2, 2))
        for (pool, action), tally in own.items():
            table[:, "ab".index(pool), ["like", "hide"].index(action)] = tally.successes, tally.exposure
        prior, _ = prior_for(state, facts, page.cohort, table)
        assert (np.array([part.alpha for part in page.pools]) >= prior.alpha).all()
        assert (np.array([part.beta for part in page.pools]) >= prior.beta).all()
        actions = st.dictionaries(st.integers(0, 5), st.sampled_from([None, "like", "hide"]))
        state = reacted(served, facts, data.draw(actions), at_ms + 1)
        at_ms += data.draw(st.integers(2, 10**9))


def test_a_session_fades_after_its_half_life_and_the_user_stays() -> None:
    """A session of 20 views at most; b is liked on its first page, and then nothing happens.

    session's part of b's mean    |\\          clock: half-lives of a session; a window is 80 of them
                                  | \\__
    the user's own                |_________
    """
    memory = MemoryPolicy(session_half_life_ms=HALF_LIFE_MS, window_ms=80 * HALF_LIFE_MS, half_life_ms=10**15)
    blend = BlendPolicy(epsilon=0.0, session_strength=20.0)
    now = Policy(external(b={}), LIKE, blend, memory=memory)
    never = replace(now, blend=replace(blend, session_strength=0.0))
    facts, others = (facts_at_once(policy, delta=1.0) for policy in (now, never))
    served = asked(facts, "r", 10, lists(10, "b"))
    state = reacted(served, facts, dict.fromkeys(range(10), "like"))

    def means(half_lives: float) -> tuple[float, float, float]:
        at_ms = 1 + int(half_lives * HALF_LIFE_MS)
        found = []
        for which in (facts, others):
            (part,) = asked(which, "r2", 1, lists(1, "b"), state, at_ms).decision.pools
            found += [part.alpha[0] / (part.alpha[0] + part.beta[0]), part.alpha[0] + part.beta[0]]
        return found[0], found[2], found[1]

    session, user, strength = means(0.0)
    assert strength == pytest.approx(30.0, rel=1e-4)
    assert session == pytest.approx((20.0 * user + 10.0) / 30.0, rel=1e-4)
    half, user, strength = means(1.0)
    assert strength == pytest.approx(25.0, rel=1e-4)
    assert half == pytest.approx((20.0 * user + 5.0) / 25.0, rel=1e-4)
    late, later_user, strength = means(20.0)
    assert late == pytest.approx(later_user, rel=1e-4)
    assert strength == pytest.approx(20.0, rel=1e-4)
    assert later_user == pytest.approx(user, rel=1e-4)
    assert user > 1.5 * 10.0 / 130.0


def test_a_prior_taught_by_nobody_is_the_base() -> None:
    lessons: tuple[Lesson, ...] = ()
    sums = Sums()
    sums.absorb(lessons, 0, Policy(AB, LIKE))
    prior, _ = prior_for(UserState(), Facts(Policy(AB, LIKE), fit(sums, Policy(AB, LIKE))), "new")
    assert (prior.alpha.tolist(), prior.beta.tolist()) == ([[10.0]] * 2, [[120.0]] * 2)


# How much is mixed at random


@pytest.mark.parametrize(("others", "chance"), [([0, 0], 0.02), ([10, 900], 0.0125), ([990, 990], 0.00515)])
def test_a_feed_is_mixed_at_random_less_often_as_others_have_seen_the_least_known_pool(
    others: list[int], chance: float
) -> None:
    known = {("", pool, "like"): Tally(0.0, float(views)) for pool, views in zip(AB, others, strict=True)}
    for epsilon, expected in ((0.02, chance), (0.0, 0.0), (0.005, 0.005)):
        facts = facts_at_once(Policy(AB, LIKE, BlendPolicy(epsilon=epsilon)), newcomers=known)
        assert mixed_chance(UserState(), facts) == pytest.approx(expected, rel=1e-5)


def test_what_a_user_has_seen_alone_is_not_known_by_others() -> None:
    known = {("", pool, "like"): Tally(1.0, 40.0) for pool in AB}
    taught = {cell: Taught(1.0, 40.0, 1.0, 40.0, 0) for cell in known}
    assert mixed_chance(UserState(taught=taught), facts_at_once(Policy(AB, LIKE), newcomers=known)) == 0.02
