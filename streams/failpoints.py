"""Named places where a test may have the process killed: FEEDLOOM_FAILPOINT=name or name:passes."""

import os
import signal
from typing import Literal

FailPoint = Literal[
    "before-acknowledgement",
    "after-acknowledgement",
    "inside-batch",
    "after-batch",
    "before-checkpoint",
    "inside-checkpoint",
    "after-checkpoint",
    "inside-restore",
    "before-receipts",
    "before-population",
    "after-population",
]

_name, _, _passes = os.environ.get("FEEDLOOM_FAILPOINT", "").partition(":")
_left = int(_passes or 1)


def passing(point: FailPoint) -> None:
    """End the process as `kill -9` does, the last of so many times that it comes by here."""
    global _left  # noqa: PLW0603  of the process, like the failure
    if point != _name:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
