"""Options of the command line that are more than a word or a number."""

import re

import click

from simulator.replay_plan import Break

UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd])")
OFF = "off"


class DurationType(click.ParamType):
    """A duration such as 30m, in milliseconds; 0 for `off`."""

    name = "DURATION"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it, or say what one looks like."""
        if value == OFF:
            return 0
        match = DURATION.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is no duration: write a whole number and s, m, h or d, like 30m", param, ctx)
        return int(match[1]) * UNIT_MS[match[2]]


class PercentType(click.ParamType):
    """A part such as 5% or 0.05, above 0 and below 1."""

    name = "PERCENT"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it, or say what one looks like."""
        try:
            number = float(value.removesuffix("%")) / (100.0 if value.endswith("%") else 1.0)
        except ValueError:
            number = 0.0
        if not 0.0 < number < 1.0:
            self.fail(f"{value!r} is no part: write it like 5% or 0.05", param, ctx)
        return number


class BreakType(click.ParamType):
    """A pool, and the part of the log from which on it is broken."""

    name = "POOL@PART"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Break:
        """Read it, or say what is wrong with it."""
        pool, _, part = value.rpartition("@")
        try:
            number = float(part)
        except ValueError:
            number = None
        if not pool or number is None:
            self.fail(f"{value!r} is not POOL@PART: write it like similar@0.6", param, ctx)
        try:
            return Break(pool, number)
        except ValueError as error:
            self.fail(str(error), param, ctx)
