"""The one table of topics, and what is done with it: making them, looking at them, and checking them.

kafka-python is known here, and to what stands on this: streams/tools.py, permissions.py and dead_letters.py.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Literal, NamedTuple

from kafka import KafkaAdminClient, OffsetSpec, TopicPartition
from kafka.admin import ConfigResource
from kafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError, for_code
from msgspec import Struct

from engine.errors import InputError
from streams.login import refuse_bad_login, unanswered
from streams.security import client_options, refused
from streams.settings import Settings

ANSWER_SECONDS_MAX = 5  # for brokers to be found; an operator looks at the screen meanwhile
REQUEST_MS_MAX = 10_000  # for one request to a broker that was found
MEBIBYTE = 1 << 20

CLEANUP, TIME, BYTES = "cleanup.policy", "message.timestamp.type", "max.message.bytes"  # Kafka's names
RETENTION, SEGMENT = "retention.ms", "segment.ms"
FOR_EVER_MS = 100 * 365 * 86_400_000  # whoever keeps it for longer means that
UNKNOWN_TOPIC, LEADER_NOT_AVAILABLE, ALREADY_EXISTS = 3, 5, 36  # Kafka's error codes


class TopicSpec(Struct, frozen=True):
    """One topic, as the design wants it; `key` says what a record of it is keyed by.

    Topics that are `split` have one partition count, which is the number of parts that users are divided into;
    the others have one partition, which everybody reads whole and in order.
    """

    name: str
    key: str
    writer: str
    cleanup: Literal["delete", "compact"]
    split: bool = False
    log_append_time: bool = False  # else Kafka's default stands
    value_bytes_max: int | None = None  # None: Kafka's default, 1 MiB

    @property
    def options(self) -> dict[str, str]:
        """What the topic's configuration must say."""
        wanted: dict[str, str] = {CLEANUP: self.cleanup}
        if self.log_append_time:
            wanted[TIME] = "LogAppendTime"
        if self.value_bytes_max:
            wanted[BYTES] = str(self.value_bytes_max)
        return wanted

    def partitions(self, parts: int) -> int:
        """How many partitions it has where users are divided into so many parts."""
        return parts if self.split else 1


TOPICS = (
    TopicSpec("requests", "user", "the product", "delete", split=True, log_append_time=True),
    TopicSpec("feedback", "user", "the product", "delete", split=True, log_append_time=True),
    TopicSpec("feeds", "user", "the worker", "delete", split=True, log_append_time=True),
    TopicSpec("propensities", "user", "the propensities job", "delete", split=True),
    TopicSpec("items", "item", "the product", "compact"),
    TopicSpec("models", "version", "the operator", "compact"),
    TopicSpec("policy", "revision", "the operator", "compact", log_append_time=True),
    # A population holds the neighbours of all items; so do a partition's sums.
    TopicSpec("population", "version", "the fitter", "compact", value_bytes_max=32 * MEBIBYTE),
    TopicSpec("erased", "user", "the worker", "compact"),
    TopicSpec("sums", "partition", "the worker", "compact", split=True, value_bytes_max=32 * MEBIBYTE),
    TopicSpec("checkpoints", "place in a store", "the worker", "compact", split=True),
    TopicSpec("alerts", "name", "the worker", "delete"),
    TopicSpec("metrics", "name", "the worker", "delete"),
    # Room for the largest record of another topic, and for the headers that say where it came from.
    TopicSpec("dead-letters", "key of the source", "the worker", "delete", value_bytes_max=2 * MEBIBYTE),
)


class Created(Struct, frozen=True):
    """What `create` did: topics `made`, options `repaired` by topic, and topics that were `there` as wanted."""

    made: list[str]
    repaired: dict[str, dict[str, str]]
    there: list[str]


class TopicRow(Struct, frozen=True):
    """One topic as it is; `begin` and `end` are summed over its partitions, and `problem` says what to do.

    A topic that is missing has no partitions.
    """

    topic: str
    partitions: int = 0
    replication: int = 0
    cleanup: str = ""
    timestamp_type: str = ""
    begin: int = 0
    end: int = 0
    problem: str | None = None


class _Found(NamedTuple):
    partitions: int
    replication: int
    options: dict[str, str]


@contextmanager
def connection(client: Callable[..., Any], settings: Settings, **options: object) -> Iterator[Any]:
    """A client of kafka-python for as long as the block lasts; what it raises becomes an InputError."""
    found = {"bootstrap_servers": settings.bootstrap, "bootstrap_timeout_ms": 1000 * ANSWER_SECONDS_MAX}
    found |= client_options(settings)
    try:
        try:
            refuse_bad_login(settings)
            opened = client(**found, **options)
        except InputError:
            raise
        except ValueError as error:  # of a port that is no number
            raise InputError(f"{settings.bootstrap} is no address of a broker: give host:port") from error
        with closing(opened):
            yield opened
    except (KafkaTimeoutError, KafkaConnectionError) as error:
        raise unanswered(settings) from error
    except KafkaError as error:
        raise refused(settings, error) from error


def create(settings: Settings, partitions: int, replication: int) -> Created:
    """Make the topics that are missing, and set the options of those that are there; again it does nothing.

    Raises InputError, before anything is made, when a topic has another partition count.
    """
    with connection(KafkaAdminClient, settings, request_timeout_ms=REQUEST_MS_MAX) as client:
        before = _found(client, settings)
        _refuse_other_counts(settings, before, partitions)
        missing = [spec for spec in TOPICS if spec.name not in before]
        if missing:
            _make(client, settings, missing, partitions, replication)
        found = _found(client, settings)
        _refuse_other_counts(settings, found, partitions)  # somebody else may have made them meanwhile
        repaired = _repair(client, settings, found)
        _wait_until_set(client, settings)
    made = [settings.topic(spec.name) for spec in missing]
    there = [settings.topic(name) for name in before if settings.topic(name) not in repaired]
    return Created(made, repaired, there)


def describe(settings: Settings) -> list[TopicRow]:
    """Every topic of the table as it is, in the table's order."""
    with connection(KafkaAdminClient, settings, request_timeout_ms=REQUEST_MS_MAX) as client:
        found = _found(client, settings)
        begins = _offset_sums(client, settings, found, OffsetSpec.EARLIEST)
        ends = _offset_sums(client, settings, found, OffsetSpec.LATEST)
    rows = []
    for spec in TOPICS:
        topic, problem = settings.topic(spec.name), _problem(spec, found)
        if spec.name not in found:
            rows.append(TopicRow(topic, problem=problem))
            continue
        is_ = found[spec.name]
        options, offsets = (is_.options[CLEANUP], is_.options[TIME]), (begins[spec.name], ends[spec.name])
        rows.append(TopicRow(topic, is_.partitions, is_.replication, *options, *offsets, problem))
    return rows


def check(settings: Settings) -> int:
    """The number of parts that users are divided into. Raises InputError for the first topic with a problem."""
    rows = describe(settings)
    for row in rows:
        if row.problem:
            raise InputError(f"topic {row.topic} {row.problem}")
    return rows[0].partitions


def retention_ms(settings: Settings, names: Sequence[str]) -> int | None:
    """How long the longest of these topics keeps what it has, with all of its segment; None if that is for ever."""
    with connection(KafkaAdminClient, settings, request_timeout_ms=REQUEST_MS_MAX) as client:
        topics = [settings.topic(name) for name in names]
        asked = [ConfigResource("topic", name, {RETENTION: None, SEGMENT: None}) for name in topics]
        configs = client.describe_configs(asked, config_filter="all")["topic"]
    kept = [int(configs[name][RETENTION]["value"]) for name in topics]
    longest = max(kept) + max(int(configs[name][SEGMENT]["value"]) for name in topics)
    return None if min(kept) < 0 or longest > FOR_EVER_MS else longest


def partition_count(settings: Settings, name: str) -> int:
    """How many partitions a topic has. Raises InputError when it is missing."""
    with connection(KafkaAdminClient, settings, request_timeout_ms=REQUEST_MS_MAX) as client:
        there = _partitions_there(client, [settings.topic(name)])
    if not there:
        raise InputError(f"topic {settings.topic(name)} is missing: `feedloom topics create` makes it")
    return len(there[settings.topic(name)])


def topic_ids(settings: Settings, names: Sequence[str]) -> dict[str, str]:
    """Kafka's own ids of topics, by short name: a topic that is made anew has another one.

    A topic that is missing has none, nor has any with brokers from before Kafka 2.8.
    """
    full = {settings.topic(name): name for name in names}
    with connection(KafkaAdminClient, settings, request_timeout_ms=REQUEST_MS_MAX) as client:
        described = client.describe_topics(list(full))
    found = {full[topic["name"]]: topic.get("topic_id") for topic in described if topic["name"] in full}
    return {name: str(number) for name, number in found.items() if number and set(str(number)) - set("0-")}


def _partitions_there(client: Any, names: list[str]) -> dict[str, list[dict[str, Any]]]:
    """What Kafka says of each partition, for every topic that is there."""
    there = {}
    for topic in client.describe_topics(names):
        if topic["error_code"] in (0, LEADER_NOT_AVAILABLE):
            there[topic["name"]] = topic["partitions"]
        elif topic["error_code"] != UNKNOWN_TOPIC:
            raise for_code(topic["error_code"])(topic["name"])
    return there


def _found(client: Any, settings: Settings) -> dict[str, _Found]:
    """The topics that are there, by their short names."""
    names = {settings.topic(spec.name): spec.name for spec in TOPICS}
    there = _partitions_there(client, list(names))
    if not there:
        return {}
    asked = [ConfigResource("topic", name, dict.fromkeys((CLEANUP, TIME, BYTES))) for name in there]
    configs = client.describe_configs(asked, config_filter="all")["topic"]
    return {
        short: _Found(
            len(there[name]),
            min(len(partition["replica_nodes"]) for partition in there[name]),
            {option: entry["value"] for option, entry in configs[name].items()},
        )
        for name, short in names.items()
        if name in there
    }


def _make(client: Any, settings: Settings, specs: list[TopicSpec], parts: int, replication: int) -> None:
    wanted = {
        settings.topic(spec.name): {
            "num_partitions": spec.partitions(parts),
            "replication_factor": replication,
            "configs": spec.options,
        }
        for spec in specs
    }
    for topic in client.create_topics(wanted, raise_errors=False)["topics"]:
        if topic["error_code"] not in (0, ALREADY_EXISTS):
            reason = topic["error_message"] or for_code(topic["error_code"]).description
            raise InputError(f"Kafka did not make topic {topic['name']}: {reason}")
    client.wait_for_topics(list(wanted), timeout_ms=REQUEST_MS_MAX)


def _repair(client: Any, settings: Settings, found: dict[str, _Found]) -> dict[str, dict[str, str]]:
    """Set the options that are not as wanted; returns these."""
    wanted = _unsuited_topics(settings, found)
    if wanted:
        asked = [ConfigResource("topic", name, dict(options)) for name, options in wanted.items()]
        for name, result in client.alter_configs(asked)["topic"].items():
            if result != "OK":
                raise InputError(f"Kafka did not set {wanted[name]} on topic {name}: {result}")
    return wanted


def _wait_until_set(client: Any, settings: Settings) -> None:
    """A broker may see an option a moment after the controller has taken it."""
    end = time.monotonic() + REQUEST_MS_MAX / 1000
    while unsuited := _unsuited_topics(settings, _found(client, settings)):
        if time.monotonic() > end:
            raise InputError(f"Kafka took {unsuited} and does not show it: look at `feedloom topics describe`")
        time.sleep(0.05)


def _unsuited_topics(settings: Settings, found: dict[str, _Found]) -> dict[str, dict[str, str]]:
    """The options that are not as wanted, by full name of the topic."""
    return {
        settings.topic(spec.name): unsuited
        for spec in TOPICS
        if spec.name in found and (unsuited := _unsuited(spec, found[spec.name]))
    }


def _unsuited(spec: TopicSpec, found: _Found) -> dict[str, str]:
    """The options that are not as wanted, with the values wanted."""
    return {
        option: wanted
        for option, wanted in spec.options.items()
        # More room than we ask for is the operator's choice.
        if (int(found.options[BYTES]) < int(wanted) if option == BYTES else found.options[option] != wanted)
    }


def _refuse_other_counts(settings: Settings, found: dict[str, _Found], parts: int) -> None:
    for spec in TOPICS:
        if spec.name in found and (other := _other_count(spec, found[spec.name], parts)):
            remedy = f"give --partitions {found[spec.name].partitions}" if spec.split else "delete it"
            raise InputError(f"topic {settings.topic(spec.name)} {other}: {remedy}, or choose another topic_prefix")


def _other_count(spec: TopicSpec, found: _Found, parts: int) -> str | None:
    wanted = spec.partitions(parts)
    if found.partitions == wanted:
        return None
    return f"has {found.partitions} partition{'s'[: found.partitions != 1]} where {wanted} must be"


def _problem(spec: TopicSpec, found: dict[str, _Found]) -> str | None:
    """What is wrong with a topic and what to do, in words that follow its name."""
    if spec.name not in found:
        return "is missing: `feedloom topics create` makes it"
    split = [found[other.name].partitions for other in TOPICS if other.split and other.name in found]
    if other := _other_count(spec, found[spec.name], split[0] if split else 1):
        return f"{other}: delete it and run `feedloom topics create`, or choose another topic_prefix for all"
    unsuited = _unsuited(spec, found[spec.name])
    if not unsuited:
        return None
    options = found[spec.name].options
    differing = [f"{option}={options[option]} where {wanted} must be" for option, wanted in unsuited.items()]
    return f"has {', '.join(differing)}: `feedloom topics create` sets it"


def _offset_sums(client: Any, settings: Settings, found: dict[str, _Found], spec: OffsetSpec) -> dict[str, int]:
    """First or next offsets, summed over each topic's partitions, by short name."""
    names = {settings.topic(name): name for name in found}
    asked = {TopicPartition(name, part): spec for name in names for part in range(found[names[name]].partitions)}
    sums = dict.fromkeys(found, 0)
    for place, answer in (client.list_partition_offsets(asked) if asked else {}).items():
        sums[names[place.topic]] += answer.offset
    return sums
