"""The policy file: what it lists, what is refused and in which words, and what a policy's version says."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import fields, replace

from engine.errors import InputError
from engine.policy import (
    ActionPolicy,
    BlendPolicy,
    EmbeddingsPolicy,
    MemoryPolicy,
    Policy,
    PopulationPolicy,
    WeightsPolicy,
)
from engine.pool_policy import POOL_KINDS, PoolPolicy
from engine.pools import KINDS
from engine.rules import BlockRule, CapRule, DiverseRule, FreshRule, SeenRule
from streams.policy_file import read_policy

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "policy.toml"


def names_of(table: type[msgspec.Struct]) -> list[str]:
    """The keys of a table type, in their order."""
    return [field.name for field in fields(table)]


# The file that ships


def test_the_file_that_ships_is_exactly_the_defaults() -> None:
    assert read_policy(SHIPPED) == Policy()
    assert read_policy(SHIPPED).version == Policy().version


def test_the_file_that_ships_lists_every_key_of_every_table_in_the_order_of_the_types() -> None:
    tables = tomllib.loads(SHIPPED.read_text(encoding="utf-8"))
    assert list(tables) == names_of(Policy)
    assert list(tables["pools"]) == list(Policy().pools)
    assert list(tables["actions"]) == list(Policy().actions)
    assert all(list(pool) == names_of(PoolPolicy) for pool in tables["pools"].values())
    assert all(list(action) == names_of(ActionPolicy) for action in tables["actions"].values())
    assert list(tables["blend"]) == names_of(BlendPolicy)
    assert list(tables["population"]) == names_of(PopulationPolicy)
    assert list(tables["memory"]) == names_of(MemoryPolicy)
    assert list(tables["weights"]) == names_of(WeightsPolicy)
    assert list(tables["embeddings"]) == names_of(EmbeddingsPolicy)
    assert tables["rules"] == {}


def test_the_rules_that_the_file_shows_are_rules(tmp_path: Path) -> None:
    shown = SHIPPED.read_text(encoding="utf-8").partition("[rules]\n")[2].partition("\n\n")[0]
    text = "\n".join(line.removeprefix("#").strip() for line in shown.splitlines())
    policy = read_policy(written(tmp_path, f"[memory]\nviews_max = 10\n{text}"))
    assert msgspec.json.decode(msgspec.json.encode(policy), type=Policy) == policy
    assert [type(rule) for rule in policy.rules.values()] == [BlockRule, CapRule, FreshRule, SeenRule, DiverseRule]


def test_every_kind_of_pool_that_a_policy_may_name_exists() -> None:
    assert sorted(POOL_KINDS) == sorted([*KINDS, "external", "personal"])


# A file of one's own


def written(folder: Path, text: str | bytes) -> Path:
    """A policy file that holds this."""
    path = folder / "mine.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_table_that_is_left_out_stays_as_it_is_and_pools_and_actions_are_taken_whole(
    tmp_path: Path,
) -> None:
    text = "[actions.buy]\nreward = 5\n[blend]\nseed = 7\n"
    expected = Policy(actions={"buy": ActionPolicy(5.0)}, blend=BlendPolicy(seed=7))
    assert read_policy(written(tmp_path, text)) == expected
    assert read_policy(written(tmp_path, "")) == Policy()


def test_pools_have_plain_names_and_actions_any(tmp_path: Path) -> None:
    names = f"[pools.p_{'2' * 30}]\nkind = 'fresh'\n[actions.{'a' * 64}]\nreward = -1\n"
    text = names + "[actions.'Größer als ☃']\nreward = 1"
    policy = read_policy(written(tmp_path, text))
    assert list(policy.pools) == [f"p_{'2' * 30}"]
    assert policy.rewards == {"a" * 64: -1.0, "Größer als ☃": 1.0}


def test_rewards_say_what_is_learned_and_what_makes_an_item_liked() -> None:
    actions = {"like": ActionPolicy(1.0), "rated": ActionPolicy(0.0), "hide": ActionPolicy(-2.0)}
    policy = Policy(actions=actions)
    assert policy.rewards == {"like": 1.0, "rated": 0.0, "hide": -2.0}
    assert policy.likes == {"like"}


# fmt: off
REFUSED = [  # what stands in the file, and the words the message must hold
    ("[blend]\nsede = 1", ["[blend]", "unknown key `sede`"]),
    ("[population]\nevery = 1", ["[population]", "unknown key `every`"]),
    ("[memory]\nslots_max = 1", ["[memory]", "unknown key `slots_max`"]),
    ("[pools.new]\nkind = 'fresh'\nsize = 3", ["[pools", "unknown key `size`"]),
    ("[actions.like]\nrewrd = 1.0", ["[actions", "unknown key `rewrd`"]),
    ("[blent]\nseed = 1", ["unknown key `blent`"]),
    ("seed = 1", ["unknown key `seed`"]),
    ("[blend]\nseed = 'x'", ["[blend.seed]", "`int`", "`str`"]),
    ("[blend]\nseed = 1.5", ["[blend.seed]", "`int`", "`float`"]),
    ("[blend]\nseed = true", ["[blend.seed]", "`int`", "`bool`"]),
    ("[blend]\nseed = 1979-05-27", ["[blend.seed]", "`int`"]),
    ("[blend]\nprior_strength = '9'", ["[blend.prior_strength]", "`float`", "`str`"]),
    ("[population]\ntop_max = 10.0", ["[population.top_max]", "`int`", "`float`"]),
    ("[memory]\nwindow_ms = []", ["[memory.window_ms]", "`int`", "`array`"]),
    ("[pools.new]\nkind = 3", ["[pools", "kind]", "`str`", "`int`"]),
    ("[pools.new]\nkind = 'newest'", ["[pools.new] kind", "'newest'", '"module:Class"']),
    ("[pools.new]", ["[pools", "`kind`"]),
    ("[actions.like]\nreward = '1'", ["[actions", "reward]", "`float`", "`str`"]),
    ("[actions.like]", ["[actions", "`reward`"]),
    ("blend = 3", ["[blend]", "`int`"]),
    ("pools = []", ["[pools]", "`array`"]),
    ("[actions.like]\nreward = nan", ["[actions", "reward must be a finite number"]),
    ("[actions.like]\nreward = -inf", ["[actions", "reward must be a finite number"]),
    *(
        (f"[blend]\n{key} = {value}", ["[blend]", f"{key} must be from 0.001 to 1e+09"])
        for key in ("base_successes", "base_failures", "prior_strength", "temperature")
        for value in ("nan", "inf", "-inf", "0", "0.0", "-0.0", "-1.5", "0.00099", "1.1e9")
    ),
    *((f"[blend]\nseed = {value}", ["[blend]", "seed must be from 0 to below 2**63"]) for value in (-1, 2**63)),
    *((f"[blend]\nepsilon = {value}", ["[blend]", "epsilon must be"]) for value in ("nan", "inf", "-0.1", "1.1")),
    *(
        (f"[blend]\ndelta_one_chance = {value}", ["[blend]", "delta_one_chance must be"])
        for value in ("nan", "inf", "-0.1", "0.0", "1.0")
    ),
    *((f"[blend]\n{key} = 'x'", [f"[blend.{key}]", "'x'"]) for key in ("draw", "order", "returns")),
    *(
        (f"[blend]\n{key} = {value}", ["[blend]", f"{key} must be at least 1"])
        for key in ("slots_max", "newcomer_slots")
        for value in (0, -1)
    ),
    *(
        (f"[{table}]\n{key} = {value}", [f"[{table}]", f"{key} must be at least"])
        for table, kind in (("population", PopulationPolicy), ("memory", MemoryPolicy))
        for key in names_of(kind)
        for value in ((-1,) if key == "views_max" else (0, -1))
    ),
    *(
        (f"[pools.a]\nkind = 'fresh'\n{lines}", ["[pools", "floor and cap must be shares"])
        for lines in ("floor = -0.1", "floor = 1.1", "floor = nan", "cap = 1.1", "cap = nan", "floor = 1\ncap = 0")
    ),
    *(
        (f"[pools.a]\nkind = 'fresh'\n{key} = {value}", ["[pools", f"{key} must be from 0 to 1e+09"])
        for key in ("ratio", "floor_views")
        for value in ("-0.1", "nan", "inf", "1.1e9")
    ),
    *(
        (f"[pools.a]\nkind = 'fresh'\n{line}", ["[pools", "required and pinned must be from 0 to 999"])
        for line in ("required = -1", "required = 1000", f"required = {2**70}", "pinned = [-1]", "pinned = [1000]")
    ),
    ("[pools.a]\nkind = 'fresh'\npriority = 0.5", ["[pools", "priority]", "`int`", "`float`"]),
    ("\n".join(f"[pools.p{n}]\nkind = 'fresh'\nfloor = 0.4" for n in range(3)), ["floors of all", "1.2"]),
    ("\n".join(f"[pools.p{n}]\nkind = 'fresh'\npinned = [3, {n}]" for n in range(2)), ["one slot twice"]),
    ("[pools.a]\nkind = 'fresh'\npinned = [3, 3]", ["pinned must not give one slot"]),
    ("[pools.a]\nkind = 'fresh'\nratio = 0", ["one pool at least needs a ratio above 0"]),
    *(
        (f"[blend]\nsession_strength = {value}", ["[blend]", "session_strength must be 0 or from 0.001 to 1e+09"])
        for value in ("-1", "nan", "inf", "0.0001", "1.1e9")
    ),
    (
        "[blend]\nsession_strength = 9\n[memory]\nsession_half_life_ms = 10800001",
        ["session_half_life_ms must be at most an eighth of window_ms, 10800000"],
    ),
    ("[blend]\ncohort_by = 'country'", ["[blend]", "cohort_by and cohorts need each other"]),
    ("[blend]\ncohorts = ['a']", ["[blend]", "cohort_by and cohorts need each other"]),
    *(
        (f"[blend]\ncohort_by = 'c'\ncohorts = {names}", ["[blend]", "at most 64 names, none twice"])
        for names in ("['a', 'a']", str([f"c{n}" for n in range(65)]))
    ),
    *(
        (f"[blend]\ncohort_by = 'c'\ncohorts = ['{name}']", ["[blend]", "is not its last word", repr(name)])
        for name in ("", "new", "a new", " a", "a ", "a" * 65)
    ),
    ("[blend]\ndraw = 'slot'\norder = 'rounded'", ["[blend]", "rounded", 'draw must not be "slot"']),
    ("[experiments.x.arms.a]", ["[experiments.x]", "arms must hold 2 to 16 names"]),
    ("[experiments.x.arms.a]\n[experiments.x.arms.b]\nshare = 0", ["[experiments.x", "share must be above 0"]),
    (
        "[experiments.x.arms.a]\n[experiments.x.arms.b]\nset = {'blend.seed' = 1}",
        ["[experiments.x", "an arm cannot set 'blend.seed', only what is decided for each feed", "blend.draw"],
    ),
    (
        "[experiments.x.arms.a]\n[experiments.x.arms.b]\nset = {'pools.cold.floor' = 0.1}",
        ["experiments.x.arms.b: there is no pools.cold"],
    ),
    ("[rules.a]\nkind = 'blok'", ["[rules.a.kind]", "'blok'"]),
    ("[rules.a]\nattribute = 'item'", ["[rules.a] ", "`kind`"]),
    ("[rules.a]\nkind = 'block'\nattribute = 'item'\nvalues = []\nmost = 1", ["[rules.a] ", "unknown key `most`"]),
    ("[rules.a]\nkind = 'cap'\nattribute = 'x'\nmost = 0", ["[rules.a] ", "most must be from 1 to 1000"]),
    ("[rules.a]\nkind = 'cap'\nattribute = 'item'\nmost = 1", ["[rules.a] ", "every item once"]),
    ("[rules.a]\nkind = 'fresh'\nleast = 0\nyounger_ms = 1", ["[rules.a] ", "least must be from 1 to 1000"]),
    ("[rules.a]\nkind = 'seen'\ntimes = 0\nwithin_ms = 1", ["[rules.a] ", "at least 1"]),
    ("[rules.a]\nkind = 'seen'\ntimes = 1\nwithin_ms = 1", ["needs [memory] views_max above 0"]),
    ("[rules.a]\nkind = 'diverse'\nattribute = 'x'\nweight = nan", ["[rules.a] ", "weight must be from 0 to 1"]),
    ("[rules.hidden]\nkind = 'cap'\nattribute = 'x'\nmost = 1", ["rules.hidden", "at most 32, not reacted"]),
    ("[actions.like]\nreward = 1\nhides = 'all'", ["[actions.like.hides]", "'all'"]),
    ("[pools]", ["pools", "1 to 32", "not 0"]),
    ("[actions]", ["actions", "1 to 32", "not 0"]),
    ("\n".join(f"[pools.p{n}]\nkind = 'fresh'" for n in range(33)), ["pools", "1 to 32", "not 33"]),
    ("\n".join(f"[actions.a{n}]\nreward = 1.0" for n in range(33)), ["actions", "1 to 32", "not 33"]),
    ("[actions.hide]\nreward = -1.0", ["actions", "reward above 0"]),
    ("[actions.rated]\nreward = 0.0", ["actions", "reward above 0"]),
    ("[pools.New]\nkind = 'fresh'", ["pools.New", "lower-case"]),
    ("[pools.1st]\nkind = 'fresh'", ["pools.1st", "lower-case"]),
    ("[pools.'']\nkind = 'fresh'", ["pools.", "lower-case"]),
    ("[pools.'a b']\nkind = 'fresh'", ["pools.a b", "lower-case"]),
    (f"[pools.{'p' * 33}]\nkind = 'fresh'", ["pools.ppp", "at most 32"]),
    ("[actions.größer]\nreward = 1.0", ["not TOML"]),  # TOML wants quotes around it
    ("[actions.'']\nreward = 1.0", ["actions.", "1 to 64"]),
    (f"[actions.{'a' * 65}]\nreward = 1.0", ["actions.aaa", "1 to 64"]),
    ('[pools."a\\nb"]\nkind = "fresh"', ["pools.", "lower-case"]),
    ('[blend]\n"a\\nb" = 1', ["[blend]", "unknown key"]),
    ("= 3", ["not TOML", "line 1"]),
    ("[blend]\nseed = x", ["not TOML", "line 2"]),
    ("[blend]\nseed = 1\n[blend]\nseed = 2", ["not TOML"]),
    (b"\xff\xfe[\x00", ["not TOML", "utf-8"]),
    ("[blend]\nseed = " + "1" * 5000, ["not TOML"]),
    ("x = " + "[" * 5000, ["not TOML"]),
]
# fmt: on


@pytest.mark.parametrize(("text", "words"), REFUSED, ids=[repr(text[-40:]) for text, _ in REFUSED])
def test_a_file_that_cannot_be_used_is_refused_in_one_line_that_names_file_and_place(
    text: str | bytes, words: list[str], tmp_path: Path
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_policy(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(str(path))
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize("place", ["nowhere.toml", ".", "mine.toml/beneath"])
def test_a_file_that_cannot_be_read_is_refused_in_one_line_that_names_it(place: str, tmp_path: Path) -> None:
    written(tmp_path, "")
    path = tmp_path / place
    with pytest.raises(InputError) as caught:
        read_policy(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"cannot read the policy {path}: ")


# The version


def changed(value: Any) -> Any:
    """Another value of the same type, as near as there is one."""
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value - 2.0**-40 if value == 1.0 else value + 2.0**-40
    if isinstance(value, tuple):
        return (*value, "z" if value and isinstance(value[0], str) else 3)
    return {"": "item", "feed": "slot", "fitted": "winner", "fresh": "popular", "greedy": "spread"}.get(
        value, "fresh"
    )


def neighbours_of(policy: Policy) -> dict[str, Policy]:
    """Policies that differ from this one in one thing each."""
    others = {}
    for table in ("blend", "population", "memory"):
        old = getattr(policy, table)
        for key in names_of(type(old)):
            new = replace(old, **{key: "x" if key == "cohort_by" else changed(getattr(old, key))})
            others[f"{table}.{key}"] = replace(policy, **{table: new})
    for table in ("pools", "actions"):
        old = getattr(policy, table)
        for name, entry in old.items():
            for key in names_of(type(entry)):
                new = replace(entry, **{key: changed(getattr(entry, key))})
                others[f"{table}.{name}.{key}"] = replace(policy, **{table: {**old, name: new}})
        first = next(iter(old.values()))
        others[f"{table}, one more"] = replace(policy, **{table: {**old, "another": first}})
        others[f"{table}, another order"] = replace(policy, **{table: dict(reversed(old.items()))})
        others[f"{table}, another name"] = replace(
            policy, **{table: {f"{name}x": entry for name, entry in old.items()}}
        )
    return others


def test_every_change_of_any_value_changes_the_version() -> None:
    levels = BlendPolicy(session_strength=5.0, cohort_by="country", cohorts=("a",))
    policy = Policy(actions={"like": ActionPolicy(1.0), "hide": ActionPolicy(-1.0)}, blend=levels)
    others = neighbours_of(policy)
    keys = sum(len(names_of(table)) for table in (BlendPolicy, PopulationPolicy, MemoryPolicy))
    assert len(others) == keys + len(policy.pools) * len(names_of(PoolPolicy)) + 2 * len(policy.actions) + 2 * 3
    versions = {name: other.version for name, other in others.items()}
    assert [name for name, version in versions.items() if version == policy.version] == []
    assert len(set(versions.values())) == len(versions)


def test_a_policy_has_the_same_version_in_another_process(tmp_path: Path) -> None:
    """Whatever that process takes for its hashes of strings."""
    path = written(tmp_path, "[actions.buy]\nreward = 0.1\n[actions.hide]\nreward = -2\n[blend]\nseed = 3\n")
    program = (
        "import sys, pathlib; from streams.policy_file import read_policy; "
        "print(read_policy(pathlib.Path(sys.argv[1])).version)"
    )
    command = [sys.executable, "-c", program, str(path)]
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={"PYTHONHASHSEED": hash_seed},
            timeout=60,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == read_policy(path).version


def test_a_version_is_twelve_hexadecimal_digits() -> None:
    assert len(Policy().version) == 12
    assert int(Policy().version, 16) >= 0
