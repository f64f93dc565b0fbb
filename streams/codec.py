"""What stands on topics as JSON bytes, both ways. Unreadable bytes are an InputError that says why."""

import msgspec

from engine.decision import Decision
from engine.errors import InputError
from engine.events import Acted, Erase, Event, ItemUpdate, Organic, Quarantine, Request, Seen, Switch, Tick
from engine.propensity_record import PropensityRecord

Value = Event | Decision | Tick | Switch | Erase | Quarantine | PropensityRecord | ItemUpdate

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Value] = msgspec.json.Decoder(
    Request | Seen | Acted | Organic | Tick | Switch | Erase | Quarantine | Decision | PropensityRecord
)
_item_decoder = msgspec.json.Decoder(ItemUpdate)


def encode(value: Value) -> bytes:
    """One JSON document, without white space; numbers survive the round trip bit for bit."""
    return _encoder.encode(value)


def decode(data: bytes) -> Value:
    """Read any event, decision or propensities; the `kind` says which it is."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"not an event or decision: {error}") from error


def decode_item(data: bytes) -> ItemUpdate:
    """Read an item update, which has no `kind`: it stands on a topic of its own."""
    try:
        return _item_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"not an item: {error}") from error
