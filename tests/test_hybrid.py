"""Weights that learn online beside a refit of everything; the benchmark says at what price."""

from arms import SEED

from benchmarks.hybrid_against_refit import SWEEPS, Hybrid, both, error, factorised, first_fit, world


def test_users_weights_alone_come_within_five_percent_of_refitting_everything() -> None:
    """And get most of what a refit gains on the features and weights of before."""
    print(f"seed {SEED}")
    offline, online, held = world(SEED)
    fitted = first_fit(SEED, offline)
    hybrid = Hybrid(fitted, offline)
    hybrid.learn(online)
    stale, learned = error(fitted, held), error(hybrid.factors, held)
    refitted = error(factorised(both(offline, online), fitted, 2 * SWEEPS), held)
    print(stale, learned, refitted)
    assert learned <= 1.05 * refitted
    assert stale - learned >= 0.75 * (stale - refitted)


def test_the_hybrid_does_not_mind_the_order_of_ratings() -> None:
    offline, online, _ = world(SEED)
    some = offline.part(slice(0, 4_000))
    fitted = first_fit(SEED, some)
    first, second = Hybrid(fitted, some), Hybrid(fitted, some)
    first.learn(online.part(slice(0, 2_000)))
    second.learn(online.part(slice(1_999, None, -1)))
    assert abs(first.weights - second.weights).max() < 1e-9
