"""Bits, Beta draws and posteriors.

Statistical tests are seeded, so they pass always or never; what a test says of its false alarms is the chance
that a right program meets an unlucky seed. Together those of the bandit stay below 5e-6.
"""

import json
import math
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from arms import (
    FALSE_ALARM,
    GAMMA,
    MIX_1,
    MIX_2,
    ROOT,
    SEED,
    WORD,
    keys,
    names,
    posteriors,
    rates_of,
    shapes,
    splitmix64,
    words,
)
from chance import assert_counts
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from blending.posterior import Beta, capped, updated
from blending.randomness import key_of
from blending.sampling import (
    AREA,
    EDGES,
    TAIL,
    beta_variate,
    bits_at,
    gamma_variate,
    normal_variate,
    stream,
    uniform_at,
    uniforms_of,
)


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


def plain_edges() -> list[float]:
    """Right edges of 128 layers of one area under exp(-x²/2), by Marsaglia and Tsang's recursion; then 0."""
    area, edges = AREA, [AREA / math.exp(-(TAIL**2) / 2.0), TAIL]
    while len(edges) < 128:
        edges.append(math.sqrt(-2.0 * math.log(area / edges[-1] + math.exp(-(edges[-1] ** 2) / 2.0))))
    return [*edges, 0.0]


PLAIN_EDGES = plain_edges()


class PlainDraws:
    """Normal, gamma and beta variates in plain Python, and the counter of what was used."""

    def __init__(self, key: np.uint64, counter: int) -> None:
        """Start at this counter."""
        self.key, self.counter = int(key), counter

    def bits(self) -> int:
        """The next 64 bits."""
        self.counter += 1
        return splitmix64(self.key, self.counter - 1)

    def uniform(self) -> float:
        """The next number between 0 and 1."""
        return ((self.bits() >> 12) + 0.5) / 2**52

    def normal(self) -> float:
        """A point under the curve: of the layer wholly under it, of its wedge, or of the tail."""
        while True:
            bits = self.bits()
            layer, side = bits % 128, 2.0 * ((bits >> 12) + 0.5) / 2**52 - 1.0
            x, inner = side * PLAIN_EDGES[layer], PLAIN_EDGES[layer + 1]
            if abs(x) < inner:
                return x
            if layer == 0:
                beyond, height = -math.log(self.uniform()) / TAIL, -math.log(self.uniform())
                while beyond**2 >= 2.0 * height:
                    beyond, height = -math.log(self.uniform()) / TAIL, -math.log(self.uniform())
                return math.copysign(TAIL + beyond, side)
            top, low = (math.exp(-(edge**2) / 2.0) for edge in (inner, PLAIN_EDGES[layer]))
            if top + (low - top) * self.uniform() < math.exp(-(x**2) / 2.0):
                return x

    def gamma(self, shape: float) -> float:
        """Marsaglia and Tsang's cubed normal, without its squeeze."""
        d = shape - 1.0 / 3.0
        while True:
            normal, uniform = self.normal(), self.uniform()
            cube = (1.0 + normal / math.sqrt(9.0 * d)) ** 3
            if cube > 0.0 and math.log(uniform) < normal**2 / 2.0 + d * (1.0 - cube + math.log(cube)):
                return d * cube

    def beta(self, alpha: float, beta: float) -> float:
        """X / (X + Y), in logarithms; below 1, G(shape) = G(shape + 1) U^(1 / shape)."""
        boosts = [math.log(self.uniform()) / shape if shape < 1.0 else 0.0 for shape in (alpha, beta)]
        variates = [self.gamma(shape + 1.0 if shape < 1.0 else shape) for shape in (alpha, beta)]
        log_x, log_y = (math.log(variate) + boost for variate, boost in zip(variates, boosts, strict=True))
        return math.exp(log_x - np.logaddexp(log_x, log_y))


def test_the_layers_of_the_ziggurat_have_one_area_and_close_at_the_top() -> None:
    assert pytest.approx(PLAIN_EDGES, rel=1e-12) == EDGES
    heights = [math.exp(-(edge**2) / 2.0) for edge in PLAIN_EDGES]
    tail = math.sqrt(math.pi / 2.0) * math.erfc(TAIL / math.sqrt(2.0))
    areas = [PLAIN_EDGES[n] * (heights[n + 1] - heights[n]) for n in range(1, 128)]
    assert [TAIL * heights[1] + tail, *areas] == pytest.approx([AREA] * 128, rel=1e-8)


@given(keys, st.integers(0, 2**40))
def test_normal_variates_equal_the_plain_ones(key: np.uint64, counter: int) -> None:
    """Fifty in a row, which meet wedges; the tail is met below."""
    plain = PlainDraws(key, counter)
    for _ in range(50):
        found, after = normal_variate(key, np.uint64(counter))
        assert found == pytest.approx(plain.normal(), rel=1e-12, abs=1e-300)
        counter = int(after)
        assert counter == plain.counter


@pytest.mark.parametrize("side", [0, 2**63])
@given(st.integers(0, 2**20))
@settings(max_examples=20)
def test_a_normal_variate_of_the_tail_equals_the_plain_one(side: int, counter: int) -> None:
    """Bits of layer 0 whose number lies beyond the layer's inside: |side| above .93."""
    bits = (2**64 - 2**57) if side else 2**57
    bits += counter << 20
    key = key_giving(bits)
    plain = PlainDraws(key, 0)
    found, after = normal_variate(key, np.uint64(0))
    assert found == pytest.approx(plain.normal(), rel=1e-12)
    assert int(after) == plain.counter > 2
    assert abs(found) > TAIL
    assert (found > 0.0) == (side > 0)


@given(st.floats(1.0, 1e4), keys, st.integers(0, 2**40))
def test_a_gamma_variate_equals_the_plain_one(shape: float, key: np.uint64, counter: int) -> None:
    plain = PlainDraws(key, counter)
    found, after = gamma_variate(shape, key, np.uint64(counter))
    assert found == pytest.approx(plain.gamma(shape), rel=1e-12)
    assert int(after) == plain.counter


@given(st.floats(1e-3, 1e4), st.floats(1e-3, 1e4), keys, st.integers(0, 2**40))
@example(1.0, 0.5, np.uint64(1), 0)
@example(1e-3, 1e-3, np.uint64(1), 0)
def test_a_beta_variate_equals_the_plain_one(alpha: float, beta: float, key: np.uint64, counter: int) -> None:
    """Below 1e-290 the one and the other underflow in their own ways; logarithms of 700 lose three digits."""
    plain = PlainDraws(key, counter)
    found, after = beta_variate(alpha, beta, key, np.uint64(counter))
    assert found == pytest.approx(plain.beta(alpha, beta), rel=1e-11, abs=1e-290)
    assert int(after) == plain.counter
    assert 0.0 <= found <= 1.0


@given(keys, st.integers(0, 2**20), st.integers(1, 3), st.integers(0, 4))
def test_uniforms_of_many_samples_come_of_keys_of_their_own(
    key: np.uint64, number: int, samples: int, size: int
) -> None:
    """A single sample is of the key itself."""
    own = [int(key)] if samples == 1 else [splitmix64(int(key), sample) for sample in range(samples)]
    expected = [[uniform_at(np.uint64(one), np.uint64(number * 2**32 + at)) for at in range(size)] for one in own]
    assert uniforms_of(key, number, samples, size).tolist() == expected


def test_normal_variates_have_their_distribution_also_far_out() -> None:
    """Kolmogorov-Smirnov at 1e-7, and counts beyond 3, the edge of the tail, and 4 on both sides by Bernstein."""
    key, draws = key_of(SEED, "normal"), 400_000
    found = np.array([normal_variate(key, np.uint64(number * 2**32))[0] for number in range(draws)])
    assert stats.kstest(found, "norm").pvalue > FALSE_ALARM, f"seed {SEED}"
    cuts = np.array([3.0, TAIL, 4.0])
    assert_counts([np.count_nonzero(found > cut) for cut in cuts], draws, stats.norm.sf(cuts), 6)
    assert_counts([np.count_nonzero(found < -cut) for cut in cuts], draws, stats.norm.sf(cuts), 6)


@pytest.mark.parametrize("shape", [1.0, 1.3, 2.5, 50.0, 2000.0])
def test_gamma_variates_have_their_distribution(shape: float) -> None:
    """Kolmogorov-Smirnov at 1e-7 each: five tests."""
    key = key_of(SEED, "gamma", str(shape))
    found = [gamma_variate(shape, key, np.uint64(number * 2**32))[0] for number in range(50_000)]
    assert stats.kstest(found, stats.gamma(shape).cdf).pvalue > FALSE_ALARM, f"seed {SEED}"


@pytest.mark.parametrize(
    ("alpha", "beta"),
    [(0.5, 3.0), (1.0, 1.0), (2.5, 7.0), (50.0, 500.0), (1.0, 19.0), (1e-2, 1.0), (3.0, 0.5), (40.0, 2.0)],
)
def test_rates_have_the_beta_distribution_of_their_arm(alpha: float, beta: float) -> None:
    """Kolmogorov-Smirnov at 1e-7 each: eight tests. Half the draws come from one key, half from many."""
    cells = (50, 50)
    wide = rates_of(np.full(cells, alpha), np.full(cells, beta), key_of(SEED, "wide"), 20, 0)
    one = (np.full((5, 5), alpha), np.full((5, 5), beta))
    many = [rates_of(*one, key_of(SEED, "many", str(number)), 2, 0) for number in range(1000)]
    drawn = np.concatenate([wide.ravel(), np.ravel(many)])
    assert stats.kstest(drawn, stats.beta(alpha, beta).cdf).pvalue > FALSE_ALARM, f"seed {SEED}"


def test_the_draws_of_neighbouring_arms_and_slots_are_uncorrelated() -> None:
    """The correlation of n independent pairs is normal with variance 1 / n: beyond 5.5 sd once in 2.6e7."""
    rates = rates_of(np.ones((50_000, 2)), np.ones((50_000, 2)), key_of(SEED, "pairs"), 2, 0)
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
        "import numpy as np; from blending.sampling import draw_rates; from blending.randomness import key_of; "
        "rates = np.empty((2, 1, 2)); "
        "draw_rates(np.array([[0.5, 3.0]]), np.array([[7.0, 0.2]]), key_of(1, 'a'), 0, rates); "
        "print(rates.ravel().tolist())"
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
    here = rates_of(np.array([[0.5, 3.0]]), np.array([[7.0, 0.2]]), key_of(1, "a"), 2, 0).ravel().tolist()
    assert json.loads(done.stdout) == here


@given(posteriors(), keys, st.integers(1, 3), st.data())
def test_another_arms_posterior_never_moves_a_draw(
    posterior: Beta, key: np.uint64, draws: int, data: st.DataObject
) -> None:
    before = rates_of(*posterior, key, draws, 0)
    pool, action = (data.draw(st.integers(0, size - 1)) for size in posterior.alpha.shape)
    alpha, beta = posterior.alpha.copy(), posterior.beta.copy()
    alpha[pool, action] += data.draw(shapes)
    beta[pool, action] += data.draw(shapes)
    after = rates_of(alpha, beta, key, draws, 0)
    others = np.ones(before.shape, bool)
    others[:, pool, action] = False
    assert np.array_equal(before[others], after[others])
    assert np.all(before[:, pool, action] != after[:, pool, action])


@given(posteriors(), keys, keys)
def test_draws_are_a_function_of_the_key(posterior: Beta, key: np.uint64, other: np.uint64) -> None:
    rates = rates_of(*posterior, key, 1, 0)
    assert np.array_equal(rates, rates_of(*posterior, key, 1, 0))
    assert np.array_equal(rates, rates_of(*posterior, other, 1, 0)) == (key == other)


@given(posteriors(), keys, st.integers(1, 4))
def test_drawing_for_more_slots_only_appends(posterior: Beta, key: np.uint64, draws: int) -> None:
    longer = rates_of(*posterior, key, draws + 2, 0)
    assert np.array_equal(longer[:draws], rates_of(*posterior, key, draws, 0))
    assert np.array_equal(longer[draws:], rates_of(*posterior, key, 2, draws))


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
