"""`feedloom serve` as a process: what it refuses to begin, how it ends, and what a kill leaves."""

import gc
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path

import msgspec
import pytest
from embedded_product import EmbeddedProduct, Visitors, terminate
from kafka_product import wait_until
from test_cli import call

from engine.errors import InputError
from streams.listening import refuse_open_host
from streams.local_topics import LocalTopics
from streams.settings import Secret, Settings

SEED = 20_260_701
ALONE = {"PATH": "/usr/bin:/bin"}  # no setting of whoever runs the tests
Refused = Callable[..., str]


@pytest.fixture
def product(tmp_path: Path) -> EmbeddedProduct:
    return EmbeddedProduct(tmp_path)


@pytest.fixture
def refused(
    product: EmbeddedProduct, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Refused]:
    """What the command says when it refuses to begin: one sentence, and exit 2."""
    pace = gc.get_threshold(), sys.getswitchinterval()
    monkeypatch.chdir(product.folder)

    def run(*arguments: str | Path, **environment: str) -> str:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            given = ("serve", "--policy", product.policy, "--port", "0", *arguments)
            code, out, error = call(capsys, monkeypatch, *given)
        assert (code, out) == (2, "")
        assert re.fullmatch(r"feedloom: [^\n]+\n", error), error
        return error

    yield run
    gc.set_threshold(*pace[0])
    sys.setswitchinterval(pace[1])


def refused_by_process(product: EmbeddedProduct, *arguments: str | Path, **environment: str) -> str:
    command = [sys.executable, "-m", "feedloom", "serve", "--policy", product.policy, "--port", "0", *arguments]
    given = {**ALONE, **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=given, cwd=product.folder, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert re.fullmatch(r"feedloom: [^\n]+\n", done.stderr), done.stderr
    return done.stderr


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_an_address_that_others_reach_is_refused_without_a_key(product: EmbeddedProduct) -> None:
    said = refused_by_process(product, "--data", product.data, "--host", "0.0.0.0")
    assert "host 0.0.0.0 is open to others: set FEEDLOOM_API_KEY first" in said
    assert not product.data.exists()


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("10.0.0.1", False),
        ("example.org", False),
        ("localhost.example.org", False),
        ("127.0.0.1.example.org", False),
    ],
)
def test_only_loopback_is_this_machine_alone(host: str, own: bool) -> None:
    with nullcontext() if own else pytest.raises(InputError, match="set FEEDLOOM_API_KEY first"):
        refuse_open_host(host, Settings())
    refuse_open_host(host, Settings(api_key=Secret("word")))


def test_a_key_opens_every_address_and_is_asked_for_there(product: EmbeddedProduct) -> None:
    port = free_port()
    command = [sys.executable, "-m", "feedloom", "serve", "--policy", product.policy, "--data", product.data]
    process = subprocess.Popen(
        [*command, "--host", "0.0.0.0", "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**ALONE, "FEEDLOOM_API_KEY": "word"},
        cwd=product.folder,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"http://0.0.0.0:{port}\n"
        product.address = ("127.0.0.1", port)
        assert product.call("GET", "/openapi.json")[0] == 401
        assert product.call("GET", "/health/live")[0] == 200
        terminate(process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_folder_that_cannot_be_had_is_refused_in_one_sentence(
    product: EmbeddedProduct, refused: Refused, tmp_path: Path
) -> None:
    with product.server(ready=False):
        assert "another process has" in refused("--data", product.data)
    said = refused_by_process(product, "--data", product.data, FEEDLOOM_PARTITIONS="3")
    assert "was made with 1 partitions, and 3 are asked for" in said
    file = tmp_path / "file"
    file.write_text("mine")
    for path in (file, file / "below"):
        assert f"cannot keep data in {path}: " in refused("--data", path)
    assert file.read_text() == "mine"
    (product.data / "about.json").write_text("no JSON")
    assert "about.json cannot be read" in refused_by_process(product, "--data", product.data)
    (product.data / "about.json").write_text('{"format":99,"partitions":1}')
    assert "is of format 99" in refused_by_process(product, "--data", product.data)


def test_an_address_that_cannot_be_had_is_refused_in_one_sentence_and_the_folder_is_let_go(
    product: EmbeddedProduct, refused: Refused
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused("--data", product.data, "--port", str(port))
        assert f"cannot listen on 127.0.0.1:{port}: " in said
    LocalTopics(product.data, 1, 1_000).close()


def test_settings_and_policies_that_cannot_be_used_are_refused_in_one_sentence(
    product: EmbeddedProduct, refused: Refused
) -> None:
    assert "http_rate_max" in refused("--data", product.data, FEEDLOOM_HTTP_RATE_MAX="0")
    assert "fsync" in refused("--data", product.data, FEEDLOOM_FSYNC="sometimes")
    product.policy.write_text("[pools.a]\nkind = 7\n")
    assert str(product.policy) in refused("--data", product.data)
    assert not product.data.exists()


def test_its_address_is_all_that_it_prints(product: EmbeddedProduct) -> None:
    with product.server() as process:
        assert product.address is not None
        assert product.address[1] > 0
        terminate(process)
        assert process.stdout is not None
        assert process.stdout.read() == ""
    assert "Traceback" not in product.log()


def test_sigterm_ends_it_soon_while_clients_are_answered_and_nothing_acknowledged_is_missing(
    product: EmbeddedProduct,
) -> None:
    print(f"seed {SEED}")
    with product.server() as process, Visitors(product, SEED, 4):
        wait_until(lambda: len(product.answers) > 150)
        seconds = terminate(process)
    print(f"{len(product.answers)} feeds, {len(product.reacted)} reactions, ended in {seconds:.2f} s")
    assert seconds < 5.0
    assert "Traceback" not in product.log()
    again(product)


def test_clients_that_say_nothing_half_of_it_or_noise_hold_nobody_up(product: EmbeddedProduct) -> None:
    half = b"POST /v1/feeds HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    noise = [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: \x00\r\n\r\n",
        b"\x16\x03\x01\x02",
        b"a" * 100_000,
    ]
    with product.server() as process, ExitStack() as held:
        assert product.address is not None
        for said in (b"", half[:30], half, *(noise * 8)):
            client = held.enter_context(socket.create_connection(product.address, timeout=20))
            client.sendall(said)
        for number in range(20):
            assert product.ask("ada", f"r{number}") is not None
        assert terminate(process) < 5.0
    told = re.findall(r"ERROR .*", product.log())
    print(told)
    assert len(told) == 1  # once in a while, however often it happens
    product.judge()


def test_a_kill_under_load_takes_nothing_that_was_acknowledged(product: EmbeddedProduct) -> None:
    print(f"seed {SEED}")
    with Visitors(product, SEED, 4):
        for wanted in (80, 160, 240):
            with product.server() as process:
                wait_until(lambda most=wanted: len(product.answers) >= most)
                process.kill()
                process.wait()
    print(f"{len(product.answers)} feeds, {len(product.reacted)} reactions")
    again(product)


def again(product: EmbeddedProduct) -> None:
    """After a restart: every acknowledged id has the same feed, and every acknowledged event is there."""
    assert len(product.reacted) > 100
    with product.server() as process:
        for (user, request_id), items in product.answers.copy().items():
            assert product.ask(user, request_id) == items
            told = product.call("GET", f"/v1/feeds/{request_id}/explanation?user={user}")
            assert told[0] == 200, told
            assert [slot["item"] for slot in told[1]["slots"]] == items
        terminate(process)
    product.judge()


def test_a_server_is_ended_while_it_reads_what_its_topics_hold(product: EmbeddedProduct) -> None:
    with product.server() as process, Visitors(product, SEED, 2):
        wait_until(lambda: len(product.reacted) > 100)
        terminate(process)
    for wait_seconds in (0.0, 0.4):  # it compiles and reads for about half a second
        with product.server(ready=False) as process:
            time.sleep(wait_seconds)
            assert terminate(process) < 5.0
    assert "Traceback" not in product.log()
    product.judge()


def test_no_request_that_schemathesis_finds_makes_it_fail_or_contradict_its_document(
    product: EmbeddedProduct,
) -> None:
    product.environment |= {"FEEDLOOM_API_KEY": "word"}
    with product.server(ready=False) as process:
        assert product.address is not None
        wait_until(product.ready)
        url = "http://{}:{}/openapi.json".format(*product.address)
        checked = subprocess.run(
            [
                *(Path(sys.executable).parent / "schemathesis", "run", url, "--no-color"),
                *("-H", "Authorization: Bearer word", "--seed", str(SEED), "--max-examples", "5"),
                *("--max-time", "12", "--generation-database", "none", "--continue-on-failure"),
                # No schema says what a policy names, that a page cannot continue itself, or that 4.0 is no int.
                *("--exclude-checks", "positive_data_acceptance"),
            ],
            capture_output=True,
            text=True,
            cwd=product.folder,
            timeout=90,
            check=False,
        )
        print(checked.stdout)
        assert checked.returncode == 0
        (tried,) = re.findall(r"(\d+) generated", checked.stdout)
        assert int(tried) > 300
        assert re.search(r"Tested: 12\n", checked.stdout)  # all but the document itself
        terminate(process)
    assert "an answer failed" not in product.log()
    assert msgspec.json.decode((product.data / "about.json").read_bytes()) == {"format": 1, "partitions": 1}
