"""VOC files as label tools write them, by patterns: the fast way of :mod:`.voc`.

Fits ASCII text without comments, entities, CDATA sections and attributes (but labelImg's ``verified``), with
objects of a name, the usual leaves and a box of whole numbers. Whatever does not fit, in one element, sends
the whole file the slow way, to the XML parser.
"""

from __future__ import annotations

import re
from array import array
from functools import lru_cache
from itertools import accumulate, chain
from operator import add

import msgspec

from transforms.delivery import without_extension
from transforms.formats.gathered import Rows, plain_text

_S = r"[ \t\n]*+"
_TEXT = r"[^<>&\x00-\x08\x0b-\x1f\x7f]*+"
_WHOLE = r"(0|-?[1-9][0-9]{0,14})"
_TAG = r"(?:pose|truncated|difficult|occluded)"
_LEAVES = rf"((?:<{_TAG}>{_TEXT}</{_TAG}>{_S})*+)"
_CORNERS = "".join(rf"<{name}>{_S}{_WHOLE}{_S}</{name}>{_S}" for name in ("xmin", "ymin", "xmax", "ymax"))
# An object, the end, or all that is left where neither fits.
_OBJECTS = re.compile(
    rf"(<object>{_S}<name>({_TEXT})</name>{_S}{_LEAVES}<bndbox>{_S}{_CORNERS}</bndbox>{_S}{_LEAVES}</object>"
    rf"{_S})|(</annotation>{_S}\Z)|((?s:.)+)"
)
_START = re.compile(
    rf"(?:<\?xml version=\"1\.0\"(?: encoding=\"(?:utf-8|UTF-8)\")?\?>)?{_S}"
    rf"<annotation(?: verified=\"(yes|no)\")?>{_S}"
)
_TOKENS = re.compile(rf"(?:<(/?)([A-Za-z_]\w*+)>({_TEXT}))*+")
_TOKEN = re.compile(rf"<(/?)([A-Za-z_]\w*+)>({_TEXT})")
_LEAF = re.compile(rf"<(\w+)>({_TEXT})</(\w+)>{_S}")
_NAMES = ("filename", "path")
_SIGNS = frozenset("<>&")
_END = 8
_SIDE = re.compile("[1-9][0-9]{0,8}")


def plain_voc(data: bytes, path: str) -> Rows | None:
    """The rows of a VOC file; None where it is not of the plain form."""
    text = plain_text(data)
    begin = text.find("<object>") if text is not None else -1
    if text is None or begin < 0:
        return None
    head = _head(text[:begin])
    if head is None:
        return None
    width, height, of_image = head
    # One call for all objects: a step of Python for each costs more than finding it.
    *objects, end = _OBJECTS.findall(text, begin)
    if not end[_END] or not objects:
        return None
    whole, called, before, left, top, right, bottom, after, _, rest = zip(*objects, strict=True)
    leaves = list(map(_leaves, map(add, before, after)))
    names = [name.strip() for name in called]
    if any(rest) or None in leaves or "" in names:
        return None
    ignores, attributes = zip(*leaves, strict=True)
    first = text.count("\n", 0, begin) + 1
    lines = list(accumulate((one.count("\n") for one in whole[:-1]), initial=first))
    boxes = array("d", map(float, chain.from_iterable(zip(left, top, right, bottom, strict=True))))
    return Rows(
        form="voc",
        ref=without_extension(path),
        lines=lines,
        categories=names,
        boxes=boxes,
        ignores=ignores,
        attributes=attributes,
        width=width,
        height=height,
        of_image=of_image,
    )


@lru_cache(maxsize=1_000)
def _leaves(text: str) -> tuple[bool, str] | None:
    """Whether leaves say difficult, and all of them as JSON; None where a tag is closed by another's end."""
    values = {}
    for tag, content, end in _LEAF.findall(text):
        if tag != end or tag in values:
            return None
        values[tag] = content.strip()
    difficult = values.get("difficult", "").lower() in {"1", "true", "yes"}
    return difficult, msgspec.json.encode(values).decode()


def _head(text: str) -> tuple[int, int, str] | None:
    """Width, height, and the other elements before the objects as JSON."""
    names: dict[str, str] = {}
    for tag in _NAMES:
        opening, closing = f"<{tag}>", f"</{tag}>"
        before, found, after = text.partition(opening)
        name, closed, rest = after.partition(closing)
        # Heads differ in these alone, so without them most are known already.
        if found and closed and opening not in rest and name.isprintable() and not _SIGNS.intersection(name):
            names[tag] = name.strip()
            text = before + opening + closing + rest
    head = _head_without_names(text)
    if head is None:
        return None
    width, height, values = head
    if any(values.get(tag) != "" for tag in names):
        return None
    return width, height, msgspec.json.encode({**values, **names}).decode()


@lru_cache(maxsize=1_000)
def _head_without_names(text: str) -> tuple[int, int, dict[str, object]] | None:
    start = _START.match(text)
    if start is None or _TOKENS.fullmatch(text, start.end()) is None:
        return None
    values: dict[str, object] = {} if start.group(1) is None else {"@verified": start.group(1)}
    group: dict[str, object] = values
    opened: list[str] = []
    leaf = False
    content = ""
    for slash, tag, words in _TOKEN.findall(text, start.end()):
        if slash:
            if not opened or opened.pop() != tag:
                return None
            if leaf:
                group[tag] = content
            elif opened:
                return None
            else:
                group = values
            if words and not words.isspace():
                return None
            leaf = False
            continue
        if leaf:
            # An element within an element: a group, of which only the first level is plain.
            if len(opened) != 1 or content:
                return None
            group = {}
            values[opened[0]] = group
        if tag in group:
            return None
        opened.append(tag)
        leaf, content = True, words.strip()
    size = values.get("size")
    if opened or not isinstance(size, dict):
        return None
    width, height = size.pop("width", ""), size.pop("height", "")
    if not (_SIDE.fullmatch(str(width)) and _SIDE.fullmatch(str(height))):
        return None
    return int(str(width)), int(str(height)), values
