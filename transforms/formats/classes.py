"""Class lists, which give YOLO's numbers their names: ``data.yaml``, ``classes.txt``, ``obj.names``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from storage.errors import UnknownFormatError, UnreadableError
from transforms.delivery import DELIVERED_CATEGORIES, Delivery, table
from transforms.formats.text import text_of

_LIST_NAME = re.compile(r"_?(?:classes|labels|class_?names)\.txt|.*\.names|.*_darknet\.labels", re.IGNORECASE)
_NAMES_KEY = re.compile(r"(?:^|[{,])\s*([\"']?)names\1\s*:", re.MULTILINE)
_WHOLE = re.compile(r"[0-9]{1,9}")
_MAX_YAML_CHARACTERS = 4_000_000
_MAX_DEPTH = 32

# libyaml where it is there; neither loader resolves tags here, since only nodes are composed.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_names(data: bytes, path: str) -> Delivery:
    """Read one name per line; the first line is class 0. Blank lines keep their number and name nothing."""
    lines = text_of(data, path).split("\n")
    return _delivery((number, name) for number, line in enumerate(lines) if (name := line.strip()))


def read_data_yaml(data: bytes, path: str) -> Delivery | None:
    """Read the ``names`` of a YOLO ``data.yaml``, a list or a mapping of numbers; None without such a key.

    Every scalar is taken as the text that it is, so a class ``no`` stays ``no``. Raises
    :class:`UnreadableError` with the line for YAML that is malformed or uses aliases, for numbers that come
    twice, and where ``nc`` says another number of classes; :class:`UnknownFormatError` for a set with
    keypoints.
    """
    text = text_of(data, path)
    if not _NAMES_KEY.search(text):
        return None
    root = _compose(text, path)
    if not isinstance(root, yaml.MappingNode):
        return None
    entries = {key.value: value for key, value in root.value if isinstance(key, yaml.ScalarNode)}
    names = entries.get("names")
    if (shape := entries.get("kpt_shape")) is not None:
        raise UnknownFormatError(
            path,
            "recognised as YOLO pose (kpt_shape), whose labels are not read",
            line=_line(shape),
            expected="names of YOLO's boxes or polygons",
        )
    if isinstance(names, yaml.SequenceNode):
        found = [(number, _scalar(node, path)) for number, node in enumerate(names.value)]
    elif isinstance(names, yaml.MappingNode):
        found = [(_number(key, path), _scalar(value, path)) for key, value in names.value]
        _refuse_twice(names, found, path)
    else:
        return None
    count = entries.get("nc")
    if (
        isinstance(count, yaml.ScalarNode)
        and _WHOLE.fullmatch(count.value)
        and int(count.value) != len(found)
    ):
        raise UnreadableError(
            path,
            f"nc: {count.value} and {len(found)} names",
            line=_line(count),
            expected="a name for each class",
        )
    return _delivery(found)


def is_class_list_name(name: str) -> bool:
    """Whether a file of that name, without folders, is a list of class names by custom."""
    return _LIST_NAME.fullmatch(name) is not None


def _delivery(found: Iterable[tuple[int, str]]) -> Delivery:
    rows = [{"category_id": number, "category": name} for number, name in found]
    return Delivery(kind="classes", format="classes", categories=table(rows, DELIVERED_CATEGORIES))


def _compose(text: str, path: str) -> yaml.Node | None:
    """The nodes of the first document. Aliases are refused: they are how a small file becomes a huge one."""
    if len(text) > _MAX_YAML_CHARACTERS:
        raise UnreadableError(
            path, f"{len(text)} characters of YAML", expected=f"at most {_MAX_YAML_CHARACTERS}"
        )
    depth = 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                raise UnreadableError(
                    path,
                    f"the alias *{event.anchor}",
                    line=_line(event),
                    expected="YAML without aliases",
                )
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                line = _line(event)
                raise UnreadableError(
                    path, f"more than {_MAX_DEPTH} levels", line=line, expected="a data set"
                )
        return yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        line = mark.line + 1 if mark is not None else None
        raise UnreadableError(path, str(problem), line=line, expected="YAML") from error


def _scalar(node: yaml.Node, path: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise UnreadableError(path, "a list or mapping as class name", line=_line(node), expected="a name")
    return str(node.value)


def _number(node: yaml.Node, path: str) -> int:
    text = _scalar(node, path)
    if not _WHOLE.fullmatch(text):
        raise UnreadableError(
            path, f"{text!r} as class number", line=_line(node), expected="a whole number from 0"
        )
    return int(text)


def _refuse_twice(names: yaml.MappingNode, found: list[tuple[int, str]], path: str) -> None:
    seen: set[int] = set()
    for (key, _), (number, _) in zip(names.value, found, strict=True):
        if number in seen:
            raise UnreadableError(
                path, f"class {number} twice", line=_line(key), expected="one name per number"
            )
        seen.add(number)


def _line(part: yaml.Node | yaml.Event) -> int | None:
    return part.start_mark.line + 1 if part.start_mark is not None else None
