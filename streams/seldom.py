"""Logs that say the same thing once in a while, however often it happens."""

import logging
import time

SELDOM_SECONDS = 5.0


class Seldom(logging.Filter):
    """Lets a message through once in a while; messages are told apart by their form, before values are put in."""

    def __init__(self) -> None:
        """Nothing was said yet."""
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it was not said lately."""
        now = time.monotonic()
        said = self._said.get(str(record.msg))
        if said is not None and now < said + SELDOM_SECONDS:
            return False
        self._said[str(record.msg)] = now
        return True
