"""Those who wait for an answer, until a turn answers some of them together."""

import asyncio
from asyncio import Future
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from engine.errors import InputError
from streams.asking import UnavailableError

T = TypeVar("T")
R = TypeVar("R")


class Lane(Generic[T, R]):
    """Those who wait for one kind of answer, the first to come first; a turn answers some of them together."""

    def __init__(
        self,
        answer: Callable[[list[T]], Sequence[R | InputError]],
        most: int,
        weight: Callable[[T], int] = lambda _: 1,
    ) -> None:
        """A turn takes at least one of them, and no more when those that it took weigh so much."""
        self.waiting: deque[tuple[T, Future[R]]] = deque()
        self._answer = answer
        self._most = most
        self._weight = weight
        self._taken: list[tuple[T, Future[R]]] = []
        self._outcomes: Sequence[R | InputError] = ()

    def come(self, given: T) -> "Future[R]":
        """One more; the future is its answer."""
        done: Future[R] = asyncio.get_running_loop().create_future()
        self.waiting.append((given, done))
        return done

    def turn(self) -> bool:
        """Answer some, and tell nobody yet; whether there were any."""
        weight = 0
        while self.waiting and weight < self._most:
            self._taken.append(self.waiting.popleft())
            weight += self._weight(self._taken[-1][0])
        if self._taken:
            self._outcomes = self._answer([given for given, _ in self._taken])
        return bool(self._taken)

    def settle(self) -> None:
        """Tell those who were answered, if they are still there."""
        for (_, done), outcome in zip(self._taken, self._outcomes, strict=True):
            if done.done():
                continue
            if isinstance(outcome, InputError):
                done.set_exception(outcome)
            else:
                done.set_result(outcome)
        self._taken, self._outcomes = [], ()

    def refuse(self, trouble: str) -> None:
        """Tell everybody that there is no answer."""
        for _, done in (*self._taken, *self.waiting):
            if not done.done():
                done.set_exception(UnavailableError(trouble))
        self._taken, self._outcomes = [], ()
        self.waiting.clear()
