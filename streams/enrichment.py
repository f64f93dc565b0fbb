"""A record of `feeds` becomes one of `propensities`, or a dead letter: records and bytes, without Kafka."""

from engine.decision import Decision
from engine.errors import InputError
from engine.propensity_record import propensity_record
from streams.codec import decode, encode
from streams.messages import Message, Record, dead_letter

VALUE_BYTES_MAX = 1_000_000  # of a record of `propensities`; with its key it has to fit into Kafka's own 1 MiB


def enriched(partition: int, record: Record) -> Message:
    """What to write of one record of `feeds`. A function of it: read twice, it is written twice the same."""
    try:
        value = encode(propensity_record(_decision(record)))
        if len(value) > VALUE_BYTES_MAX:
            raise InputError(f"its propensities take {len(value)} bytes; at most {VALUE_BYTES_MAX} are written")
    except (ValueError, IndexError, ArithmeticError) as error:  # the last two of what could be no decision
        return dead_letter("feeds", partition, record, error)
    return Message("propensities", record.key, value, partition=partition)


def _decision(record: Record) -> Decision:
    value = decode(record.value or b"")
    if not isinstance(value, Decision):
        raise InputError(f"a {type(value).__name__.lower()} stands among the decisions")
    if record.key != value.request.user.encode():
        raise InputError(f"the key is not the id of the decision's user {value.request.user!r}")
    return value
