"""The catalogue: versions stay as they were, attributes become tokens, and no pool offers barred items."""

from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import catalogue as module
from engine.catalogue import EMPTY, NEVER_MS, TOKENS_MAX, Catalogue, CatalogueWriter
from engine.events import ItemUpdate, Organic, Request
from engine.facts import Facts
from engine.policy import Policy
from engine.pool_policy import PoolPolicy
from engine.pools import gather
from engine.state import UserState
from streams.embedded import EmbeddedRunner
from streams.facts import take_items
from streams.recording import Recording, read_topic
from streams.replay import replay

ITEMS = ("a", "b", "c")
updates = st.builds(
    ItemUpdate,
    item=st.sampled_from(ITEMS),
    attributes=st.dictionaries(
        st.sampled_from(["genre", "live"]), st.sampled_from(["x", "y", ["y", "x"], 3, True])
    ),
    blocked=st.booleans(),
    available_ms=st.none() | st.sampled_from([-1, 0, 5, 2**70]),
)


def written(*said: ItemUpdate | str) -> CatalogueWriter:
    """A catalogue of updates; a name removes its item."""
    catalogue = CatalogueWriter()
    for one in said:
        catalogue.remove(one) if isinstance(one, str) else catalogue.put(one)
    return catalogue


def names(catalogue: Catalogue, item: str) -> list[tuple[str, str]]:
    return [catalogue.names[token] for token in catalogue.tokens_of(item)]


def outlook(catalogue: Catalogue) -> list[object]:
    """All that a version says."""
    return [
        (catalogue.get(item), catalogue.revisions([item]), names(catalogue, item), catalogue.barred(item, 4))
        for item in ITEMS
    ] + [catalogue.names[: catalogue.tokens]]


@given(st.lists(updates | st.sampled_from(ITEMS), max_size=30), st.sampled_from([0, 3, 1024]))
def test_a_version_says_for_good_what_was_said_before_it(said: list[ItemUpdate | str], replaced_min: int) -> None:
    """Whatever comes later, and however often replaced updates are let go."""
    catalogue, known, revisions, versions = CatalogueWriter(), {}, {}, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "REPLACED_MIN", replaced_min)
        for one in said:
            if isinstance(one, str):
                catalogue.remove(one)
                known.pop(one, None)
                revisions.pop(one, None)
            else:
                catalogue.put(one)
                known[one.item] = one
                revisions[one.item] = revisions.get(one.item, 0) + 1
            version = catalogue.version()
            for item in ITEMS:
                update = known.get(item)
                assert (version.get(item), version.revisions([item])) == (update, [revisions.get(item, 0)])
                barred = update is not None and (update.blocked or (update.available_ms or 0) > 4)
                assert version.barred(item, 4) is barred
            versions.append((version, outlook(version)))
    for version, said_then in versions:
        assert outlook(version) == said_then


def test_a_version_is_the_same_value_until_something_is_said() -> None:
    catalogue = CatalogueWriter()
    assert catalogue.version() is EMPTY
    catalogue.put(ItemUpdate(item="a"))
    assert catalogue.version() is catalogue.version() is not EMPTY
    known = catalogue.version()
    catalogue.remove("unknown")
    assert catalogue.version() is known


def test_words_and_truths_are_tokens_numbered_as_they_appear_and_numbers_are_none() -> None:
    catalogue = written(
        ItemUpdate(item="a", attributes={"title": "T", "genres": ["x", "y", "x"], "minutes": 122, "score": 1.5}),
        ItemUpdate(item="b", attributes={"live": True, "genres": ["y"], "other": "y"}),
    ).version()
    assert catalogue.tokens_of("a").tolist() == [0, 1, 2]
    assert catalogue.tokens_of("b").tolist() == [3, 2, 4]
    assert catalogue.tokens_of("c").tolist() == []
    assert {catalogue.tokens_of(item).dtype.name for item in "abc"} == {"int32"}
    named = [("title", "T"), ("genres", "x"), ("genres", "y"), ("live", "true"), ("other", "y")]
    assert catalogue.names == named
    assert catalogue.tokens == 5


def test_of_an_item_so_many_tokens_are_read_and_of_all_items_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VOCABULARY_MAX", TOKENS_MAX + 1)
    many = [str(number) for number in range(100)]
    catalogue = written(
        ItemUpdate(item="a", attributes={"tags": many}),
        ItemUpdate(item="b", attributes={"tags": ["one more", "too many", "3"]}),
    ).version()
    assert catalogue.tokens_of("a").tolist() == list(range(TOKENS_MAX))
    assert catalogue.tokens_of("b").tolist() == [TOKENS_MAX, 3]


def test_what_is_available_when_it_is_put_is_so_for_good() -> None:
    catalogue = CatalogueWriter()
    catalogue.put(ItemUpdate(item="a", available_ms=10), 10)
    catalogue.put(ItemUpdate(item="b", available_ms=11), 10)
    catalogue.put(ItemUpdate(item="c", blocked=True), 10)
    assert catalogue.version().restricted == {"b": 11, "c": NEVER_MS}


POLICY = Policy(
    pools={"top": PoolPolicy("popular"), "new": PoolPolicy("fresh"), "mine": PoolPolicy("external")},
)


def offered(facts: Facts, at_ms: int) -> tuple[list[list[str]], list[int]]:
    """What each pool offers a newcomer, and how many each left out."""
    request = Request(request_id="r", user="u", slots=3, candidates={"mine": ["s", "a", "c", "s", "b"]})
    gathered = gather(UserState(), request, facts, at_ms=at_ms)
    known = [*facts.population.items, *gathered.strangers]
    lists = [[known[item] for item in ranking.items] for ranking in gathered.rankings]
    return lists, [ranking.filtered for ranking in gathered.rankings]


def test_barred_items_are_offered_by_no_pool_until_they_may_be() -> None:
    """b is blocked, c comes at 10, and so does s, which the population does not know."""
    runner = EmbeddedRunner(POLICY)
    for number, item in enumerate("aabbbc"):
        runner.react(Organic(event_id=str(number), user=f"v{number}", item=item, action="like"), 0)
    assert offered(runner.facts, 9) == ([["b", "a", "c"], ["c", "b", "a"], ["s", "a", "c"]], [0, 0, 0])
    before = runner.facts
    for update in (
        ItemUpdate(item="b", blocked=True),
        ItemUpdate(item="c", available_ms=10),
        ItemUpdate(item="s", available_ms=10),
    ):
        runner.put(update, 1)
    assert offered(runner.facts, 9) == ([["a"], ["a"], ["a"]], [2, 2, 3])
    assert offered(runner.facts, 10) == ([["a", "c"], ["c", "a"], ["s", "a", "c"]], [1, 1, 1])
    assert offered(before, 9)[1] == [0, 0, 0]
    runner.put(ItemUpdate(item="b"), 11)
    assert offered(runner.facts, 11)[1] == [0, 0, 0]


@pytest.mark.parametrize("batch", [1, 3, 256])
def test_items_are_recorded_where_they_came_and_a_replay_bars_what_was_barred(tmp_path: Path, batch: int) -> None:
    with Recording(tmp_path / "recording", POLICY) as recording:
        runner = EmbeddedRunner(POLICY, recording, batch)
        runner.put(ItemUpdate(item="late", available_ms=7), 0)
        shown = []
        for number in range(12):
            if number == 4:
                runner.put(ItemUpdate(item="b", blocked=True), number)
            if number == 9:
                runner.put(ItemUpdate(item="b"), number)
                runner.put(ItemUpdate(item="late", blocked=True), number)
            runner.react(Organic(event_id=str(number), user="v", item="ab"[number % 2], action="like"), number)
            request = Request(request_id=str(number), user="u", slots=4, candidates={"mine": ["late", "b"]})
            decision = runner.serve(request, runner.gather(request, at_ms=number), number)
            shown.append({"b", "late"} & set(decision.slot_items))
        runner.commit()
    assert shown == [{"b"}] * 4 + [set()] * 3 + [{"late"}] * 2 + [{"b"}] * 3
    puts = [(line.offset, line.at_ms, line.value.item) for line in read_topic(tmp_path / "recording", "items")]
    assert puts == [(0, 0, "late"), (8, 4, "b"), (18, 9, "b"), (18, 9, "late")]
    assert replay(tmp_path / "recording", batch) == (12, None)


class Record(NamedTuple):
    """A record of the topic, as Kafka's client has it."""

    offset: int
    key: bytes | None
    value: bytes | None


def test_of_the_topic_the_last_record_of_an_item_stands_and_bad_ones_are_left_out_and_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pairs = (
        (b"a", b'{"item":"a"}'),
        (b"a", b'{"item":"a","blocked":true}'),
        (b"b", b'{"item":"b","blocked":true}'),
        (b"b", None),
        (b"c", b'{"item":"c","colour":"red"}'),
        (b"c", b"{"),
        (b"c", b'{"item":"a"}'),
        (None, b'{"item":"c"}'),
        (b"\xff", None),
        (b"d", b'{"item":"d"}'),
    )
    catalogue = CatalogueWriter()
    take_items(catalogue, [Record(offset, *pair) for offset, pair in enumerate(pairs)])
    version = catalogue.version()
    assert version.revisions("abcd") == [2, 0, 0, 1]
    assert version.restricted == {"a": NEVER_MS}
    (told,) = caplog.messages
    assert told.startswith("item updates left out: 4, of which the first at offset 4: not an item: ")
