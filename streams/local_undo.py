"""Folding a partition again without what was quarantined, while the one that holds it goes on being served.

The new state is made in a folder of its own. When it has come to where the topics end it takes the old one's place,
between two turns; a kill before that leaves the old one, whose quarantine still waits.
"""

import shutil

from streams.backups import NoGroundError, begin_from, find_backup, reaches
from streams.local_recovery import FOLDED, Ground, Owned, refold


def fold_anew(ground: Ground, owned: Owned) -> Owned:
    """The same partition without what it leaves out, as far as its topics went when this began; it may take long.

    Raises NoGroundError where neither the topics nor a copy of the store reach back to before the oldest quarantine
    that waits, or the topics are damaged: what cannot be read again would be forgotten.
    """
    number, exclusions = owned.partition.number, owned.partition.exclusions
    folder, begins = ground.folder(number), ground.begins(number)
    anew_folder = folder.with_name(f"{folder.name}.anew")
    shutil.rmtree(anew_folder, ignore_errors=True)
    if any(begins.values()):
        from_ms = exclusions.oldest_unfolded.what.from_ms
        copy = find_backup(folder, lambda at: at.clock_ms < from_ms and reaches(at, begins))
        if copy is None:
            raise NoGroundError(
                f"partition {number} cannot be folded without what came since {from_ms}: its topics begin later, "
                "and no copy of its state is older"
            )
        begin_from(copy, anew_folder)
    anew = ground.open(number, anew_folder)
    try:
        for user, at_ms in exclusions.erased.items():
            anew.partition.forget(user, at_ms)
        anew.partition.exclude(exclusions)
        refold(ground, anew.partition, _unsent)
        damaged = [damage for topic in FOLDED for damage in ground.topics.log(topic, number).damages]
        if any(not damage.cut for damage in damaged):
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
    folder, made = owned.store.folder, anew.store.folder
    outdated = folder.with_name(f"{folder.name}.outdated")
    shutil.rmtree(outdated, ignore_errors=True)
    folder.rename(outdated)
    made.rename(folder)
    shutil.rmtree(outdated)
    return ground.open(owned.partition.number, folder)


def _unsent(_: object) -> None:
    """What it says was said by the state that it takes the place of."""
