"""Where something stands in a YAML file, for messages that name the line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import yaml


class Twice(NamedTuple):
    """A key that one mapping has twice; lines are from 1."""

    key: str
    first: int
    second: int


def line_of(node: yaml.Node | None, location: tuple[int | str, ...]) -> int:
    """The line, from 1, of what a location (keys, and places in lists) leads to, as far as it leads."""
    line = node.start_mark.line + 1 if node else 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pairs = [(key, value) for key, value in node.value if key.value == str(part)]
            if not pairs:
                break
            line = pairs[0][0].start_mark.line + 1
            node = pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def said_twice(node: yaml.Node | None) -> Twice | None:
    """The first key that a mapping has twice: YAML's loaders would take the last and say nothing."""
    for mapping in _mappings(node):
        seen: dict[str, int] = {}
        for key, _ in mapping.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in seen:
                return Twice(key.value, seen[key.value], line)
            seen[key.value] = line
    return None


def _mappings(root: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    """All mappings, each once: an alias may stand for what it is in."""
    left, known = [root], set()
    while left:
        node = left.pop()
        if node is None or id(node) in known:
            continue
        known.add(id(node))
        if isinstance(node, yaml.MappingNode):
            yield node
            left += [part for pair in reversed(node.value) for part in reversed(pair)]
        elif isinstance(node, yaml.SequenceNode):
            left += reversed(node.value)
