import re
import struct
from html.parser import HTMLParser
from io import StringIO
from math import nan
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from msgspec.structs import replace
from rich.console import Console

from engine.errors import InputError
from feedloom.report import print_table, write_report
from simulator.scoreboard import Backtest, Broken, ExampleSlot, Figures, Reached, Summary, Timeline

HIT = {
    "random": 0.008,
    "popular": 0.099,
    "fresh": 0.0023,
    "similar": 0.186,
    "uniform": 0.1093,
    "global_thompson": 0.185,
    "naive_thompson": 0.157,
    "feedloom": 0.1871,
}
BEST_FIRST = sorted(HIT, key=lambda name: -HIT[name])
WINDOWS, TRAINED = 20, 4
NASTY = "<script>&\"'[red]"


def figures(hit: float) -> Figures:
    asked = hit > 0.01  # the two worst had nobody's first five choices to score
    first = (hit * 1.5, hit * 1.4, hit * 1.6) if asked else (None, None, None)
    return Figures(hit, hit * 0.96, hit * 1.04, hit / 2, hit * 0.48, hit * 0.52, *first)


def curve(hit: float) -> list[float]:
    return [nan if window < TRAINED else hit * (1 + window % 3 / 10) for window in range(WINDOWS)]


def backtest() -> Backtest:
    """Three pools of which one wins, with a first fifth that is not scored."""
    fresh = [0.3 / (1 + window) for window in range(WINDOWS)]
    popular = [0.05] * WINDOWS
    similar = [1 - a - b for a, b in zip(fresh, popular, strict=True)]
    shares = {"popular": popular, "similar": similar, "fresh": fresh}
    return Backtest(
        summary=Summary(
            dataset="movielens-100k",
            scored=44180,
            policies={name: figures(hit) for name, hit in HIT.items()},
            feedloom_minus={},
            pool_share={name: share[-1] for name, share in shares.items()},
            views_to_personal={name: {"like": 1234.5} for name in shares},
            seconds=21.34,
            feeds_per_s=2070.6,
            us_per_slate=483.0,
            digest="5d41402abc4b2a76b9719d911017c592" * 2,
        ),
        timeline=Timeline(
            ends=[2768 * (window + 1) for window in range(WINDOWS)],
            hit_at_10={name: curve(hit) for name, hit in HIT.items()},
            pool_share=shares,
        ),
        example_user="729",
        example=[ExampleSlot("1", "similar"), ExampleSlot("2", "popular")],
    )


class Page(HTMLParser):
    """What a browser would make of a page: its elements, their attributes and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def written(tmp_path: Path, result: Backtest | None = None, titles: dict[str, str] | None = None) -> Page:
    page, _ = write_report(result or backtest(), titles or {}, tmp_path / "out")
    return Page(page)


def printed(result: Backtest) -> list[str]:
    file = StringIO()
    print_table(result, Console(file=file, width=80))
    return file.getvalue().splitlines()


def test_the_page_asks_nobody_for_anything(tmp_path: Path) -> None:
    page = written(tmp_path)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.elements)
    assert "src" not in dict(page.attributes)
    assert all((value or "").startswith("#") for name, value in page.attributes if name.endswith("href"))
    source = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "@import" not in source
    assert set(re.findall(r"url\((.)", source)) == {"#"}
    assert set(re.findall(r"https?://([^/\"]+)", source)) == {"www.w3.org"}  # name spaces of the drawings


def test_the_headline_sets_feedloom_against_the_best_single_pool_and_the_uniform_blend(
    tmp_path: Path,
) -> None:
    headline = "feedloom hits 18.7% of the time; the best single pool, similar, 18.6%; a uniform blend 10.9%"
    assert headline in written(tmp_path).text


def test_the_page_lists_every_policy_best_first_with_its_kind(tmp_path: Path) -> None:
    written(tmp_path)
    source = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    rows = re.findall(r"<td>(\w+)<td><small>([a-z ]+)</small><td>([.\d]+)", source)
    assert [row[0] for row in rows] == BEST_FIRST
    assert rows[:3] == [
        ("feedloom", "feedloom", ".1871"),
        ("similar", "single pool", ".1860"),
        ("global_thompson", "plain blend", ".1850"),
    ]
    assert dict(row[:2] for row in rows)["random"] == "single pool"
    assert source.count('<tr class="ours"><td>feedloom') == source.count('<tr class="ours">') == 1


def test_the_drawings_are_well_formed_and_name_every_policy_and_pool(tmp_path: Path) -> None:
    written(tmp_path)
    source = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    shares, hits = (
        "".join(ElementTree.fromstring(svg).itertext()) for svg in re.findall("<svg.*?</svg>", source, re.S)
    )
    assert all(f"{pool} " in shares for pool in ("popular", "similar", "fresh"))
    assert all(name in hits for name in HIT)
    assert "learned from" in hits


def test_no_id_stands_in_the_page_twice(tmp_path: Path) -> None:
    ids = [value for name, value in written(tmp_path).attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_the_last_feed_shows_titles_and_an_id_where_there_is_none(tmp_path: Path) -> None:
    text = written(tmp_path, titles={"1": "Toy Story"}).text
    assert "for user 729" in text
    assert "Toy Storysimilar2popular" in text


def test_whatever_comes_from_the_user_is_escaped(tmp_path: Path) -> None:
    plain = backtest()
    shares = {NASTY: 1.0}
    result = replace(
        plain,
        summary=replace(
            plain.summary,
            dataset=NASTY,
            digest=NASTY,
            pool_share=shares,
            policies={**plain.summary.policies, NASTY: figures(0.9)},
            broken=Broken(NASTY, 0.1, 0.1, 0.1, 0.1),
        ),
        timeline=replace(
            plain.timeline,
            pool_share={NASTY: [1.0] * WINDOWS},
            hit_at_10={NASTY: curve(0.9), "feedloom": curve(0.1)},
        ),
        example_user=NASTY,
        example=[ExampleSlot("1", NASTY), ExampleSlot(NASTY, NASTY)],
    )
    page = written(tmp_path, result, {"1": NASTY})
    assert "script" not in page.elements
    assert page.text.count(NASTY) >= 10


def test_what_was_not_scored_is_a_dash_and_never_nan(tmp_path: Path) -> None:
    text = written(tmp_path).text
    assert "– [–, –]" in text
    assert "nan" not in text.replace("naive", "").lower()
    assert any(line.split()[0] == "fresh" and "– [–, –]" in line for line in printed(backtest()) if line.strip())


def test_the_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_report(backtest(), {}, tmp_path / "a")
    second = write_report(backtest(), {}, tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_the_picture_is_fourteen_hundred_pixels_wide(tmp_path: Path) -> None:
    _, picture = write_report(backtest(), {}, tmp_path)
    head = picture.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:]) == (1400, 1008)


def test_a_log_of_one_window_is_drawn_too(tmp_path: Path) -> None:
    plain = backtest()
    timeline = Timeline([1], {name: [nan] for name in HIT}, {name: [nan] for name in plain.summary.pool_share})
    assert "feedloom hits" in written(tmp_path, replace(plain, timeline=timeline)).text


def test_drawing_leaves_the_settings_of_the_process_alone(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    written(tmp_path)
    assert dict(mpl.rcParams) == before


def test_a_folder_that_cannot_be_written_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match="choose another folder"):
        write_report(backtest(), {}, tmp_path / "file")
    (tmp_path / "report.png").mkdir()
    with pytest.raises(InputError, match="choose another folder"):
        write_report(backtest(), {}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "report.html", "report.png"}


def test_the_table_has_a_line_for_each_policy_best_first_in_eighty_columns() -> None:
    lines = [line for line in printed(backtest()) if line.strip()]
    assert [line.split()[0] for line in lines[2:10]] == BEST_FIRST
    assert lines[2].split(maxsplit=1)[1].strip().startswith(".1871 [.180, .195]")


def test_under_the_table_stand_the_shares_and_the_speed_and_the_digest() -> None:
    shares, personal, run = printed(backtest())[-3:]
    assert personal == "views to personal: popular 1,234, similar 1,234, fresh 1,234"
    assert shares == "feedloom's slots in the last fifth: similar 93.5%, popular 5.0%, fresh 1.5%"
    digest = backtest().summary.digest
    assert run == f"44,180 feeds scored, 2,071 feeds/s, 483 µs to make one, 21.3 s in all, digest {digest}"


def test_further_runs_have_a_line_each_under_the_table_and_on_the_page(tmp_path: Path) -> None:
    plain = backtest()
    further = {"order_shuffled": Reached(0.1334, 0.0692), "broken": Broken("similar", 0.0737, 0.0383, 0.0244, 0.2)}
    result = replace(plain, summary=replace(plain.summary, **further))
    shuffled = "feedloom with the order inside users' sessions shuffled: hit@10 .1334, nDCG@10 .0692"
    broken = (
        "feedloom with similar broken: hit@10 .0244 right after it; .0737, nDCG@10 .0383 in the last fifth, "
        "of whose slots similar has 20.0%"
    )
    assert printed(result)[-5:-3] == [shuffled, broken]
    text = written(tmp_path, result).text
    assert shuffled in text
    assert broken in text
    assert not any(line.startswith("feedloom with") for line in printed(plain))


def test_a_name_that_looks_like_markup_is_printed_as_it_is() -> None:
    plain = backtest()
    result = replace(plain, summary=replace(plain.summary, policies={"[red]x": figures(0.1)}))
    assert any("[red]x" in line for line in printed(result))
