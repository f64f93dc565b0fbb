"""`propensities`: how likely each pool was to get each slot of a decision, from its record alone.

What is given: posterior, rewards, temperature, ε, returns model, whether there was one draw or one for each slot,
and the lists: their lengths (`stock`) and the entries of them that were read. The draw is not given, nor whether
the feed was explored. Other draws would read further than the recorded one did; what stands there is not in the
record. So each entry that was not read is taken to be an item that no other pool offers.

Where that cannot matter, chances are those of the engine: the record holds every list whole (as it does of every
feed that is shorter than was asked for), or the lists have no item in common. And the bandit's part (all but ε of
it) does not depend on it where every pool has an item for every slot, or none at all: a pool that meets an item
which stands in the feed already reads on and keeps the slot. Elsewhere lists that go on alike run out sooner than
is assumed, so a pool with fewer items than slots, and the pools that come after it, have an approximate chance.
What was read came of the draw, so there, and only there, another draw of the same request would have left a record
with other numbers.
"""

from blending.propensity import Propensities, propensities_of
from blending.randomness import key_of
from engine.decision import Decision, conditions_of, lists_read, posterior_of, rules_of

# Redraws of Monte Carlo. A chance of .02 has a standard error of .0022.
SAMPLES = 4096


def propensities(record: Decision, samples: int = SAMPLES) -> Propensities:
    """π and its standard errors, each of shape (slots of the feed, pools): exact where it can be, else of redraws.

    A function of the record: its `samples` redraws come from a key that no decision draws from. A pool that must be
    open in a slot has at least ε / (number of pools with items) there, also where lists share items. Raises
    ValueError for a record that could not be a decision.
    """
    key = key_of(record.seed, record.request.user, record.request.request_id, "propensities")
    page = conditions_of(record)
    found = propensities_of(posterior_of(record), rules_of(record), lists_read(record), samples, key, page)
    if record.caps and len(found.chances) > len(record.slot_pools):
        filled = len(record.slot_pools)  # what else there was is of groups that are full
        found = found._replace(chances=found.chances[:filled], errors=found.errors[:filled])
    if len(found.chances) != len(record.slot_pools):
        raise ValueError(f"its lists fill {len(found.chances)} slots, and it has {len(record.slot_pools)}")
    return found
