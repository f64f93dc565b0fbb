"""A cluster with TLS, logins and ACLs: who has what docs/security.md lists can work, and nobody else writes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth
from kafka.admin import ACL, ACLFilter, ACLOperation, ACLPermissionType, ResourcePattern, ResourcePatternFilter
from kafka.admin import ACLResourcePatternType as Pattern
from kafka.admin import ResourceType as Kind
from kafka.admin import UserScramCredentialUpsertion as Credential
from kafka_product import wait_until
from secured_kafka import USERS, Secured, acls_of_page, admin_of, secured_cluster
from test_cli import call

from engine.errors import InputError
from streams.hosting import credentials
from streams.permissions import PROPENSITIES, WORKER, Needs, ready
from streams.security import client_options
from streams.settings import Secret, Settings, read_settings
from streams.tools import send, tail
from streams.topics import TOPICS, create, describe
from streams.values import Keyed

Environment = pytest.MonkeyPatch
REQUEST = (
    b'{"kind":"request","request_id":"r-1","user":"ada","slots":2,"candidates":{"editors":["film-7","film-2"]}}'
)
HIDDEN = "a word that nobody sees"
LOGIN = {"security_protocol": "SASL_SSL", "sasl_username": "ada", "sasl_password": HIDDEN}


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured_cluster(tmp_path_factory.mktemp("secured")) as running:
        yield running


needs_cluster = [
    pytest.mark.kafka,
    pytest.mark.skipif("KAFKA_BOOTSTRAP" in os.environ, reason="the brokers are not ours to start"),
]


def on_cluster(test):
    """A test that needs the cluster with logins."""
    for mark in needs_cluster:
        test = mark(test)
    return test


@pytest.fixture
def prefix() -> str:
    return f"t{uuid4().hex[:8]}."


def environment(settings: Settings) -> dict[str, str]:
    """The variables that make these settings."""
    secret = settings.sasl_password.reveal() if settings.sasl_password else None
    named = ["bootstrap", "security_protocol", "sasl_mechanism", "sasl_username", "group", "topic_prefix"]
    named += ["ssl_cafile", "ssl_certfile", "ssl_keyfile"]
    given = {name: getattr(settings, name) for name in named} | {"sasl_password": secret}
    return {f"FEEDLOOM_{name.upper()}": str(value) for name, value in given.items() if value is not None}


def become(monkeypatch: Environment, settings: Settings) -> None:
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)


def grant(secured: Secured, prefix: str, *users: str) -> None:
    """Give users what the page says."""
    settings = secured.settings("admin", prefix)
    acls = [acl for user in users for acl in acls_of_page(user, prefix, settings.group)]
    admin = admin_of(settings)
    done = admin.create_acls(acls)
    admin.close()
    assert (len(done["succeeded"]), done["failed"]) == (len(acls), [])


# What is refused before anybody is asked.


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"security_protocol": "SASL_SSL"}, "security_protocol SASL_SSL needs sasl_username"),
        ({**LOGIN, "sasl_username": ""}, "security_protocol SASL_SSL needs sasl_username"),
        ({**LOGIN, "sasl_password": ""}, "security_protocol SASL_SSL needs sasl_password"),
        ({"sasl_username": "ada"}, "PLAINTEXT has no login: make it SASL_SSL or SASL_PLAINTEXT"),
        ({**LOGIN, "security_protocol": "SSL"}, "SSL has no login: make it SASL_SSL or SASL_PLAINTEXT"),
        ({"ssl_cafile": "ca.pem"}, "PLAINTEXT has no use for ssl_cafile: make it SASL_SSL or SSL"),
        ({**LOGIN, "security_protocol": "SASL_PLAINTEXT", "ssl_certfile": "c"}, "has no use for ssl_certfile"),
        ({"ssl_check_hostname": "false"}, "PLAINTEXT has no certificate whose name could be checked"),
        ({"security_protocol": "SSL", "ssl_keyfile": "k"}, "ssl_keyfile needs ssl_certfile, whose key it is"),
        ({**LOGIN, "sasl_mechanism": "GSSAPI"}, "Invalid enum value 'GSSAPI' - at `$.sasl_mechanism`"),
        ({**LOGIN, "security_protocol": "sasl_ssl"}, "Invalid enum value 'sasl_ssl'"),
    ],
)
def test_half_of_a_login_or_of_tls_is_refused_in_one_sentence(given: Mapping[str, str], said: str) -> None:
    with pytest.raises(InputError) as raised:
        read_settings({f"FEEDLOOM_{name.upper()}": value for name, value in given.items()})
    assert said in str(raised.value)
    assert HIDDEN not in str(raised.value)


def test_a_password_is_not_shown_by_what_holds_it(tmp_path: Path) -> None:
    settings = read_settings({f"FEEDLOOM_{name.upper()}": value for name, value in LOGIN.items()})
    assert settings.sasl_password == Secret(HIDDEN)
    assert HIDDEN not in f"{settings} {settings!r} {settings.sasl_password} {settings.sasl_password!r}"
    file = tmp_path / "settings.toml"
    file.write_text("sasl_password = 4711")
    with pytest.raises(InputError, match="a secret is a text") as raised:
        read_settings({"FEEDLOOM_SETTINGS": str(file)})
    assert "4711" not in str(raised.value)


@pytest.mark.parametrize(
    ("file", "said"),
    [("no-such.pem", "No such file"), ("empty.pem", "is no file of certificates in PEM")],
)
def test_a_file_of_certificates_that_is_none_is_named(tmp_path: Path, file: str, said: str) -> None:
    (tmp_path / "empty.pem").touch()
    with pytest.raises(InputError, match=f"ssl_cafile .*{file} .*{said}|ssl_cafile .*{file} {said}"):
        describe(Settings(security_protocol="SSL", ssl_cafile=tmp_path / file))


def test_a_certificate_of_ones_own_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    settings = Settings(security_protocol="SSL", ssl_certfile=tmp_path / "empty.pem", ssl_keyfile=tmp_path / "none")
    with pytest.raises(InputError, match=r"empty.pem and .*none do not make a certificate and its key in PEM"):
        describe(settings)


@on_cluster
def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(secured: Secured, tmp_path: Path) -> None:
    locked = tmp_path / "locked.pem"
    header = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00112233445566778899AABBCCDDEEFF"
    locked.write_text(f"-----BEGIN EC PRIVATE KEY-----\n{header}\n\nAAAA\n-----END EC PRIVATE KEY-----\n")
    settings = Settings(security_protocol="SSL", ssl_certfile=secured.cafile, ssl_keyfile=locked)
    with pytest.raises(InputError, match="has a passphrase: give ssl_keyfile one without"):
        describe(settings)


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"])
def test_fausts_own_client_is_given_what_all_others_are(protocol: str) -> None:
    login = {"sasl_username": "ada", "sasl_password": Secret(HIDDEN), "sasl_mechanism": "SCRAM-SHA-256"}
    settings = Settings(security_protocol=protocol, **(login if protocol.startswith("SASL") else {}))
    ours, fausts = client_options(settings), dict(credentials_to_aiokafka_auth(credentials(settings)))
    assert (fausts.pop("ssl_context", None) is None) == (ours.pop("ssl_context", None) is None)
    assert fausts == ours


@pytest.mark.parametrize(("user", "needs"), [("worker", WORKER), ("job", PROPENSITIES)])
def test_the_page_grants_what_is_asked_for_and_no_more(user: str, needs: Needs) -> None:
    granted = {
        (acl.resource_pattern.resource_name, acl.operation.name)
        for acl in acls_of_page(user, "", "g")
        if acl.resource_pattern.resource_type is Kind.TOPIC and acl.resource_pattern.pattern_type is Pattern.LITERAL
    }
    wanted = {(spec.name, word) for spec in TOPICS for word in needs.of_topic(spec.name)}
    assert granted == {(name, word) for name, word in wanted if word in ("READ", "WRITE")}
    prefixed = {
        (acl.resource_pattern.resource_type, acl.operation.name)
        for acl in acls_of_page(user, "t.", "g")
        if acl.resource_pattern.pattern_type is Pattern.PREFIXED
    }
    assert {(Kind.TOPIC, "DESCRIBE"), (Kind.TOPIC, "DESCRIBE_CONFIGS")} <= prefixed


# Who has the ACLs of the page.


@contextmanager
def process(settings: Settings, folder: Path, *command: str) -> Iterator[tuple[subprocess.Popen, Path]]:
    """One of our processes with the settings of a user, and its log."""
    log = folder / f"{command[0]}-{uuid4().hex[:4]}.log"
    given = {**os.environ, **environment(settings), "FEEDLOOM_SESSION_MS": "1000"}
    given |= {"FEEDLOOM_STATE_FOLDER": str(folder / "state"), "FEEDLOOM_LAGS_EVERY_MS": "300"}
    with log.open("wb") as output:
        started = subprocess.Popen(
            [sys.executable, "-m", "feedloom", *command], stdout=output, stderr=output, env=given
        )
    try:
        yield started, log
    finally:
        if started.poll() is None:
            started.kill()
        started.wait()


def values(settings: Settings, topic: str) -> list[dict]:
    return [json.loads(bytes(record.value)) for record in tail(settings, topic, "earliest", follow=False)]


def forbid_reading(secured: Secured, prefix: str, *users: str) -> None:
    """Take from users what of the page lets them read."""
    settings = secured.settings("admin", prefix)
    admin = admin_of(settings)
    acls = [acl for user in users for acl in acls_of_page(user, prefix, settings.group)]
    admin.delete_acls([as_filter(acl) for acl in acls if acl.operation is ACLOperation.READ])
    admin.close()


@on_cluster
def test_with_the_acls_of_the_page_a_request_is_answered_and_its_propensities_are_written(
    secured: Secured, prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Environment
) -> None:
    """Operator, product and job log in with PLAIN, the worker with SCRAM. A letter goes there and back.

    In the end worker and job lose their ACLs, and end with one sentence.
    """
    grant(secured, prefix, "operator", "product", "worker", "job")
    admin = admin_of(secured.settings("admin", prefix))
    assert admin.alter_user_scram_credentials([Credential("worker", "SCRAM-SHA-512", USERS["worker"])]) == {
        "worker": None
    }
    admin.close()
    product = secured.settings("product", prefix)
    become(monkeypatch, secured.settings("operator", prefix))
    code, out, error = call(capsys, monkeypatch, "topics", "create", "--partitions", "1", "--json")
    assert (code, error, len(json.loads(out)["made"])) == (0, "", len(TOPICS))
    assert call(capsys, monkeypatch, "topics", "describe")[0] == 0
    (tmp_path / "requests.jsonl").write_bytes(REQUEST)
    become(monkeypatch, product)
    code, _, error = call(capsys, monkeypatch, "send", "requests", str(tmp_path / "requests.jsonl"))
    assert (code, error) == (0, "")
    assert send(product, "feedback", [Keyed("ada", b"no reaction")]) == {0: 1}
    (tmp_path / "policy.toml").write_text('[pools.editors]\nkind = "external"\n')
    by_scram = secured.settings("worker", prefix, sasl_mechanism="SCRAM-SHA-512")
    policy = ("--policy", str(tmp_path / "policy.toml"))
    all_of_it = secured.settings("admin", prefix)
    with (
        process(by_scram, tmp_path, "worker", *policy, "--log-level", "DEBUG") as (worker, log),
        process(secured.settings("job", prefix), tmp_path, "propensities", "--log-level", "DEBUG") as (
            job,
            job_log,
        ),
    ):
        wait_until(lambda: values(product, "feeds"), log.read_text)
        wait_until(lambda: values(all_of_it, "propensities"), job_log.read_text)
        wait_until(lambda: values(all_of_it, "metrics"), log.read_text)
        (feed,) = values(product, "feeds")
        assert feed["slot_items"] == ["film-7", "film-2"]
        assert values(all_of_it, "propensities")[0]["request_id"] == "r-1"
        told = {"worker": log.read_text(), "job": job_log.read_text()}
        forbid_reading(secured, prefix, *told)
        for running, of in ((worker, log), (job, job_log)):
            assert running.wait(20) == 2, of.read_text()[-3000:]
    for of, user in ((log, "worker"), (job_log, "job")):
        assert "uthorization" not in told[user], told[user][-3000:]
        assert USERS[user] not in of.read_text()
        assert "Traceback" not in of.read_text()
        last = of.read_text().splitlines()[-1]
        assert last.startswith("feedloom: Kafka at ")
        assert f"does not let user {user} do this with" in last
    become(monkeypatch, secured.settings("operator", prefix))
    code, out, error = call(capsys, monkeypatch, "tail", "dead-letters")
    assert (code, error) == (0, "")
    assert {json.loads(line)["headers"]["feedloom.topic"] for line in out.splitlines()} == {"feedback"}
    (tmp_path / "mended.json").write_bytes(b'{"kind":"tick"}')
    mended = ("--offset", "0:0", "--value", str(tmp_path / "mended.json"))
    code, out, error = call(capsys, monkeypatch, "dead-letters", "resend", *mended)
    assert (code, error) == (0, "")
    assert "is sent: feedback 0:" in out


@on_cluster
@pytest.mark.parametrize("needs", [WORKER, PROPENSITIES], ids=["worker", "job"])
def test_each_acl_that_is_missing_is_named_before_anything_begins(
    secured: Secured, prefix: str, needs: Needs
) -> None:
    user = "worker" if needs is WORKER else "job"
    settings = secured.settings(user, prefix)
    create(secured.settings("admin", prefix), 1, 1)
    grant(secured, prefix, user)
    wait_until(lambda: not lacking(settings, needs))
    admin = admin_of(secured.settings("admin", prefix))
    for acl in acls_of_page(user, prefix, settings.group):
        where = acl.resource_pattern
        if where.pattern_type is Pattern.PREFIXED and acl.operation is ACLOperation.DESCRIBE:
            continue  # of topics that are neither read nor written; the next test has it
        admin.delete_acls([as_filter(acl)])
        wait_until(lambda: lacking(settings, needs), lambda acl=acl: f"{acl} is not missed")
        said = lacking(settings, needs)
        named = {"READ": "Read", "WRITE": "Write", "DESCRIBE_CONFIGS": "DescribeConfigs"}[acl.operation.name]
        assert f"does not let user {user} begin, which lacks the ACLs {named} on" in said
        assert where.resource_name in said
        admin.create_acls([acl])
        wait_until(lambda: not lacking(settings, needs))
    admin.close()


def lacking(settings: Settings, needs: Needs) -> str:
    """What `ready` says is missing; nothing if it is."""
    try:
        ready(settings, needs)
    except InputError as error:
        return str(error)
    return ""


def as_filter(acl: ACL) -> ACLFilter:
    where = acl.resource_pattern
    named = ResourcePatternFilter(where.resource_type, where.resource_name, where.pattern_type)
    return ACLFilter(acl.principal, acl.host, acl.operation, acl.permission_type, named)


# Who has not.


@on_cluster
def test_a_wrong_password_is_one_sentence_at_once_and_is_not_repeated(
    secured: Secured, prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Environment
) -> None:
    said = "refused the login of user worker with PLAIN: look at sasl_username and sasl_password"
    for change in ({"sasl_password": Secret(HIDDEN)}, {"sasl_mechanism": "SCRAM-SHA-256"}):
        wrong = secured.settings("worker", prefix, **change)
        become(monkeypatch, wrong)
        code, out, error = call(capsys, monkeypatch, "topics", "create")
        assert (code, out, error.count("\n")) == (2, "", 1)
        assert said.replace("PLAIN", wrong.sasl_mechanism) in error
        assert HIDDEN not in error
    wrong = secured.settings("worker", prefix, sasl_password=Secret(HIDDEN))
    for command in ("worker", "propensities"):
        with process(wrong, tmp_path, command) as (started, log):
            assert started.wait(20) == 2
            assert (log.read_text().count("\n"), said in log.read_text()) == (1, True)
    assert {row.partitions for row in describe(secured.settings("admin", prefix))} == {0}


@on_cluster
def test_a_user_without_acls_is_told_what_is_missing_and_nothing_is_written(
    secured: Secured, prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Environment
) -> None:
    nobody = secured.settings("nobody", prefix)
    become(monkeypatch, nobody)
    (tmp_path / "requests.jsonl").write_bytes(REQUEST)
    commands = (
        ("topics", "create"),
        ("topics", "describe"),
        ("send", "requests", str(tmp_path / "requests.jsonl")),
        ("tail", "feeds"),
    )
    for made in (False, True):
        if made:
            create(secured.settings("admin", prefix), 1, 1)
        for command in commands:
            code, out, error = call(capsys, monkeypatch, *command)
            assert (code, out, error.count("\n")) == (2, "", 1), (command, error)
            assert f"does not let user nobody do this with topic {prefix}" in error
            assert "grant it the ACLs of docs/security.md" in error
    for command in ("worker", "propensities"):
        with process(nobody, tmp_path, command) as (started, log):
            assert started.wait(20) == 2
            assert "does not let user nobody begin, which lacks the ACLs" in log.read_text()
            assert log.read_text().count("\n") == 1
    assert {row.end for row in describe(secured.settings("admin", prefix))} == {0}


@on_cluster
def test_who_may_look_and_not_write_or_make_is_told_so(secured: Secured, prefix: str) -> None:
    settings = secured.settings("nobody", prefix)
    admin = admin_of(secured.settings("admin", prefix))
    everywhere = ResourcePattern(Kind.TOPIC, prefix, Pattern.PREFIXED)
    look = [ACLOperation.DESCRIBE, ACLOperation.DESCRIBE_CONFIGS]
    admin.create_acls(
        [ACL("User:nobody", "*", operation, ACLPermissionType.ALLOW, everywhere) for operation in look]
    )
    admin.close()
    with pytest.raises(InputError, match=rf"Kafka did not make topic {prefix}.*uthorization failed"):
        create(settings, 1, 1)
    create(secured.settings("admin", prefix), 1, 1)
    with pytest.raises(InputError, match="lets user nobody write nothing: grant it the ACLs of"):
        send(settings, "requests", [Keyed("ada", REQUEST)])
    with pytest.raises(InputError, match=f"not let user nobody do this with topic {prefix}requests: grant it"):
        list(tail(settings, "requests", "earliest", follow=True))
    assert {row.end for row in describe(settings)} == {0}


@on_cluster
def test_what_does_not_fit_the_listener_is_told_apart(secured: Secured, prefix: str) -> None:
    elsewhere = secured.cluster.login_bootstrap.replace("127.0.0.1", "localhost")
    not_trusted = "has a certificate that ssl_cafile and ssl_check_hostname do not let pass: "
    for change, said in (
        ({"ssl_cafile": None}, f"{not_trusted}self-signed certificate"),
        ({"bootstrap": elsewhere}, f"{not_trusted}Hostname mismatch, certificate is not valid for 'localhost'"),
        ({"bootstrap": secured.cluster.bootstrap}, "does not answer over SASL_SSL: set security_protocol to"),
    ):
        with pytest.raises(InputError, match=said):
            describe(secured.settings("admin", prefix, **change))
    assert describe(secured.settings("admin", prefix, bootstrap=elsewhere, ssl_check_hostname=False))
    plain = Settings(bootstrap=secured.cluster.login_bootstrap)
    no_certificate = secured.settings("admin", prefix, ssl_certfile=None, ssl_keyfile=None)
    hasty = "import streams.topics as topics, feedloom.cli as cli; topics.ANSWER_SECONDS_MAX = 1; cli.main()"
    for settings, said in (
        (plain, "does not answer over PLAINTEXT: set security_protocol to what its listener speaks (see"),
        (no_certificate, "to what its listener speaks, and ssl_certfile if it asks for a certificate (see"),
    ):
        command = [sys.executable, "-c", hasty, "topics", "describe"]
        given = {**os.environ, **environment(settings)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=given)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert said in done.stderr
