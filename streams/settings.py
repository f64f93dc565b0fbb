"""Infrastructure, as typed data: brokers, paths and limits of one process. It is read once and never hot.

What a feed should be is the policy's; where and how much of a machine it may use is here.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from engine.errors import InputError
from streams.toml_file import read_toml

PREFIX = "FEEDLOOM_"  # of environment variables: FEEDLOOM_BOOTSTRAP is `bootstrap`
FILE = "settings.toml"  # in the working folder, or what FEEDLOOM_SETTINGS names


class Secret:
    """A text that is not shown: not when it is printed, nor in an error."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        """Raises ValueError for what is no text, without showing it."""
        if not isinstance(text, str):
            raise ValueError("a secret is a text: put it in quotes")
        self._text = text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def reveal(self) -> str:
        """The text."""
        return self._text


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Keys of `settings.toml`; an environment variable of the same name in capitals goes before the file."""

    bootstrap: str = "localhost:9092"  # brokers to begin with, host:port, separated by commas
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    sasl_username: str | None = None
    sasl_password: Secret | None = None  # better FEEDLOOM_SASL_PASSWORD than a file
    ssl_cafile: Path | None = None  # PEM; None trusts whom the machine trusts
    ssl_certfile: Path | None = None  # PEM, of this client, where brokers ask for one
    ssl_keyfile: Path | None = None  # PEM without a passphrase; None: it stands in ssl_certfile
    ssl_check_hostname: bool = True  # that the brokers' certificate is of the address they are reached at
    topic_prefix: str = "feedloom."
    group: str = "feedloom"  # of all workers of one product
    state_folder: Path = Path("feedloom-state")  # a store for each partition that this worker owns
    policy: Path | None = None  # TOML file; None is what the topic has, at first the default policy
    plug_ins: str = ""  # pools "module:Class" that a published policy may name, beside the file's; with commas
    requests_per_turn: int = 64  # a cycle answers at most so many requests of a partition,
    reactions_per_turn: int = 256  # then folds so many reactions
    value_bytes_max: int = 262_144  # of one request or reaction; more is a dead letter
    users_cached: int = 20_000  # decoded user states that a partition keeps in memory
    session_ms: int = 10_000  # a worker that is silent for so long has left
    keep_every_ms: int = 50  # between two write batches of state; what a kill loses is folded again
    keep_busy_ms: int = 250  # the same while reactions wait: the fewer batches, the sooner they are worked off
    checkpoint_every_ms: int = 3_000  # between two copies in Kafka of what has changed; a lost disk folds the rest
    offsets_every_ms: int = 1_000  # how often offsets are told to the broker; the worker's are for lag tools alone
    lags_every_ms: int = 5_000  # how often both lags of a partition are written to `metrics`
    http_host: str = "127.0.0.1"  # that a worker answers HTTP on, and nobody else's as long as there is no key
    http_port: int | None = None  # of a worker; None: it answers by topics alone
    api_key: Secret | None = None  # that HTTP clients show; None: nobody but this machine is answered
    operator_key: Secret | None = None  # to change the policy, undo or forget over HTTP; None: api_key does
    body_bytes_max: int = 1_048_576  # of one HTTP request
    http_rate_max: int = 5_000  # HTTP requests a second from one address
    http_pending_max: int = 1_000  # HTTP requests that wait for an answer at a time
    partitions: int = 1  # of the embedded engine's own topics
    fsync: Literal["always", "interval", "never"] = "interval"  # when the embedded log is put on the disk itself
    fsync_every_ms: int = 200  # by "interval": what a power cut can lose; a kill loses nothing
    segment_bytes: int = 67_108_864  # of a file of the embedded log
    retention_ms: int = 604_800_000  # how long the embedded log keeps requests, reactions and feeds; and copies
    backup_every_ms: int = 3_600_000  # between two copies of a state on the same disk

    def __post_init__(self) -> None:
        """Refuse limits of nothing."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, int) and not isinstance(value, bool) and value < 1:
                raise ValueError(f"{name} must be at least 1")
        if not (self.bootstrap and self.group):
            raise ValueError("bootstrap and group must not be empty")
        self._refuse_half_security()

    def _refuse_half_security(self) -> None:
        """Refuse what would be left out in silence: a login without SASL, certificates without TLS, and halves."""
        protocol = self.security_protocol
        if protocol.startswith("SASL_"):
            for name, value in (
                ("sasl_username", self.sasl_username),
                ("sasl_password", self.sasl_password and self.sasl_password.reveal()),
            ):
                if not value:
                    raise ValueError(f"security_protocol {protocol} needs {name}")
        elif self.sasl_username is not None or self.sasl_password is not None:
            raise ValueError(f"security_protocol {protocol} has no login: make it SASL_SSL or SASL_PLAINTEXT")
        if not protocol.endswith("SSL"):
            for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
                if getattr(self, name) is not None:
                    raise ValueError(f"security_protocol {protocol} has no use for {name}: make it SASL_SSL or SSL")
            if not self.ssl_check_hostname:
                raise ValueError(f"security_protocol {protocol} has no certificate whose name could be checked")
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise ValueError("ssl_keyfile needs ssl_certfile, whose key it is")

    @property
    def plug_in_kinds(self) -> frozenset[str]:
        """The kinds of `plug_ins`."""
        return frozenset(kind.strip() for kind in self.plug_ins.split(",") if kind.strip())

    def topic(self, name: str) -> str:
        """The full name of a topic."""
        return self.topic_prefix + name


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings of this process. Raises InputError naming the place and the reason."""
    named = environment.get(f"{PREFIX}SETTINGS")
    path = Path(named or FILE)
    values = read_toml(path, "settings") if named or path.exists() else {}
    values |= {
        field: environment[PREFIX + field.upper()]
        for field in Settings.__struct_fields__
        if PREFIX + field.upper() in environment
    }
    try:
        return msgspec.convert(values, Settings, strict=False, dec_hook=lambda kind, value: kind(value))
    except msgspec.ValidationError as error:
        raise InputError(f"settings ({path} and {PREFIX}*): {' '.join(str(error).split())}") from error
