"""The reference of the policy: its JSON Schema for editors and its page, made of the types and their comments."""

import inspect
import re
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from engine.policy import Policy
from streams.values import DIALECT

_FIELD = re.compile(r"    (\w+): (?:[^#\n]*?)(?:  # (.*))?\n")
_MORE = re.compile(r"    # (.*)\n")


def comments_of(kind: type[Struct]) -> dict[str, str]:
    """What stands beside each field of a table in its source, by field."""
    found: dict[str, str] = {}
    name = None
    for line in inspect.getsource(kind).splitlines(keepends=True):
        if field := _FIELD.fullmatch(line):
            name = field[1]
            found[name] = field[2] or ""
        elif (more := _MORE.fullmatch(line)) and name in found:
            found[name] = f"{found[name]} {more[1]}".strip()
        elif not line.startswith("    ") and line.strip():
            name = None
    return {name: comment for name, comment in found.items() if name in kind.__struct_fields__}


def tables() -> dict[str, type[Struct]]:
    """The tables of a policy file, as their headings, in their order; NAME stands for a name of one's own."""
    found: dict[str, type[Struct]] = {}
    for table, kind in get_type_hints(Policy).items():
        if table in Policy.__struct_fields__:
            _add(found, table, kind)
    return found


def _add(found: dict[str, type[Struct]], place: str, kind: Any) -> None:
    if get_origin(kind) is dict:
        _add(found, f"{place}.NAME", get_args(kind)[1])
    elif isinstance(kind, UnionType):
        for one in filter(_is_table, get_args(kind)):
            found[f"`[{place}]` of kind `{one.__struct_config__.tag}`"] = one
    elif _is_table(kind):
        found[f"`[{place}]`"] = kind
        for field, inner in get_type_hints(kind).items():
            if field in kind.__struct_fields__ and get_origin(inner) is dict:
                _add(found, f"{place}.{field}", inner)


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def document_schema() -> dict[str, Any]:
    """The JSON Schema of a policy file: shapes, defaults, descriptions; reading checks what goes together."""
    (_,), definitions = msgspec.json.schema_components([Policy])
    kinds: list[type[Struct]] = [Policy, *tables().values()]
    for kind in kinds:
        definition, comments = definitions[kind.__name__], comments_of(kind)
        definition["description"] = inspect.cleandoc(kind.__doc__ or "")
        for field, schema in definition["properties"].items():
            if comments.get(field):
                schema["description"] = comments[field]
    whole = definitions.pop("Policy")
    return {"$schema": DIALECT, "$id": "urn:feedloom:policy-file", **whole, "$defs": definitions}


def page() -> str:
    """docs/policy.md."""
    lines = [
        "# Every key of the policy",
        "",
        "Made from the types by `make reference`; `policy.toml` shows the same keys with all defaults.",
        "A table that a file leaves out is as here; `[pools]` and `[actions]` are taken whole.",
    ]
    for place, kind in tables().items():
        doc = inspect.cleandoc(kind.__doc__ or "").split("\n\n")
        lines += [
            "",
            f"## {place}",
            "",
            doc[0].partition(": ")[2] or doc[0],
            *[f"\n{more}" for more in doc[1:]],
        ]
        lines += ["", "| key | default | what it is |", "|---|---|---|"]
        comments = comments_of(kind)
        for field in msgspec.structs.fields(kind):
            default = field.default if field.default is not msgspec.NODEFAULT else None
            shown = "needed" if field.required else f"`{_literal(default)}`"
            what = comments.get(field.name, "").replace("|", "\\|")
            choices = _choices(field.type)
            lines.append(f"| `{field.name}` | {shown} | {what}{choices} |")
    return "\n".join(lines) + "\n"


def _literal(value: object) -> str:
    return "{}" if value is None else msgspec.json.encode(value).decode()


def _choices(kind: Any) -> str:
    literals = [arg for arg in get_args(kind) if isinstance(arg, str)]
    return f" ({', '.join(f'`{name}`' for name in literals)})" if literals else ""


def main() -> None:
    """Write the page and the schema."""
    Path("docs/policy.md").write_text(page())
    schema = msgspec.json.format(msgspec.json.encode(document_schema()))
    Path("docs/policy.schema.json").write_bytes(schema + b"\n")


if __name__ == "__main__":
    main()
