"""The propensities of a decision as a record of its own, for those who learn from logs."""

from msgspec import Struct

from blending.propensity import Method
from engine.decision import Decision
from engine.events import SCHEMA, check_ids, check_schema
from engine.propensities import SAMPLES, propensities

SUM_ERROR_MAX = 1e-6  # of a slot's chances, which are added up from floats


class PropensityRecord(Struct, frozen=True, tag_field="kind", tag="propensities", kw_only=True):
    """How likely each pool was to get each slot of a decision, whatever was drawn.

    (user, request_id) is the decision; `at_ms`, `policy_version` and the names of `pools` are as it says.
    `chances` and their standard errors `errors` have a row per slot of the feed and an entry per pool. `method`
    says how the bandit's part was found, `samples` the number of redraws, 0 when all of it is exact.
    """

    request_id: str
    user: str
    at_ms: int
    policy_version: str
    pools: list[str]
    chances: list[list[float]]
    errors: list[list[float]]
    method: Method
    samples: int
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuse another schema, tables that do not fit together, and chances that are none."""
        check_schema(self.schema)
        check_ids(self.request_id, self.user)
        if not self.pools or self.samples < 0:
            raise ValueError("propensities need pools, and cannot come of fewer than 0 redraws")
        if len(self.chances) != len(self.errors):
            raise ValueError("propensities need chances and errors for every slot")
        if any(len(row) != len(self.pools) for row in (*self.chances, *self.errors)):
            raise ValueError("propensities need an entry for every pool in each slot")
        if not all(error >= 0.0 for row in self.errors for error in row):
            raise ValueError("a standard error is not below 0")
        for row in self.chances:
            if not (min(row) >= 0.0 and abs(sum(row) - 1.0) <= SUM_ERROR_MAX):
                raise ValueError("the chances of a slot are not below 0, and sum to 1")


def propensity_record(record: Decision, samples: int = SAMPLES) -> PropensityRecord:
    """The record of `propensities(record, samples)`: equal for equal decisions, however often it is made.

    Raises ValueError or IndexError for a record that could not be a decision.
    """
    found = propensities(record, samples)
    return PropensityRecord(
        request_id=record.request.request_id,
        user=record.request.user,
        at_ms=record.at_ms,
        policy_version=record.policy_version,
        pools=[part.pool for part in record.pools],
        chances=found.chances.tolist(),
        errors=found.errors.tolist(),
        method=found.method,
        samples=found.samples,
    )
