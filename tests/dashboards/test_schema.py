"""Every dashboard follows Grafana's schema, as the foundation SDK has it."""

from __future__ import annotations

import copy
import enum
import json
import types
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import dashboard as model

from dashboards.generator.files import FOLDER

BOARDS = {path.stem: json.loads(path.read_text()) for path in (FOLDER / "grafana" / "dashboards").glob("*.json")}


def read(board: dict[str, Any]) -> model.Dashboard:
    register_default_plugins()  # the schemas of the types of panels
    return model.Dashboard.from_json(copy.deepcopy(board))


def written(board: model.Dashboard) -> Any:
    return json.loads(json.dumps(board, cls=JSONEncoder))


def foreign_values(value: object, hint: object, path: str = "") -> Iterator[str]:
    """Yield the values that are not among those of their enumeration."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next((each for each in typing.get_args(hint) if each is not type(None)), None)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        if value is not None and value not in {member.value for member in hint}:
            yield f"{path} is {value!r}"
    elif isinstance(value, list):
        inner = (*typing.get_args(hint), None)[0]
        for place, each in enumerate(value):
            yield from foreign_values(each, inner, f"{path}[{place}]")
    elif type(value).__module__.startswith("grafana_foundation_sdk"):
        for name, field in typing.get_type_hints(type(value)).items():
            yield from foreign_values(getattr(value, name), field, f"{path}.{name}")


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_dashboard_has_only_known_fields_and_values(name: str) -> None:
    board = read(BOARDS[name])
    assert written(board) == BOARDS[name]  # reading drops the fields that the schema does not have
    assert list(foreign_values(board, None)) == []


def test_unknown_field_is_found() -> None:
    board = copy.deepcopy(BOARDS["flowrt-node"])
    board["panels"][0]["fieldConfig"]["defaults"]["colour"] = "red"
    assert written(read(board)) != board


@pytest.mark.parametrize("path", [("options", "graphMode"), ("fieldConfig", "defaults", "color", "mode")])
def test_unknown_value_is_found(path: tuple[str, ...]) -> None:
    board = copy.deepcopy(BOARDS["flowrt-node"])
    *above, last = path
    place = board["panels"][0]
    for name in above:
        place = place[name]
    assert last in place
    place[last] = "bogus"
    (found,) = foreign_values(read(board), None)
    assert "bogus" in found
