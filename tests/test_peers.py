"""What the adapters give to the libraries behind them, with those that are installed and without."""

import pytest

from simulator.peers import PEERS, Peer, available_peers

SEED = 20161111


class Recorded(Peer):
    """A peer that writes down what it is given, and gives every slot to pool 0."""

    def __init__(self) -> None:
        super().__init__(3, SEED, "recorded")
        self.given: list[list[tuple[int, int]]] = []

    def _learn(self, rewards: list[tuple[int, int]]) -> None:
        self.given.append(sorted(rewards))

    def _decide(self, slots: int) -> list[int]:
        return [0] * slots


def told(views: list[int], actions: list[int]) -> Recorded:
    """A peer after its first feed and these counts per pool."""
    peer = Recorded()
    peer.choose(0, 10)
    for pool, (seen, acted) in enumerate(zip(views, actions, strict=True)):
        for _ in range(seen):
            peer.seen(pool)
        for _ in range(acted):
            peer.acted(pool)
    return peer


class Test_peers:
    def test_a_view_is_0_by_the_next_feed_and_1_if_its_action_came(self) -> None:
        peer = told([2, 1, 0], [1, 0, 0])
        peer.choose(1, 10)
        assert peer.given == [[(0, 0), (0, 1), (1, 0)]]

    def test_a_late_action_takes_a_new_view_of_its_pool_or_is_a_further_1(self) -> None:
        peer = told([2, 1, 0], [0, 0, 0])
        peer.choose(1, 10)
        for _ in range(3):
            peer.seen(0)
        peer.acted(0)
        peer.acted(1)
        peer.choose(2, 10)
        assert peer.given == [[(0, 0), (0, 0), (1, 0)], [(0, 0), (0, 0), (0, 1), (1, 1)]]

    def test_nothing_new_is_nothing_to_learn(self) -> None:
        peer = told([1, 0, 0], [0, 0, 0])
        for feed in range(1, 5):
            peer.choose(feed, 10)
        assert len(peer.given) == 1

    def test_those_that_are_not_installed_are_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        there, missing = available_peers(3, 1)
        assert sorted([*there, *missing]) == sorted(PEERS)
        monkeypatch.setattr("simulator.peers.find_spec", lambda name: None)
        assert available_peers(3, 1) == ({}, ["mabwiser", "river", "vw"])

    def test_those_that_are_installed_find_a_pool_that_is_always_acted_on(self) -> None:
        for name, peer in available_peers(3, 1)[0].items():
            for feed in range(300):
                slot_pools = peer.choose(feed, 10)
                for pool in slot_pools:
                    peer.seen(pool)
                    if pool == 2:
                        peer.acted(pool)
            assert slot_pools.count(2) >= 8, name
