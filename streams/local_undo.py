"""Folding a partition again without what was quarantined, while the one that holds it goes on being served.

The new state is made in a folder of its own. When it has come to where the topics end it takes the old one's place,
between two turns; a kill before that leaves the old one, whose quarantine still waits.
"""

from streams.backups import NoGroundError, begin_before
from streams.local_recovery import FOLDED, Ground, Owned, refold
from streams.store_folder import put_in_place as take_place


def fold_anew(ground: Ground, owned: Owned) -> Owned:
    """The same partition without what it leaves out, as far as its topics went when this began; it may take long.

    Raises NoGroundError where neither the topics nor a copy of the store reach back to before the oldest quarantine
    that waits, or the topics are damaged: what cannot be read again would be forgotten.
    """
    number, exclusions = owned.partition.number, owned.partition.exclusions
    folder = ground.folder(number)
    anew_folder = folder.with_name(f"{folder.name}.anew")
    begin_before(exclusions.oldest_unfolded.what.from_ms, folder, ground.begins(number), anew_folder)
    anew = ground.open(number, anew_folder)
    try:
        anew.partition.exclude(exclusions)
        refold(ground, anew.partition, _unsent)
        met = [damage for topic in FOLDED for damage in ground.topics.log(topic, number).damages]
        if damaged := [damage for damage in met if not damage.cut]:
            raise NoGroundError(f"partition {number} cannot be folded again, its topics are damaged: {damaged[0]}")
    except BaseException:
        anew.store.close()
        raise
    return anew


def put_in_place(ground: Ground, owned: Owned, anew: Owned) -> Owned:
    """Bring the new state to where the old one is, and let it take its place."""
    refold(ground, anew.partition, _unsent)
    anew.partition.pass_over("requests", owned.partition.position.requests)
    anew.partition.commit()
    owned.store.close()
    anew.store.close()
    take_place(anew.store.folder, owned.store.folder)
    return ground.open(owned.partition.number, owned.store.folder)


def _unsent(_: object) -> None:
    """What it says was said by the state that it takes the place of."""
