"""How this process shows the brokers who it is: one set of options for all Kafka clients, and what refusals mean.

aiokafka, kafka-python and Faust take the same options, so nobody else reads the settings of this.
"""

import re
import ssl
from typing import Any

from engine.errors import InputError
from streams.settings import Settings

PAGE = "docs/security.md"
# Kafka's numbers of errors, which all clients use.
TOPIC_REFUSED, GROUP_REFUSED, CLUSTER_REFUSED, TRANSACTION_REFUSED = 29, 30, 31, 53
NO_SUCH_MECHANISM, LOGIN_REFUSED = 33, 58
REFUSALS = (TOPIC_REFUSED, GROUP_REFUSED, CLUSTER_REFUSED, TRANSACTION_REFUSED, NO_SUCH_MECHANISM, LOGIN_REFUSED)
KINDS = {TOPIC_REFUSED: "topic", GROUP_REFUSED: "group", TRANSACTION_REFUSED: "transactional id"}


def client_options(settings: Settings) -> dict[str, Any]:
    """What a client of aiokafka or kafka-python needs to log in. Raises InputError naming a file that is no use."""
    options: dict[str, Any] = {"security_protocol": settings.security_protocol}
    if (context := tls_context(settings)) is not None:
        options["ssl_context"] = context
    if settings.sasl_password is not None:
        options["sasl_mechanism"] = settings.sasl_mechanism
        options["sasl_plain_username"] = settings.sasl_username
        options["sasl_plain_password"] = settings.sasl_password.reveal()
    return options


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Whom we trust, and our own certificate if there is one; None without TLS."""
    if not settings.security_protocol.endswith("SSL"):
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ssl_cafile)
    except OSError as error:  # of which ssl's errors are one
        raise InputError(f"ssl_cafile {settings.ssl_cafile} is no file of certificates in PEM: {error}") from error
    context.check_hostname = settings.ssl_check_hostname
    if settings.ssl_certfile is not None:
        try:
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, password=_no_passphrase)
        except OSError as error:
            files = " and ".join(str(path) for path in (settings.ssl_certfile, settings.ssl_keyfile) if path)
            raise InputError(f"{files} do not make a certificate and its key in PEM: {error}") from error
    return context


def _no_passphrase() -> str:
    """Instead of a question to a terminal that a worker may not have."""
    raise InputError("the key of ssl_certfile has a passphrase: give ssl_keyfile one without")


def user_of(settings: Settings) -> str:
    """Whom brokers see, in words."""
    return f"user {settings.sasl_username}" if settings.sasl_username else "this client, which does not log in"


def refused(settings: Settings, error: Exception) -> InputError:
    """What a client's error means for whoever runs it; what it is about is named, and no secret is."""
    place, number = f"Kafka at {settings.bootstrap}", number_of(error)
    if number == LOGIN_REFUSED:
        return InputError(
            f"{place} refused the login of {user_of(settings)} with {settings.sasl_mechanism}: "
            "look at sasl_username and sasl_password, or have the user made"
        )
    if number == NO_SUCH_MECHANISM:
        return InputError(f"{place} does not take {settings.sasl_mechanism}: choose another sasl_mechanism")
    if number == CLUSTER_REFUSED:  # what a producer is told that may write to no topic at all
        return InputError(f"{place} lets {user_of(settings)} write nothing: grant it the ACLs of {PAGE}")
    if number in KINDS:
        about = _named(error.args[0] if error.args else "")
        return InputError(
            f"{place} does not let {user_of(settings)} do this with {KINDS[number]} {about}".rstrip()
            + f": grant it the ACLs of {PAGE}"
        )
    reason = getattr(error, "description", "") or str(error)
    return InputError(f"{place} refused ({type(error).__name__}): {reason}")


def number_of(error: Exception) -> int | None:
    """Kafka's number of an error, which is in its text where a client wraps it; None if it has none."""
    number = getattr(error, "errno", None)
    found = re.search(r"\[Error (\d+)\]", str(error))
    return int(number) if number else int(found[1]) if found else None


def _named(about: object) -> str:
    """The names in an error: one, or some of a set."""
    if isinstance(about, set | frozenset | list | tuple):
        return ", ".join(sorted(map(str, about))[:3])
    return str(about)
