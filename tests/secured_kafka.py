"""A cluster that wants TLS and a login, for tests: its certificate, its users, and the ACLs they are given."""

import base64
import hashlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern
from kafka.admin import ACLResourcePatternType as Pattern
from kafka.admin import ResourceType as Kind

from scripts.kafka_broker import Cluster, Login, cluster
from streams.security import client_options
from streams.settings import Secret, Settings

PAGE = (Path(__file__).parent.parent / "docs" / "security.md").read_text()
USERS = {name: f"pass-{name}-word" for name in ("admin", "operator", "product", "worker", "job", "nobody")}
STORE_PASSWORD = "only-for-tests"  # of a key that is made for one run


class Secured:
    """The cluster, and settings of its users."""

    def __init__(self, running: Cluster, cafile: Path, keyfile: Path) -> None:
        self.cluster = running
        self.cafile = cafile
        self.keyfile = keyfile

    def settings(self, user: str, prefix: str, **changed) -> Settings:
        """Settings of one user, whose topics and groups begin with a prefix."""
        return Settings(
            **{
                "bootstrap": self.cluster.login_bootstrap,
                "security_protocol": "SASL_SSL",
                "sasl_username": user,
                "sasl_password": Secret(USERS[user]),
                "ssl_cafile": self.cafile,
                "ssl_certfile": self.cafile,  # it is signed by itself
                "ssl_keyfile": self.keyfile,
                "topic_prefix": prefix,
                "group": prefix + "group",
                **changed,
            }
        )


@contextmanager
def secured_cluster(folder: Path) -> Iterator[Secured]:
    """One broker with a certificate that is made for it."""
    keystore, cafile, keyfile = certificate(folder)
    with cluster(login=Login(keystore, STORE_PASSWORD, USERS, "admin")) as running:
        yield Secured(running, cafile, keyfile)


def certificate(folder: Path) -> tuple[Path, Path, Path]:
    """A key for 127.0.0.1 in a keystore, its certificate, signed by itself, in PEM, and the key in PEM.

    Java's keytool makes them.
    """
    keystore, cafile, keyfile = folder / "broker.jks", folder / "ca.pem", folder / "key.pem"
    store = ["-keystore", keystore, "-storepass", STORE_PASSWORD, "-alias", "broker"]
    made = ["-keyalg", "EC", "-dname", "CN=broker", "-validity", "2", "-storetype", "JKS"]
    extensions = ["bc:critical=ca:true", "ku:critical=keyCertSign,digitalSignature", "san=ip:127.0.0.1"]
    made += [flag for extension in extensions for flag in ("-ext", extension)]
    made += ["-keypass", STORE_PASSWORD]
    subprocess.run(["keytool", "-genkeypair", *made, *store], check=True, capture_output=True)
    subprocess.run(["keytool", "-exportcert", "-rfc", "-file", cafile, *store], check=True, capture_output=True)
    body = base64.encodebytes(private_key(keystore.read_bytes(), STORE_PASSWORD)).decode()
    keyfile.write_text(f"-----BEGIN PRIVATE KEY-----\n{body}-----END PRIVATE KEY-----\n")
    return keystore, cafile, keyfile


def private_key(store: bytes, password: str) -> bytes:
    """The first key of a JKS keystore, in PKCS 8: keytool shows certificates, and no keys.

    Behind 16 bytes of magic, version, count and tag come the alias (its length in 2 bytes), a time (8 bytes) and
    the key (its length in 4 bytes). This ends with a salt, the key XORed with a chain of SHA-1 over password and
    salt, and a check; salt and check have 20 bytes.
    """
    begin = 16 + 2 + int.from_bytes(store[16:18], "big") + 8
    entry = store[begin + 4 :][: int.from_bytes(store[begin : begin + 4], "big")]
    secret = password.encode("utf-16-be")
    # The entry is a sequence of an algorithm and of an octet string, whose length is in its header.
    header = 2 + max(entry[1] - 0x80, 0) if entry[1] > 0x7F else 2
    octets = entry[header + 2 + entry[header + 1] :]
    octets = octets[2 + (octets[1] - 0x80 if octets[1] > 0x7F else 0) :]
    link, hidden, key = octets[:20], octets[20:-20], b""
    while len(key) < len(hidden):
        link = hashlib.sha1(secret + link).digest()
        key += bytes(one ^ other for one, other in zip(hidden[len(key) :], link, strict=False))
    return key


def acls_of_page(user: str, prefix: str, group: str) -> list[ACL]:
    """The ACLs that the commands of docs/security.md give to a user, for topics and groups of other names."""
    found = []
    text = PAGE.replace("\\\n", " ").replace("feedloom.", prefix)
    for line in re.findall(r"^kafka-acls.*", text, re.MULTILINE):
        words = shlex.split(line)
        given: dict[str, list[str]] = {}
        for flag, value in pairwise(words):
            if flag.startswith("--"):
                given.setdefault(flag, []).append(value)
        if given["--allow-principal"] == [f"User:feedloom-{user}"]:
            found += list(_acls(user, given, group))
    return found


def _acls(user: str, given: dict[str, list[str]], group: str) -> Iterator[ACL]:
    kinds = {"--topic": Kind.TOPIC, "--group": Kind.GROUP, "--transactional-id": Kind.TRANSACTIONAL_ID}
    pattern = Pattern.PREFIXED if given.get("--resource-pattern-type") == ["prefixed"] else Pattern.LITERAL
    for flag, kind in kinds.items():
        for name in given.get(flag, []):
            own = re.sub("^feedloom(?=$|-)", group, name)
            for operation in given["--operation"]:
                allowed = ACLOperation[re.sub("(?<=[a-z])(?=[A-Z])", "_", operation).upper()]
                where = ResourcePattern(kind, own, pattern)
                yield ACL(f"User:{user}", "*", allowed, ACLPermissionType.ALLOW, where)


def admin_of(settings: Settings) -> KafkaAdminClient:
    """A client for what the commands do not do."""
    return KafkaAdminClient(bootstrap_servers=settings.bootstrap, **client_options(settings))
