import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from zipfile import ZipFile

import pytest

from engine.errors import InputError
from feedloom.interaction_log import read_items, read_log
from feedloom.movielens import CSV_SHA256, movielens

ROOT = Path(__file__).parents[1]
FETCH = """
import sys
from engine.errors import InputError
from feedloom.movielens import movielens
try:
    print(*movielens(print), sep="\\n")
except InputError as error:
    sys.exit(f"refused: {error}")
"""


def start(cache: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FETCH],
        cwd=ROOT,
        env={**os.environ, "FEEDLOOM_CACHE": str(cache), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def offline(cache: Path) -> subprocess.Popen[str]:
    """A fetch whose only index is a closed port, which finds nothing elsewhere either."""
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}
    return start(cache, PIP_CONFIG_FILE=os.devnull, PIP_RETRIES="0", **nowhere)


def whole(cache: Path) -> bool:
    folder = cache / "movielens-100k"
    found = {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    return found == CSV_SHA256


def refusal(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate()
    assert process.returncode == 1
    assert len(errors.splitlines()) == 1
    assert errors.startswith("refused: ")
    return errors


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that two processes have filled at once."""
    folder = tmp_path_factory.mktemp("a cache")
    for process in [start(folder), start(folder)]:
        _, errors = process.communicate()
        if "could not be downloaded" in errors and "CI" not in os.environ:
            pytest.skip("MovieLens-100K needs the network once")
        assert process.returncode == 0, errors
    return folder


def test_without_a_network_one_sentence_says_what_to_do_and_nothing_is_left(tmp_path: Path) -> None:
    message = refusal(offline(tmp_path))
    assert "could not be downloaded" in message
    assert str(tmp_path / "movielens-100k") in message
    assert list((tmp_path / "movielens-100k").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert "FEEDLOOM_CACHE" in refusal(offline(tmp_path / "file"))


def test_a_download_with_another_checksum_is_refused_in_one_sentence(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    build_wheel(wheels / "recbole-1.2.1-py3-none-any.whl")
    message = refusal(start(tmp_path, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(wheels)))
    assert "sha256" in message
    assert list((tmp_path / "movielens-100k").iterdir()) == []


def test_two_at_once_both_fetch_the_data_whole(cache: Path) -> None:
    assert whole(cache)


def test_the_log_and_the_items_read_back_whole(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDLOOM_CACHE", str(cache))
    ratings, items = movielens()
    rows = read_log(ratings, "value>=4")
    assert (len(rows), sum(row.positive for row in rows)) == (100_000, 55_375)
    assert (len({row.user for row in rows}), len({row.item for row in rows})) == (943, 1682)
    assert read_items(items)["1"]["genre"] == ["Animation", "Children's", "Comedy"]


def test_a_filled_cache_needs_no_network(cache: Path) -> None:
    process = offline(cache)
    output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert "Downloading" not in output


def test_a_damaged_cache_is_not_believed_and_is_mended(cache: Path) -> None:
    ratings = cache / "movielens-100k" / "ratings.csv"
    ratings.write_bytes(ratings.read_bytes()[:1000])
    refusal(offline(cache))
    start(cache).communicate()
    assert whole(cache)


def test_the_cache_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEEDLOOM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match=r"file/feedloom/movielens-100k .*FEEDLOOM_CACHE"):
        movielens()


def build_wheel(path: Path) -> None:
    """A wheel that pip takes for the package, with nothing in it."""
    info = "recbole-1.2.1.dist-info"
    with ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
