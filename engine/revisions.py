"""The policies of a product in their order: which one is in force, which one a decision was made under.

A revision is what a record of topic `policy` says, checked whole: it is taken or refused, by every reader alike.
Policies are data that arrives while a feed is made, so whoever makes one takes the policy once, as one value.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import msgspec
from msgspec import Raw, Struct

from engine.errors import InputError
from engine.events import SCHEMA, check_schema
from engine.policy import Policy

TEXT_LENGTH_MAX = 1000  # of who changed a policy, and why
POLICIES_KEPT = 8  # decoded; a document can always be decoded again
Source = Literal["file", "command"]

# What learned sums are made with: each term was weighted by it as it came, and they cannot be weighted again.
KEPT = {
    "memory": (
        "window_ms",
        "half_life_ms",
        "half_life_slots",
        "cohort_half_life_ms",
        "weights_half_life_ms",
        "shadow_half_life_views",
    ),
    "weights": ("population_half_life_ms",),
}


class StaleError(InputError):
    """A policy that was made to follow another revision than the one in force."""


class PolicyRecord(Struct, frozen=True, tag_field="kind", tag="policy", kw_only=True):
    """A policy that is to be in force from here on, as revision `number`, one more than the one before.

    `version` is its hash, `who` changed it and `why`; `source` says whether a watched file or a command did.
    `policy` is the whole document, which `restores` that of an earlier revision, null if it is new.
    """

    number: int
    version: str
    who: str
    why: str
    source: Source
    policy: Raw
    restores: int | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuse another schema, and what is too long."""
        check_schema(self.schema)
        if self.number < 1:
            raise ValueError("revisions count from 1")
        if max(len(self.who), len(self.why)) > TEXT_LENGTH_MAX:
            raise ValueError(f"who and why have at most {TEXT_LENGTH_MAX} characters")
        if not (self.who + self.why).isprintable():
            raise ValueError("who and why are a line of text each")

    @property
    def key(self) -> str:
        """Of its record: two that were written at a time both stay, and the first is the one that counts."""
        return f"{self.number}-{self.version}"


class Revision(Struct, frozen=True):
    """A policy, and when it came into force: a time of the log, in milliseconds since the epoch."""

    number: int
    version: str
    who: str
    why: str
    source: Source
    at_ms: int
    document: bytes
    restores: int | None = None

    @property
    def policy(self) -> Policy:
        """The policy of its document."""
        return _decoded(self.document)


_records = msgspec.json.Decoder(PolicyRecord)  # made before there are threads
_policies = msgspec.json.Decoder(Policy)


@lru_cache(POLICIES_KEPT)
def _decoded(document: bytes) -> Policy:
    """A policy with arms is as many policies: only the latest that were looked at are kept."""
    return _policies.decode(document)


class Revisions:
    """All revisions that were taken; one writer appends to it, and what stands in it never changes."""

    def __init__(self, first: Policy, plug_ins: frozenset[str] | None = None) -> None:
        """Begin with a policy that counts as long as there is no revision.

        `plug_ins` are the kinds of pools of somebody's own that a policy may name here, None if that is not asked:
        naming one runs its code.
        """
        self.history: list[Revision] = []
        self.policy = first  # in force
        self.retired: frozenset[str] = frozenset()  # external pools that some revision had
        self._first = first
        self._plug_ins = plug_ins
        self._by_version: dict[str, Revision] = {}
        self._actions = set(first.actions)

    @property
    def number(self) -> int:
        """Of the revision in force, 0 where there is none."""
        return self.history[-1].number if self.history else 0

    def at(self, number: int) -> Policy:
        """The policy of a revision; of number 0 the first there is. Raises InputError for one that is not known."""
        if number == 0:
            return self.history[0].policy if self.history else self._first
        found = next((one for one in reversed(self.history) if one.number == number), None)
        if found is None:
            raise InputError(f"there is no revision {number} of the policy")
        return found.policy

    def resumed(self, number: int) -> Policy:
        """The policy that a state was folded by; where its revision is lost, the newest before it."""
        past = [revision for revision in self.history if revision.number <= number]
        return past[-1].policy if past else self.at(0)

    def before(self, at_ms: int) -> Policy:
        """The policy that was in force just before a time of the log; the first there is, if none was yet."""
        past = [revision for revision in self.history if revision.at_ms < at_ms]
        return past[-1].policy if past else self.at(0)

    def made_under(self, version: str) -> Policy:
        """The policy that a decision names, or the one in force where nobody knows it."""
        known = self._by_version.get(version)
        return self.policy if known is None else known.policy

    def names(self, action: str) -> bool:
        """Whether some revision has named an action."""
        return action in self._actions

    def check_action(self, action: str) -> None:
        """Raise InputError for an action that no revision has named."""
        if not self.names(action):
            raise InputError(f'the policy does not name action {action!r}: add [actions."{action}"]')

    def says(self, policy: Policy, after: int = 0, source: Source | None = None) -> bool:
        """Whether a revision after this number, from this source or any, is this policy."""
        later = (one for one in self.history if one.number > after and source in (None, one.source))
        return any(one.policy.version == policy.version for one in later)

    def check(self, record: PolicyRecord) -> Policy:
        """The policy of a record that is next. Raises InputError where it would be refused."""
        try:
            policy = _decoded(bytes(record.policy))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"it cannot be read: {' '.join(str(error).split())}") from error
        if record.number <= self.number:
            raise StaleError(
                f"it was made to follow revision {record.number - 1}, and revision {self.number} is in force"
            )
        for kind in sorted(policy.plug_ins - (self._plug_ins or frozenset()) if self._plug_ins is not None else ()):
            raise InputError(f"the pool {kind!r} is code of somebody's own: name it in the setting plug_ins first")
        if self.history:
            refuse_kept(self.policy, policy)
        return policy

    def take(self, value: bytes, at_ms: int) -> bool:
        """Take a record of topic `policy`, of this log time; whether another policy is in force now.

        Raises InputError where it is refused, and then nothing has changed.
        """
        try:
            record = _records.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"it cannot be read: {' '.join(str(error).split())}") from error
        document = bytes(record.policy)
        if self.history and document == self.history[-1].document:
            return False  # said twice
        policy = self.check(record)
        made = Revision(
            record.number, record.version, record.who, record.why, record.source, at_ms, document, record.restores
        )
        self.history.append(made)
        self._by_version |= {made.version: made, policy.version: made}
        self._actions |= set(policy.actions)
        self.retired = (self.retired | self.policy.external) - policy.external
        self.policy = policy
        return True


def undone_to(revisions: Sequence[Revision], passed: Callable[[Policy], bool]) -> Revision | None:
    """The revision that an undo of the last one goes back to; None if there is none.

    What was undone already is stepped over, and so is what is `passed`, such as a canary.
    """
    last = revisions[-1]
    end = last.number if last.restores is None else last.restores
    for one in reversed(revisions):
        if one.number < end and one.policy.version != last.policy.version and not passed(one.policy):
            return one
    return None


def next_record(
    policy: Policy, after: int, who: str, why: str, source: Source, restores: int | None = None
) -> PolicyRecord:
    """The record that puts a policy into force after revision `after`. Raises InputError for who and why."""
    try:
        document = Raw(msgspec.json.encode(policy))
        return PolicyRecord(
            number=after + 1,
            version=policy.version,
            who=who,
            why=why,
            source=source,
            policy=document,
            restores=restores,
        )
    except ValueError as error:
        raise InputError(str(error)) from error


def refuse_kept(old: Policy, new: Policy) -> None:
    """Raise InputError where a change is one of what learned sums are made with."""
    for table, keys in KEPT.items():
        before, after = getattr(old, table), getattr(new, table)
        for key in keys:
            was, wanted = getattr(before, key), getattr(after, key)
            if was != wanted:
                raise InputError(
                    f"[{table}] {key} = {wanted} would change what is learned already, which was weighted with "
                    f"{was}: it is chosen when a product begins"
                )


def differences(old: Policy, new: Policy) -> list[tuple[str, object, object]]:
    """(key, old value, new value) of all that differs, None where there is none; keys as a file has them.

    The order of names differs too: it is that of pools in draws, and the first arm is the control.
    """
    before, after = _flat("", msgspec.to_builtins(old)), _flat("", msgspec.to_builtins(new))
    keys: Sequence[str] = list(dict.fromkeys([*before, *after]))
    found = [(key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)]
    return found or ([] if list(before) == list(after) else [("order of names", _names(before), _names(after))])


def _names(flat: dict[str, object]) -> list[str]:
    """Tables of tables, by name."""
    return list(dict.fromkeys(key.rpartition(".")[0] for key in flat if key.count(".") > 1))


def _flat(place: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        return {place: value}
    leaves: dict[str, object] = {}
    for name, inner in value.items():
        leaves |= _flat(f"{place}.{name}".lstrip("."), inner)
    return leaves
