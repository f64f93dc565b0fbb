"""The delay table of Chapelle and Li, "An empirical evaluation of Thompson sampling" (NIPS 2011), table 1.

Ten items with rates from Beta(4, 4), each replaced with probability 1/1000 a step; feedback comes in batches of
`delay` steps. The published regrets over 10**6 steps, divided by 5, are what 2 * 10**5 steps should lose.
"""

import numpy as np

from blending.compiled import compiled
from blending.kernels import draw_rates, log_gamma_variate
from blending.randomness import bits_at, uniform_at

STEPS = 200_000
ITEMS = 10
PUBLISHED = {1: 9105, 3: 9199, 10: 9049, 32: 9451, 100: 11550, 316: 21594, 1000: 59256}  # over 10**6 steps
SEEDS = range(6)


@compiled
def regret_of(key: np.uint64, delay: int, steps: int, items: int) -> float:
    """Expected reward lost by Thompson sampling with the engine's own draws."""
    rates = np.empty(items)
    successes, failures = np.ones((items, 1)), np.ones((items, 1))
    new_successes, new_failures = np.zeros((items, 1)), np.zeros((items, 1))
    world = bits_at(key, np.uint64(1))
    counter = np.uint64(0)
    for item in range(items):
        rates[item], counter = beta_4_4(world, counter)
    lost = 0.0
    for step in range(steps):
        drawn = draw_rates(successes, failures, bits_at(key, np.uint64(step + 2)), 1)
        best = np.argmax(drawn[0, :, 0])
        lost += rates.max() - rates[best]
        counter += np.uint64(1)
        if uniform_at(world, counter) < rates[best]:
            new_successes[best, 0] += 1.0
        else:
            new_failures[best, 0] += 1.0
        if (step + 1) % delay == 0:
            successes += new_successes
            failures += new_failures
            new_successes[:], new_failures[:] = 0.0, 0.0
        counter += np.uint64(1)
        if uniform_at(world, counter) < 0.001:
            counter += np.uint64(1)
            item = np.int64(uniform_at(world, counter) * items)
            rates[item], counter = beta_4_4(world, counter)
            successes[item, 0], failures[item, 0] = 1.0, 1.0
            new_successes[item, 0], new_failures[item, 0] = 0.0, 0.0
    return lost


@compiled
def beta_4_4(key: np.uint64, counter: np.uint64) -> tuple[float, np.uint64]:
    """A rate."""
    log_x, counter = log_gamma_variate(4.0, key, counter)
    log_y, counter = log_gamma_variate(4.0, key, counter)
    return 1.0 / (1.0 + np.exp(log_y - log_x)), counter
