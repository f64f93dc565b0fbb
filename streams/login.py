"""One try to log in, which says why it fails: clients that try again and again do not."""

import asyncio
import logging
import ssl

from aiokafka.conn import create_conn
from aiokafka.errors import KafkaError

from engine.errors import InputError
from streams.security import PAGE, REFUSALS, client_options, number_of, refused
from streams.settings import Settings

ANSWER_SECONDS_MAX = 3.0  # for one broker to take a connection and a login
CLOSING_SECONDS = 0.05  # for the connection of a login that was refused, which closes by and by

logging.getLogger("aiokafka").addHandler(logging.NullHandler())  # else what it warns of is a command's stderr


def refuse_bad_login(settings: Settings) -> None:
    """Raise InputError where TLS or the login fails; whoever does not answer at all is left to the client.

    kafka-python repeats a login that was refused until its time is over, and says no more than that it is over.
    """
    if settings.security_protocol == "PLAINTEXT":
        return
    try:
        _connect(settings)
    except (ssl.SSLError, ConnectionResetError) as error:
        raise _not_understood(settings, error) from error
    except KafkaError as error:
        if number_of(error):  # a broker's answer, and not that there was none
            raise refused(settings, error) from error
    except OSError:
        pass


def is_refusal(error: BaseException | None) -> bool:
    """Whether a client of a process that runs was told that it may not."""
    return isinstance(error, KafkaError) and number_of(error) in REFUSALS


def unanswered(settings: Settings) -> InputError:
    """What it means that no broker was heard of: nobody is there, or it speaks another protocol or another TLS."""
    place, protocol = f"Kafka at {settings.bootstrap}", settings.security_protocol
    try:
        _connect(settings)
    except (ssl.SSLError, ConnectionResetError, KafkaError) as error:
        return _not_understood(settings, error)
    except OSError:
        return InputError(
            f"{place} does not answer: start it, or name another with --bootstrap or FEEDLOOM_BOOTSTRAP"
        )
    login = "" if protocol.startswith("SASL_") else "whether its listener wants a login (sasl_username), "
    return InputError(
        f"{place} takes connections over {protocol} and then says no more: look at {login}its log, and whether the "
        "addresses that it advertises can be reached from here"
    )


def _not_understood(settings: Settings, error: Exception) -> InputError:
    place = f"Kafka at {settings.bootstrap}"
    if not isinstance(error, ssl.SSLCertVerificationError):
        own = settings.security_protocol.endswith("SSL") and settings.ssl_certfile is None
        hint = ", and ssl_certfile if it asks for a certificate" if own else ""
        return InputError(
            f"{place} takes connections and does not answer over {settings.security_protocol}: set "
            f"security_protocol to what its listener speaks{hint} (see {PAGE})"
        )
    return InputError(
        f"{place} has a certificate that ssl_cafile and ssl_check_hostname do not let pass: "
        f"{error.verify_message.rstrip('.')} (see {PAGE})"
    )


def _connect(settings: Settings) -> None:
    """Connect to the first broker that takes a connection, log in, and leave.

    Raises OSError, or KafkaError, of the last one that was tried.
    """
    *others, last = settings.bootstrap.split(",")
    for address in others:
        try:
            return asyncio.run(_connected(settings, address))
        except ssl.SSLError:
            raise
        except OSError:
            continue
    return asyncio.run(_connected(settings, last))


async def _connected(settings: Settings, address: str) -> None:
    host, _, port = address.strip().rpartition(":")
    if not host:
        host, port = port, "9092"  # as the clients take it
    opened = create_conn(host.strip("[]"), int(port), **client_options(settings))
    try:
        connection = await asyncio.wait_for(opened, ANSWER_SECONDS_MAX)
    except BaseException:
        await asyncio.sleep(CLOSING_SECONDS)
        raise
    await connection.close()
