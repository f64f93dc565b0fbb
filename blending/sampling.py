"""The hot loops of drawing: random bits and Beta variates. Each has an oracle in its test.

Randomness is counter-based: every number is a pure function of (key, counter). The bits are SplitMix64's (Steele,
Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): output i mixes key + i * gamma.
"""

import numpy as np

from blending.compiled import compiled
from blending.types import FloatArray, IntArray

GAMMA = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
SHIFT_30, SHIFT_27, SHIFT_31, SHIFT_12 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(12)
STREAM_LENGTH = np.uint64(1 << 32)  # counters of one stream; streams of a key never overlap
ONE, TWO = np.uint64(1), np.uint64(2)
TIE_STREAM, EXPLORE_STREAM, PLAN_STREAM = 1 << 30, 1 << 31, 3 << 30  # far beyond those of the draws

PARAMETER_MIN, PARAMETER_MAX = 1e-9, 1e15  # of a Beta: beyond them draws underflow, or never end

# Layers of equal area under exp(-x²/2), the outermost with the tail; Doornik, "An improved ziggurat method", 2005.
LAYERS, TAIL, AREA = 128, 3.442619855899, 9.91256303526217e-3
LAYER_BITS = np.uint64(LAYERS - 1)


def _layer_edges() -> FloatArray:
    """Right edges of the layers, from the outermost inwards, shape (LAYERS + 1,)."""
    edges = np.zeros(LAYERS + 1)
    edges[:2] = AREA / np.exp(-0.5 * TAIL * TAIL), TAIL
    for layer in range(2, LAYERS):
        edges[layer] = np.sqrt(-2.0 * np.log(AREA / edges[layer - 1] + np.exp(-0.5 * edges[layer - 1] ** 2)))
    return edges


EDGES = _layer_edges()
INNER = EDGES[1:] / EDGES[:-1]  # the part of each layer that lies wholly under the curve


@compiled
def bits_at(key: np.uint64, counter: np.uint64) -> np.uint64:
    """64 uniform bits, a function of (key, counter) alone."""
    mixed = key + (counter + np.uint64(1)) * GAMMA
    mixed = (mixed ^ (mixed >> SHIFT_30)) * MIX_1
    mixed = (mixed ^ (mixed >> SHIFT_27)) * MIX_2
    return mixed ^ (mixed >> SHIFT_31)


@compiled
def uniform_at(key: np.uint64, counter: np.uint64) -> float:
    """A uniform number strictly between 0 and 1: the middles of 2**52 equal steps."""
    return (float(np.int64(bits_at(key, counter) >> SHIFT_12)) + 0.5) * 2.0**-52


@compiled
def stream(number: int) -> np.uint64:
    """The first counter of stream `number` of a key."""
    return np.uint64(number) * STREAM_LENGTH


@compiled
def uniforms_of(key: np.uint64, number: int, samples: int, size: int) -> FloatArray:
    """Uniform numbers of a stream for each of `samples` keys that come of this one, shape (samples, size)."""
    uniforms = np.empty((samples, size))
    for sample in range(samples):
        own = key if samples == 1 else bits_at(key, np.uint64(sample))
        for at in range(size):
            uniforms[sample, at] = uniform_at(own, stream(number) + np.uint64(at))
    return uniforms


@compiled
def normal_variate(key: np.uint64, counter: np.uint64) -> tuple[float, np.uint64]:
    """A standard normal variate and the next unused counter, by the ziggurat above.

    The layer comes from bits that the uniform number does not use.
    """
    while True:
        layer = np.int64(bits_at(key, counter) & LAYER_BITS)
        side = 2.0 * uniform_at(key, counter) - 1.0
        counter += ONE
        normal = side * EDGES[layer]
        if abs(side) < INNER[layer]:
            return normal, counter
        if layer == 0:
            while True:
                beyond = -np.log(uniform_at(key, counter)) / TAIL
                height = -np.log(uniform_at(key, counter + ONE))
                counter += TWO
                if 2.0 * height > beyond * beyond:
                    return (TAIL + beyond if side > 0.0 else -TAIL - beyond), counter
        outer = np.exp(-0.5 * (EDGES[layer] ** 2 - normal * normal))
        inner = np.exp(-0.5 * (EDGES[layer + 1] ** 2 - normal * normal))
        height = inner + uniform_at(key, counter) * (outer - inner)
        counter += ONE
        if height < 1.0:
            return normal, counter


@compiled
def normals(key: np.uint64, size: int) -> FloatArray:
    """Standard normal variates, (size,), each from a stream of its own."""
    found = np.empty(size)
    for at in range(size):
        found[at] = normal_variate(key, stream(at))[0]
    return found


@compiled
def gamma_variate(shape: float, key: np.uint64, counter: np.uint64) -> tuple[float, np.uint64]:
    """A Gamma(shape, 1) variate for a shape of at least 1, and the next unused counter.

    Marsaglia and Tsang, "A simple method for generating gamma variables", ACM TOMS 26(3), 2000.
    """
    d = shape - 1.0 / 3.0
    c = 1.0 / np.sqrt(9.0 * d)
    while True:
        normal, counter = normal_variate(key, counter)
        root = 1.0 + c * normal
        cube = root * root * root
        uniform = uniform_at(key, counter)
        counter += ONE
        if cube <= 0.0:
            continue
        square = normal * normal
        if uniform < 1.0 - 0.0331 * square * square or np.log(uniform) < 0.5 * square + d * (
            1.0 - cube + np.log(cube)
        ):
            return d * cube, counter


@compiled
def beta_variate(alpha: float, beta: float, key: np.uint64, counter: np.uint64) -> tuple[float, np.uint64]:
    """A Beta(alpha, beta) variate and the next unused counter.

    Shapes below 1 are boosted, Gamma(s) = Gamma(s + 1) U^(1/s), in logarithms: a variate of shape 1e-3 underflows.
    """
    log_ratio = 0.0  # of the boosts, y's over x's
    if alpha < 1.0:
        log_ratio -= np.log(uniform_at(key, counter)) / alpha
        counter += ONE
        alpha += 1.0
    if beta < 1.0:
        log_ratio += np.log(uniform_at(key, counter)) / beta
        counter += ONE
        beta += 1.0
    x, counter = gamma_variate(alpha, key, counter)
    y, counter = gamma_variate(beta, key, counter)
    if log_ratio != 0.0:
        y *= np.exp(log_ratio)
    return x / (x + y), counter


@compiled
def draw_rates(alpha: FloatArray, beta: FloatArray, key: np.uint64, first: int, rates: FloatArray) -> None:
    """Fill `rates` (draws, pools, actions) with independent draws of every Beta(alpha[p, a], beta[p, a]).

    Each has a stream of its own, so another arm's posterior never moves this arm's draw; `first` is the number of
    the first one.
    """
    draws, pools, actions = rates.shape
    for draw in range(draws):
        for pool in range(pools):
            for action in range(actions):
                counter = stream(((first + draw) * pools + pool) * actions + action)
                rates[draw, pool, action] = beta_variate(alpha[pool, action], beta[pool, action], key, counter)[0]


@compiled
def tie_breaks(pools: int, key: np.uint64) -> IntArray:
    """A random rank per pool: pools whose utilities are equal must not always come in one order."""
    ties = np.empty(pools, np.int64)
    for pool in range(pools):
        ties[pool] = np.int64(bits_at(key, stream(TIE_STREAM) + np.uint64(pool)) >> ONE)
    return ties
