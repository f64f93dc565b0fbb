"""What a process of ours must be allowed to do on a cluster with ACLs, asked before it begins.

A client that lacks an ACL is told so one request at a time, and goes on asking. Kafka says of each topic what this
user may do with it, so all that is missing can be said at once.
"""

from collections.abc import Iterator
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError
from msgspec import Struct
from msgspec.structs import replace

from engine.errors import InputError
from streams.security import GROUP_REFUSED, PAGE, TOPIC_REFUSED, TRANSACTION_REFUSED, number_of, user_of
from streams.settings import Settings
from streams.topics import REQUEST_MS_MAX, TOPICS, check, connection

NAMED_MAX = 4  # topics and groups in one sentence


class Needs(Struct, frozen=True):
    """What a process reads, what it writes, and what its group has behind the settings' name.

    `transactional` begins the ids of its transactions, behind the prefix of topics; None where it has none.
    """

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    group: str = ""
    transactional: str | None = None

    def of_topic(self, name: str) -> list[str]:
        """Operations on one topic, in Kafka's words; who may read or write may describe.

        All topics are looked at before anything begins.
        """
        used = [word for word, names in (("READ", self.reads), ("WRITE", self.writes)) if name in names]
        return [*(used or ["DESCRIBE"]), "DESCRIBE_CONFIGS"]


WORKER = Needs(
    reads=("requests", "feedback", "feeds", "items", "policy", "population", "erased", "sums", "checkpoints"),
    writes=(
        "feeds",
        "feedback",
        "policy",
        "population",
        "erased",
        "sums",
        "checkpoints",
        "alerts",
        "metrics",
        "dead-letters",
    ),
    transactional="{group}-checkpoints-0",
)
HTTP_WORKER = replace(WORKER, reads=(*WORKER.reads, "dead-letters"), writes=(*WORKER.writes, "requests", "items"))
PROPENSITIES = Needs(reads=("feeds",), writes=("propensities", "dead-letters"), group="-propensities")


def ready(settings: Settings, needs: Needs) -> int:
    """The number of parts that users are divided into, for a process that can begin.

    Raises InputError for what this user may not do, or for the first topic with a problem.
    """
    with connection(KafkaAdminClient, settings, request_timeout_ms=REQUEST_MS_MAX) as client:
        missing = [*_of_topics(client, settings, needs), *_of_group(client, settings.group + needs.group)]
        if needs.transactional is not None:
            number = settings.topic(needs.transactional.format(group=settings.group))
            missing += _of_transactions(client, number)
    if missing:
        named = ", ".join(missing[:NAMED_MAX])
        more = f", and {len(missing) - NAMED_MAX} more" if len(missing) > NAMED_MAX else ""
        raise InputError(
            f"Kafka at {settings.bootstrap} does not let {user_of(settings)} begin, which lacks the ACLs "
            f"{named}{more}: {PAGE} lists them all"
        )
    return check(settings)


def _of_topics(client: Any, settings: Settings, needs: Needs) -> Iterator[str]:
    """The ACLs that are missing on topics, whether these are there or not."""
    names = {settings.topic(spec.name): spec.name for spec in TOPICS}
    for topic in client.describe_topics(list(names)):
        wanted = needs.of_topic(names[topic["name"]])
        # Older brokers do not say what is allowed; what is not is met later there.
        allowed = [] if topic["error_code"] == TOPIC_REFUSED else topic["authorized_operations"]
        missing = [] if allowed is None else [_word(word) for word in wanted if word not in allowed]
        if missing:
            yield f"{' and '.join(missing)} on topic {topic['name']}"


def _of_group(client: Any, group: str) -> Iterator[str]:
    """The ACL that is missing on a group; of one that is not there yet Kafka says only whether it may be seen."""
    try:
        (of_group,) = client.describe_groups([group]).values()
        allowed = of_group["authorized_operations"]
    except KafkaError as error:
        allowed = [] if number_of(error) == GROUP_REFUSED else None  # or the cluster has never had a group
    if allowed is not None and "READ" not in allowed:
        yield f"Read on group {group}"


def _of_transactions(client: Any, name: str) -> Iterator[str]:
    """The ACL that is missing on a transactional id, of which Kafka says only whether it may be seen."""
    try:
        client.describe_transactions([name])
    except KafkaError as error:
        if number_of(error) == TRANSACTION_REFUSED:
            yield f"Write on transactional id {name}"


def _word(operation: str) -> str:
    """As Kafka's own tools have it: DescribeConfigs for DESCRIBE_CONFIGS."""
    return operation.title().replace("_", "")
