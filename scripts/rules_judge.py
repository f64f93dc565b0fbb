"""A judge of rules in plain Python, who knows only the policy, what was said of items, and what a user did.

The judge looks at no list, no posterior and no state of the engine. What a page does not keep is a violation: a
named one where the record says that this rule gave way, and an unnamed one otherwise. Rules that bar an item, and
strict ones, may never give way.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import partial

from engine.decision import Decision
from engine.events import ItemUpdate
from engine.policy import Policy
from engine.rules import BlockRule, CapRule, FreshRule, SeenRule

ROUNDING = 1e-9  # a share of a page may miss the whole number of slots that it is by its last bits


def texts(update: ItemUpdate, attribute: str) -> set[str]:
    """What an item has for an attribute, as texts."""
    if attribute == "item":
        return {update.item}
    value = update.creator if attribute == "creator" else update.attributes.get(attribute)
    if isinstance(value, bool):
        return {str(value).lower()}
    if isinstance(value, list):
        return set(value)
    return set() if value is None else {str(value)}


class Judge:
    """Keeps what was said and done; `named` and `unnamed` count violations by rule, `feeds` what was judged.

    `overnamed` counts caps and floors of rules that a record names though its page keeps them.
    """

    def __init__(self, policy: Policy) -> None:
        """Nothing was said or done."""
        self.feeds = self.slots = self.empty = 0
        self.named: Counter[str] = Counter()
        self.unnamed: Counter[str] = Counter()
        self.overnamed: Counter[str] = Counter()
        self._policy = policy
        self._items: dict[str, ItemUpdate] = {}
        self._feeds: dict[tuple[str, str], list[str]] = {}  # the items of all pages until this one
        self._acts: dict[str, dict[str, set[str]]] = defaultdict(partial(defaultdict, set))  # by user and action
        self._views: dict[str, list[tuple[int, str]]] = defaultdict(list)
        self._viewed: dict[str, Counter[str]] = defaultdict(Counter)  # by user and pool
        self._given: Counter[str] = Counter()  # slots of a user, until now

    def put(self, update: ItemUpdate) -> None:
        """Something was said of an item."""
        self._items[update.item] = update

    def see(self, user: str, item: str, pool: str, at_ms: int) -> None:
        """A user saw an item that a pool had placed."""
        self._views[user].append((at_ms, item))
        self._viewed[user][pool] += 1

    def act(self, user: str, item: str, action: str) -> None:
        """A user did something with an item."""
        self._acts[user][action].add(item)

    def judge(self, made: Decision) -> None:
        """Count what a page does not keep."""
        self.feeds += 1
        self.slots += made.request.slots
        self.empty += made.request.slots - len(made.slot_items)
        given = {(one.rule, one.pool) for one in made.degraded}
        broken = [*self._limits(made), *self._guarantees(made)]
        for rule, name, strict in broken:
            known = (rule, name) in given and not strict
            (self.named if known else self.unnamed)[f"{rule} {name}"] += 1
        exact = {"item_cap", "fresh", "pinned", "required", "cap"}
        for rule, name in given - {(rule, name) for rule, name, _ in broken}:
            if rule in exact:
                self.overnamed[f"{rule} {name}"] += 1
        for name in self._barred(made):
            self.unnamed[name] += 1
        user, items = made.request.user, made.slot_items
        before = self._earlier(made)
        self._feeds[user, made.request.request_id] = [*before, *items]
        self._given[user] += len(items)

    def _earlier(self, made: Decision) -> list[str]:
        """What earlier pages of the same feed hold; one that has lapsed is begun anew (`start` is 0)."""
        return self._feeds.get((made.request.user, made.request.continues or ""), []) if made.start else []

    def _limits(self, made: Decision) -> Iterator[tuple[str, str, bool]]:
        """The caps and freshness floors that a page does not keep, and whether they are strict."""
        updates = [self._items[item] for item in made.slot_items]
        for name, rule in self._policy.rules.items():
            if isinstance(rule, CapRule):
                held = Counter(text for update in updates for text in texts(update, rule.attribute))
                if max(held.values(), default=0) > rule.most:
                    yield "item_cap", name, rule.strict
            elif isinstance(rule, FreshRule):
                ages = [made.at_ms - u.published_ms for u in updates if u.published_ms is not None]
                fresh = sum(age < rule.younger_ms for age in ages)
                older = len(updates) - fresh
                # A strict floor leaves slots empty: what it forbids is more older items than slots that are left.
                if older > made.request.slots - rule.least if rule.strict else fresh < rule.least:
                    yield "fresh", name, rule.strict

    def _guarantees(self, made: Decision) -> Iterator[tuple[str, str, bool]]:
        """What a page does not keep of the pools' guarantees and caps.

        A floor fades with views that count in full at most, so it is at least what it would be if all did.
        """
        user, slots = made.request.user, made.request.slots
        owners = [made.pools[pool].pool for pool in made.slot_pools]
        held = Counter(owners)
        for name, pool in self._policy.pools.items():
            pins = [slot - made.start for slot in pool.pinned if 0 <= slot - made.start < slots]
            if any(slot >= len(owners) or owners[slot] != name for slot in pins):
                yield "pinned", name, False
            floor = int(pool.floor * slots + ROUNDING)
            if not self._given[user]:
                floor = max(floor, int(pool.floor > 0.0))
            elif pool.floor_views:
                fading = pool.floor_views / (pool.floor_views + self._viewed[user][name])
                floor = int(pool.floor * fading * slots + ROUNDING)
            else:
                floor = 0
            if held[name] < pool.required:
                yield "required", name, False
            elif held[name] < floor:
                yield "floor", name, False
            if held[name] > max(int(pool.cap * slots + ROUNDING), pool.required, floor, len(pins)):
                yield "cap", name, False

    def _tired(self, user: str, at_ms: int, reacted: set[str]) -> dict[str, set[str]]:
        """What each rule of fatigue bars for a user."""
        tired: dict[str, set[str]] = {}
        for name, rule in self._policy.rules.items():
            if isinstance(rule, SeenRule):
                seen = Counter(item for when, item in self._views[user] if when > at_ms - rule.within_ms)
                tired[name] = {item for item, times in seen.items() if times >= rule.times} - reacted
        return tired

    def _blocked(self, update: ItemUpdate) -> Iterator[str]:
        """The block lists that an item is on."""
        for name, rule in self._policy.rules.items():
            if isinstance(rule, BlockRule) and texts(update, rule.attribute) & set(rule.values):
                yield f"block {name}"

    def _barred(self, made: Decision) -> Iterator[str]:
        """Why items of the page should not stand there, once for each reason and item."""
        user, at_ms = made.request.user, made.at_ms
        acts = self._acts[user]
        reacted = set().union(*acts.values())
        hidden = {item for action, of in self._policy.hides.items() if of for item in acts[action]}
        by = {item for action, of in self._policy.hides.items() if of == "creator" for item in acts[action]}
        creators = {creator for item in by if (creator := self._items[item].creator) is not None}
        tired = self._tired(user, at_ms, reacted)
        earlier = set(self._earlier(made))
        for place, item in enumerate(made.slot_items):
            update = self._items[item]
            yield from self._blocked(update)
            if update.blocked or (update.available_ms or 0) > at_ms:
                yield "catalogue"
            if item in hidden or update.creator in creators:
                yield "hides"
            for name, items in tired.items():
                if item in items:
                    yield f"seen {name}"
            own = self._policy.pools[made.pools[made.slot_pools[place]].pool].kind != "external"
            if own and item in reacted:
                yield "reacted"
            if item in earlier or made.slot_items.index(item) < place:
                yield "once"
