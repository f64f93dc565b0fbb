"""A cluster that wants TLS and a login, for tests: its certificate, its users, and the ACLs they are given."""

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

    def __init__(self, running: Cluster, cafile: Path) -> None:
        self.cluster = running
        self.cafile = cafile

    def settings(self, user: str, prefix: str, **changed) -> Settings:
        """Settings of one user, whose topics and groups begin with a prefix."""
        return Settings(
            **{
                "bootstrap": self.cluster.login_bootstrap,
                "security_protocol": "SASL_SSL",
                "sasl_username": user,
                "sasl_password": Secret(USERS[user]),
                "ssl_cafile": self.cafile,
                "topic_prefix": prefix,
                "group": prefix + "group",
                **changed,
            }
        )


@contextmanager
def secured_cluster(folder: Path) -> Iterator[Secured]:
    """One broker with a certificate that is made for it."""
    keystore, cafile = certificate(folder)
    with cluster(login=Login(keystore, STORE_PASSWORD, USERS, "admin")) as running:
        yield Secured(running, cafile)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A key for 127.0.0.1 in a keystore, signed by itself, and its certificate in PEM, made by Java's keytool."""
    keystore, cafile = folder / "broker.p12", folder / "ca.pem"
    store = ["-keystore", keystore, "-storepass", STORE_PASSWORD, "-alias", "broker"]
    made = ["-keyalg", "EC", "-dname", "CN=broker", "-validity", "2", "-storetype", "PKCS12"]
    extensions = ["bc:critical=ca:true", "ku:critical=keyCertSign,digitalSignature", "san=ip:127.0.0.1"]
    flags = [flag for extension in extensions for flag in ("-ext", extension)]
    subprocess.run(["keytool", "-genkeypair", *made, *flags, *store], check=True, capture_output=True)
    subprocess.run(["keytool", "-exportcert", "-rfc", "-file", cafile, *store], check=True, capture_output=True)
    return keystore, cafile


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
