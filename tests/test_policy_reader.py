"""The reader of policy files: whatever it is given, it makes a whole policy or says in one sentence why not."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.errors import InputError
from engine.policy import COUNT_MAX, Policy
from feedloom.cli import cli
from feedloom.policy_reference import comments_of, document_schema, page, tables
from streams.embedded import tried
from streams.policy_file import RefusedError, read_policy
from streams.toml_places import line_of

ROOT = Path(__file__).parent.parent
SHIPPED = (ROOT / "policy.toml").read_text()

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def plain(value: Any) -> Any:
    """As JSON has it."""
    return msgspec.json.decode(msgspec.json.encode(value))


def read(folder: Path, data: bytes) -> Policy | str:
    """The policy, or the sentence that refuses it."""
    path = folder / "p.toml"
    path.write_bytes(data)
    try:
        return read_policy(path)
    except InputError as error:
        said = str(error)
        assert said.startswith((str(path), f"cannot read the policy {path}"))
        assert "\n" not in said
        return said


@given(data=st.binary(max_size=300))
@example(data=b"\xff\xfe")
@example(data=b"[[[[")
@example(data=b"a." * 5000 + b"b = 1")
@example(data=b"x = " + b"[" * 5000)
@example(data=b"x = " + b"9" * 5000)
def test_no_bytes_crash_it(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    read(tmp_path_factory.getbasetemp(), data)


LINES = SHIPPED.splitlines()


def mangled(edits: list[tuple[str, int, Any]]) -> str:
    """The shipped policy, and what was done to it."""
    lines = list(LINES)
    for edit, at, value in edits:
        number = at % len(lines)
        if edit == "drop":
            del lines[number]
        elif edit == "twice":
            lines.insert(number, lines[number])
        elif edit == "swap":
            lines[number], lines[0] = lines[0], lines[number]
        elif edit == "cut":
            lines[number] = lines[number][: at % 20]
        elif "=" in lines[number]:
            lines[number] = f"{lines[number].partition('=')[0]}= {json.dumps(value)}"
    return "\n".join(lines)


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(st.sampled_from(["drop", "twice", "swap", "cut", "value"]), st.integers(0), values), max_size=4
    )
)
def test_no_mangled_policy_crashes_it_or_is_half_read(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[str, int, Any]]
) -> None:
    text = mangled(edits)
    made = read(tmp_path_factory.getbasetemp(), text.encode(errors="surrogatepass"))
    if isinstance(made, Policy):
        # Whatever the file says is in it, and whatever it leaves out is the default.
        tables_read = tomllib.loads(text)
        whole, defaults = plain(made), plain(Policy())
        for table in defaults:
            for key, value in whole[table].items():
                if table in {"pools", "actions", "rules", "experiments"}:
                    continue
                wanted = tables_read.get(table, {}).get(key, defaults[table][key])
                assert value == wanted


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[blend]\nsede = 1\n", 2, "unknown key `sede`; did you mean `seed`?"),
        ("[pools.new]\nkind = 'fresh'\n\nflor = 0.1\n", 4, "unknown key `flor`; did you mean `floor`?"),
        ("# a\n[blent]\nseed = 1\n", 2, "unknown key `blent`; did you mean `blend`?"),
        ("[blend]\n  order = 'spred'\n", 2, "did you mean `spread`?"),
        ("[memory]\nwindow_ms = 5\nhalf_life_ms = 0\n", 3, "half_life_ms must be at least 1"),
        ("[blend]\nepsilon = 'much'\n", 2, "Expected `float`, got `str`"),
        ("blend.epsilon = 7\n", 1, "epsilon must be from 0"),
        ("[actions.'like it']\nreward = nan\n", 2, "reward must be a finite number"),
    ],
)
def test_what_is_wrong_is_said_with_its_line_and_the_nearest_right_word(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    said = read(tmp_path, text.encode())
    assert isinstance(said, str)
    assert said.startswith(f"{tmp_path / 'p.toml'}, line {line}: ")
    assert words in said


def test_a_key_is_found_under_its_table_whatever_stands_elsewhere() -> None:
    text = "floor = 1\n[pools.a]\nfloor = 2\n[pools.'b.c'] # floor\nfloor = 3\n[x]\npools.d.floor = 4\n"
    assert line_of(text, ["pools", "a", "floor"]) == 3
    assert line_of(text, ["pools", "b.c", "floor"]) == 5
    assert line_of(text, ["x", "pools", "d", "floor"]) == 7
    assert line_of(text, ["pools", "a", "missing"]) == 2
    assert line_of(text, ["nowhere"]) is None


# The command.


def run(*args: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, ["policy", *args])
    return done.exit_code, done.stdout, done.stderr


def test_validate_says_refused_with_1_and_unreadable_with_an_error(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(SHIPPED)
    bad.write_text("[blend]\nsede = 1\n")
    code, out, _ = run("validate", str(good), "--json")
    assert (code, json.loads(out)) == (0, {"valid": True, "version": Policy().version})
    code, out, err = run("validate", str(bad), "--json")
    assert (code, json.loads(out)["valid"], "did you mean `seed`?" in err) == (1, False, True)
    done = CliRunner().invoke(cli, ["policy", "validate", str(tmp_path / "none.toml")], standalone_mode=False)
    assert isinstance(done.exception, InputError)
    assert not isinstance(done.exception, RefusedError)


def test_diff_of_two_files_names_what_differs(tmp_path: Path) -> None:
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    one.write_text("")
    other.write_text("[blend]\nepsilon = 0.5\n")
    code, out, _ = run("diff", str(other), "--with", str(one))
    assert (code, out) == (0, "blend.epsilon: 0.02 → 0.5\n")
    code, out, _ = run("diff", str(other), "--with", str(one), "--json")
    assert json.loads(out) == {"changes": [{"key": "blend.epsilon", "from": 0.02, "to": 0.5}]}


# The reference.


def test_the_reference_page_and_the_schema_are_those_of_the_types() -> None:
    assert (ROOT / "docs" / "policy.md").read_text() == page(), "make reference"
    schema = msgspec.json.decode((ROOT / "docs" / "policy.schema.json").read_bytes())
    assert schema == plain(document_schema()), "make reference"


def test_every_key_is_documented_and_has_its_row() -> None:
    for place, kind in tables().items():
        comments = comments_of(kind)
        section = page().partition(f"## {place}\n")[2].partition("\n## ")[0]
        assert section
        for key in kind.__struct_fields__:
            assert comments.get(key), f"{place}: {key} has no comment beside it"
            assert f"| `{key}` |" in section


def test_the_schema_takes_the_shipped_policy_and_refuses_what_the_types_refuse_by_shape() -> None:
    validator = jsonschema_rs.Draft202012Validator(document_schema())
    shipped = tomllib.loads(SHIPPED)
    validator.validate(shipped)
    for table, key in (("blend", "epsilon"), ("memory", "window_ms")):
        assert not validator.is_valid({**shipped, table: {**shipped[table], key: "much"}})
        assert not validator.is_valid({**shipped, table: {**shipped[table], "sede": 1}})
    assert re.search("temperature", json.dumps(document_schema()["$defs"]["BlendPolicy"]["properties"]))


# fmt: off
GREATEST = [
    ("population", "top_max"), ("population", "neighbours_max"), ("population", "recent_likes"),
    ("population", "recent_reactions"), ("weights", "remembered"), ("weights", "depth"), ("blend", "slots_max"),
]
# fmt: on


def test_what_is_accepted_makes_feeds_also_at_the_greatest_numbers(tmp_path: Path) -> None:
    lines = {table: f"[{table}]\n" for table, _ in GREATEST}
    for table, key in GREATEST:
        lines[table] += f"{key} = {COUNT_MAX}\n"
        assert "at most 1,000,000" in str(read(tmp_path, f"[{table}]\n{key} = {COUNT_MAX + 1}\n".encode()))
    kept = [f"{key} = {2**62}" for key in ("history_max", "open_max", "waiting_max", "hidden_max", "views_max")]
    made = read(tmp_path, ("".join(lines.values()) + "[memory]\n" + "\n".join(kept)).encode())
    assert isinstance(made, Policy), made
    tried(made)
