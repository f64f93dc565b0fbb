"""The demo on real data: what the README promises, and that every decision of it can be made again.

The bounds compare policies of one run on one log with one seed, so these tests draw nothing at random.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.decision import Decision, difference
from feedloom.movielens import movielens
from streams.recording import read_topic

pytestmark = pytest.mark.xdist_group("demo")

SWAPPED = """
[pools.popular]
kind = "popular"
floor = 0.1
[pools.similar]
kind = "fresh"
[pools.fresh]
kind = "similar"
floor = 0.1
"""


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The demo without its further run, recorded, and plain lists, two exchanged, on its first 40,000 rows."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "swapped.toml").write_text(SWAPPED)
    log, _ = movielens(lambda _: None)
    (folder / "log.csv").write_text("".join(log.read_text().splitlines(keepends=True)[:40_001]))
    swapped = ["--policy", str(folder / "swapped.toml"), "--batch", "7", "--positive", "value>=4"]
    calls = {
        "plain": ["demo", "--record", str(folder / "recording"), "--out", str(folder / "out")],
        "swapped": ["backtest", str(folder / "log.csv"), *swapped],
    }
    running = {
        name: subprocess.Popen(
            [sys.executable, "-m", "feedloom", *options, "--json", "--shuffle-within", "off"],
            stdout=subprocess.PIPE,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
            text=True,
        )
        for name, options in calls.items()
    }
    results = {name: json.loads(process.communicate()[0]) for name, process in running.items()}
    return results | {"folder": {"path": folder}}


def hit(result: dict[str, Any], policy: str, bound: str = "") -> float:
    """A policy's hit@10, or a bound of its interval."""
    return float(result["policies"][policy]["hit_at_10" + bound])


def test_the_baselines_reproduce_what_is_known_of_this_protocol(demos: dict[str, dict[str, Any]]) -> None:
    """Independent implementations of the same protocol read .0989 and .0023, over 44,180 feeds.

    A random slate hits with 10 / (items not rated yet) where the item is known: .0071 in expectation, with a
    standard error of .0004, of which the bound is five.
    """
    plain = demos["plain"]
    assert plain["scored"] == 44_180
    assert hit(plain, "popular") == pytest.approx(0.0989, abs=0.0005)
    assert hit(plain, "fresh") == pytest.approx(0.0023, abs=0.0001)
    assert hit(plain, "random") == pytest.approx(0.0071, abs=0.002)
    assert hit(plain, "similar") > 0.186


def test_the_blend_reaches_97_percent_of_the_best_pool_and_1_4_times_the_uniform_mix(
    demos: dict[str, dict[str, Any]],
) -> None:
    plain = demos["plain"]
    assert hit(plain, "feedloom") >= 0.97 * max(hit(plain, name) for name in plain["pool_share"])
    assert hit(plain, "feedloom") >= 1.4 * hit(plain, "uniform")
    assert plain["pool_share"]["fresh"] < 0.01


def test_ranking_what_all_pools_offer_beats_each_of_them_by_far(demos: dict[str, dict[str, Any]]) -> None:
    """The demo reads .2551, .1369 and .4438: the bounds leave what other processors' bits may change."""
    figures = demos["plain"]["policies"]["feedloom"]
    assert figures["hit_at_10"] > 0.25
    assert figures["ndcg_at_10"] > 0.134
    assert figures["first_five_hit"] > 0.43
    assert demos["plain"]["feedloom_minus"]["similar"]["difference"] > 0.05


def test_a_posterior_per_user_loses_nothing_to_one_for_everybody_and_much_less_than_on_a_weak_prior(
    demos: dict[str, dict[str, Any]],
) -> None:
    """Paired by user: within a standard error of the one, above the other by a one-sided 97.5 % bound."""
    minus = demos["swapped"]["feedloom_minus"]
    everybody, naive = minus["global_thompson"], minus["naive_thompson"]
    assert everybody["difference"] >= -everybody["standard_error"]
    assert naive["difference"] - 1.96 * naive["standard_error"] > 0
    assert demos["plain"]["feedloom_minus"]["personal"]["difference"] > -0.003  # what finding the best pool costs
    assert set(demos["plain"]["views_to_personal"]) == {"popular", "similar", "personal", "fresh"}


def test_what_a_pool_holds_decides_and_not_its_name(demos: dict[str, dict[str, Any]]) -> None:
    swapped = demos["swapped"]
    assert hit(swapped, "feedloom") >= 0.97 * hit(swapped, "fresh") > 0.1
    assert swapped["pool_share"]["similar"] < 0.01
    assert hit(swapped, "similar") < 0.1 * hit(swapped, "fresh")


def test_a_sample_of_the_demos_decisions_is_rebuilt_from_the_records_alone(
    demos: dict[str, dict[str, Any]],
) -> None:
    lines = read_topic(demos["folder"]["path"] / "recording", "feeds")
    records = [line.value for line in lines if isinstance(line.value, Decision)]
    assert len(records) == 55_375
    assert [difference(record) for record in records[::31]] == [None] * len(records[::31])


def test_the_demo_leaves_a_page_and_a_picture(demos: dict[str, dict[str, Any]]) -> None:
    out = demos["folder"]["path"] / "out"
    assert demos["plain"]["digest"] in (out / "report.html").read_text()
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")


def test_every_figure_of_the_readmes_table_is_what_the_demo_prints(demos: dict[str, dict[str, Any]]) -> None:
    """To .001, because another processor may draw other bits."""
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    for name, figures in demos["plain"]["policies"].items():
        row = re.search(rf"^ {name} +(\..*)$", readme, re.MULTILINE)
        assert row, name
        printed = [float(number) for number in re.findall(r"\.\d+", row[1])]
        keys = ("hit_at_10", "ndcg_at_10", "first_five_hit")
        expected = [figures[key + bound] for key in keys for bound in ("", "_low", "_high")]
        assert printed == pytest.approx(expected, abs=0.001), name
    shares = dict(re.findall(r"(\w+) ([\d.]+)%", readme[readme.index("in the last fifth:") :]))
    for pool, share in demos["plain"]["pool_share"].items():
        assert float(shares[pool]) == pytest.approx(100 * share, abs=0.1)
