"""Folding a partition again without what was quarantined, while the one that holds it goes on being served.

The new state is made in a folder of its own. When it has come to where the topics end it takes the old one's place,
between two turns; a kill before that leaves the old one, whose quarantine still waits.
"""

import shutil

from engine.errors import InputError
from streams.backups import begin_from_backup
from streams.local_recovery import Ground, Owned, refold


def fold_anew(ground: Ground, owned: Owned) -> Owned:
    """The same partition without what it leaves out, as far as its topics went when this began; it may take long.

    Raises InputError where neither the topics nor a copy of the store reach back to before the quarantine.
    """
    number, exclusions = owned.partition.number, owned.partition.exclusions
    from_ms = min(one.what.from_ms for one in exclusions.quarantined if not one.folded)
    folder = ground.folder(number).with_name(f"partition-{number}.anew")
    shutil.rmtree(folder, ignore_errors=True)
    whole = all(ground.topics.log(topic, number).begin == 0 for topic in ("feeds", "feedback"))
    if not whole and not begin_from_backup(
        ground.folder(number), lambda position: position.clock_ms < from_ms, into=folder
    ):
        raise InputError(
            f"partition {number} cannot be folded without what came since {from_ms}: its topics begin later, and "
            "no copy of its state is older"
        )
    anew = ground.open(number, folder)
    try:
        for user, at_ms in exclusions.erased.items():
            anew.partition.forget(user, at_ms)
        anew.partition.exclude(exclusions)
        refold(ground, anew.partition, _unsent)
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
