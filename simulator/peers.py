"""Bandits of other libraries behind the port of the baselines, for comparison. None of them is needed.

Each is driven as its documentation drives it: one decision per slot, with what was learned from the views and
actions before the feed. The libraries learn one reward per decision, so a view without its action by the next
feed is given as 0. An action takes one such view of its pool with it, and is given as 1; if none is left, as
happens to late actions of a pool without new views, it is given as a further 1. So a pool's rewards are as
many as its views (or actions), and a steady delay alone does not make a pool look worse than it is.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from simulator.policies import ClosedLoopPolicy, generator


class Peer:
    """What the adapters share: rewards are collected, and given to the library before the next feed."""

    def __init__(self, pools: int, seed: int, name: str) -> None:
        """`seed` and `name` make the random numbers for which a library has no seed of its own."""
        self._pools = list(range(pools))
        self._random = generator(seed, name)
        self._views = [0] * pools
        self._actions = [0] * pools

    def seen(self, pool: int) -> None:
        """A reward to be given."""
        self._views[pool] += 1

    def acted(self, pool: int) -> None:
        """A reward to be given as 1."""
        self._actions[pool] += 1

    def choose(self, feed: int, slots: int) -> list[int]:  # noqa: ARG002  the port's
        """Learn what came in, then decide slot by slot."""
        rewards = self._rewards()
        if rewards:
            self._learn(rewards)
        return self._decide(slots)

    def _rewards(self) -> list[tuple[int, int]]:
        """The (pool, reward) pairs since the last feed, in random order: the libraries may mind the order."""
        pairs = []
        for pool in self._pools:
            ones = self._actions[pool]
            pairs += [(pool, 1)] * ones + [(pool, 0)] * (self._views[pool] - ones)
        self._views = [0] * len(self._pools)
        self._actions = [0] * len(self._pools)
        return [pairs[place] for place in self._random.permutation(len(pairs))]

    def _learn(self, rewards: list[tuple[int, int]]) -> None:
        raise NotImplementedError

    def _decide(self, slots: int) -> list[int]:
        raise NotImplementedError


class MabWiser(Peer):
    """MABWiser's Thompson sampling of Bernoulli rewards, on its fixed Beta(1, 1) prior.

    It predicts nothing before its first rewards, so the slots until then are drawn at random.
    """

    def __init__(self, pools: int, seed: int) -> None:
        """Raises ImportError where it is not installed."""
        super().__init__(pools, seed, "mabwiser")
        library = import_module("mabwiser.mab")
        self._bandit: Any = library.MAB(self._pools, library.LearningPolicy.ThompsonSampling(), seed=seed)
        self._fitted = False

    def _learn(self, rewards: list[tuple[int, int]]) -> None:
        decisions, values = zip(*rewards, strict=True)
        self._bandit.partial_fit(list(decisions), list(values))
        self._fitted = True

    def _decide(self, slots: int) -> list[int]:
        if not self._fitted:
            return [int(pool) for pool in self._random.integers(0, len(self._pools), slots)]
        return [int(self._bandit.predict()) for _ in range(slots)]


class River(Peer):
    """River's Thompson sampling with Beta rewards, on its default Beta(1, 1) prior."""

    def __init__(self, pools: int, seed: int) -> None:
        """Raises ImportError where it is not installed."""
        super().__init__(pools, seed, "river")
        beta = import_module("river.proba").Beta()
        self._bandit: Any = import_module("river.bandit").ThompsonSampling(reward_obj=beta, seed=seed)

    def _learn(self, rewards: list[tuple[int, int]]) -> None:
        for pool, reward in rewards:
            self._bandit.update(pool, reward)

    def _decide(self, slots: int) -> list[int]:
        return [int(self._bandit.pull(self._pools)) for _ in range(slots)]


class VowpalWabbit(Peer):
    """Vowpal Wabbit's contextual bandit without a context: an action per pool, each with one feature.

    A cost is -1 for an action and 0 for none, with the probability that its pool had in the last feed that
    was decided; it is the same for all slots of a feed, as nothing is learned between them. OPTIONS had the
    lowest sum of regret over the worlds static, satiation and drift (4 seeds, 2,000 feeds) of 34 settings of
    its explorations (epsilon, bag, cover, synthcover, softmax, rnd, regcb, squarecb) and learners: 500; with
    squarecb's gamma exponent at .7 it was 612, synthcover 564, the default learner without coin 771.
    """

    OPTIONS = "--cb_explore_adf --noconstant --squarecb --coin --quiet"

    def __init__(self, pools: int, seed: int) -> None:
        """Raises ImportError where it is not installed."""
        super().__init__(pools, seed, "vw")
        self._bandit: Any = import_module("vowpalwabbit").Workspace(f"{self.OPTIONS} --random_seed {seed}")
        self._probabilities = [1.0 / pools] * pools

    def _learn(self, rewards: list[tuple[int, int]]) -> None:
        for pool, reward in rewards:
            examples = self._examples()
            examples[pool] = f"0:{-reward}:{self._probabilities[pool]} {examples[pool]}"
            self._bandit.learn(examples)

    def _decide(self, slots: int) -> list[int]:
        weights = self._bandit.predict(self._examples())
        self._probabilities = [weight / sum(weights) for weight in weights]
        drawn: list[int] = self._random.choice(len(weights), slots, p=self._probabilities).tolist()
        return drawn

    def _examples(self) -> list[str]:
        return [f"| pool_{pool}" for pool in self._pools]


PEERS: dict[str, tuple[str, Callable[[int, int], ClosedLoopPolicy]]] = {
    "mabwiser": ("mabwiser", MabWiser),
    "river": ("river", River),
    "vw": ("vowpalwabbit", VowpalWabbit),
}


def available_peers(pools: int, seed: int) -> tuple[dict[str, ClosedLoopPolicy], list[str]]:
    """The peers that are installed, by name, and the names of those that are not (the `bench` extra)."""
    there = {name: make(pools, seed) for name, (module, make) in PEERS.items() if find_spec(module)}
    return there, [name for name in PEERS if name not in there]
