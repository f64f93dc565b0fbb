"""A worker's partition, folded again without what was quarantined, while the one that holds it has its turns.

The new state is made in a folder of its own and goes into a checkpoint whole; then it takes the old one's place
between two turns. Whatever is killed when, the old state is there, whose quarantine still waits, or the new one.
"""

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from streams.backups import begin_before
from streams.broker import Consumer, Place, since
from streams.exclusions import ErasedFact
from streams.messages import Input, Message
from streams.partition import Partition
from streams.recovery import opened, refold
from streams.settings import Settings
from streams.store import PartitionStore
from streams.store_folder import put_in_place as take_place

POLL_MS = 200
_erased = msgspec.json.Decoder(ErasedFact)

State = tuple[Partition, PartitionStore]
Open = Callable[[PartitionStore], Partition]  # the partition of a store


async def erased_of(settings: Settings, number: int) -> dict[str, int]:
    """The users of a partition who were erased, and up to which log time."""
    place, found = Place(settings.topic("erased"), 0), dict[str, int]()
    reader, ends = await since(settings, {place: 0})
    try:
        while await reader.position(place) < ends[place]:
            for records in (await reader.getmany(place, timeout_ms=POLL_MS)).values():
                for record in records:
                    fact = _erased.decode(record.value) if record.value else None
                    if fact is not None and fact.partition == number:
                        found[fact.user] = fact.at_ms
    finally:
        await reader.stop()
    return found


async def fold_anew(
    settings: Settings, old: State, partition_of: Open, consumer: Consumer, wanted: Callable[[], bool]
) -> State:
    """The same partition without what it leaves out, as far as it had come when this began; it may take long.

    Raises NoGroundError where neither the topics nor a copy of the store reach back to before the oldest of them.
    """
    partition, store = old
    number, exclusions, until = partition.number, partition.exclusions, partition.position.offsets()
    folder = store.folder.with_name(f"{store.folder.name}.anew")
    folded: tuple[Input, ...] = ("feeds", "feedback")
    names = {Place(settings.topic(name), number): name for name in folded}
    begins = {names[place]: first for place, first in (await consumer.beginning_offsets(list(names))).items()}
    from_ms = exclusions.oldest_unfolded.what.from_ms
    await asyncio.to_thread(begin_before, from_ms, store.folder, begins, folder)
    made = await opened(folder)
    try:
        made.keep_topic_ids(store.topic_ids())
        anew = await asyncio.to_thread(partition_of, made)
        anew.exclude(exclusions)
        await refold(anew, settings, unsent, wanted, until)
    except BaseException:
        made.close()
        raise
    return anew, made


async def put_in_place(settings: Settings, old: State, new: State, partition_of: Open) -> State:
    """Bring the new state to where the old one is, and let it take its place; no turn may come between.

    Neither store is of use after that, nor if it fails.
    """
    anew, made = new
    try:
        # No further: what it would have to say of records beyond, nobody has said.
        await refold(anew, settings, unsent, lambda: True, old[0].position.offsets())
        anew.pass_over("requests", old[0].position.requests)
        anew.commit()
    finally:
        made.close()
        old[1].close()
    folder = old[1].folder
    take_place(made.folder, folder)
    store = await opened(folder)
    return await asyncio.to_thread(partition_of, store), store


async def unsent(_: Sequence[Message]) -> None:
    """What it says was said by the state that it takes the place of."""
