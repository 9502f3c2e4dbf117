"""XML to elements that know their line, with entity bombs, outside references and deep nesting refused."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from storage.errors import UnreadableError

if TYPE_CHECKING:
    from pyexpat import XMLParserType

_MAX_DEPTH = 64
_DECLARED = re.compile(rb"""<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9._-]+)["'][^>]{0,100}\?>""")

# Encodings of several bytes per character, which expat does not know.
_EAST_ASIAN = {"gbk", "gb2312", "gb18030", "cp936", "big5", "shift_jis", "euc-jp", "euc-kr", "cp949"}


@dataclass(slots=True)
class Element:
    """An XML element: its text without white space around it, and the line on which it starts."""

    tag: str
    line: int
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def first(self, tag: str) -> Element | None:
        """The first child of that name."""
        return next((child for child in self.children if child.tag == tag), None)

    def all(self, tag: str) -> list[Element]:
        """The children of that name."""
        return [child for child in self.children if child.tag == tag]


def read_xml(data: bytes, path: str) -> Element:
    """Parse XML; namespaces are dropped from the tags.

    Raises :class:`UnreadableError` for what is not well-formed, declares entities, refers to other documents,
    or is nested more than 64 deep.
    """
    target = _Builder(path)
    parser = DefusedXMLParser(target=target)
    expat: XMLParserType = parser.parser
    target.expat = expat
    try:
        parser.feed(_expat_text(data, path))
        parser.close()
    except ParseError as error:
        line, column = error.position
        raise UnreadableError(
            path, f"{error.msg} (column {column + 1})", line=line, expected="well-formed XML"
        ) from error
    except DefusedXmlException as error:
        raise UnreadableError(
            path,
            f"{type(error).__name__}: XML with entities",
            line=expat.CurrentLineNumber,
            expected="plain XML",
        ) from error
    except (ValueError, LookupError) as error:
        raise UnreadableError(path, str(error), expected="XML in a known encoding") from error
    if target.root is None:
        raise UnreadableError(path, "no element", expected="XML")
    return target.root


def as_json(element: Element) -> Any:
    """An element as JSON values: the text of a leaf, else an object; children of one name become a list.

    XML attributes are keys with ``@``; a text beside them or beside children is ``#text``.
    """
    if not element.children and not element.attributes:
        return element.text
    values: dict[str, Any] = {f"@{name}": value for name, value in element.attributes.items()}
    if element.text:
        values["#text"] = element.text
    return values | children_as_json(element.children)


def children_as_json(children: list[Element]) -> dict[str, Any]:
    """Elements by name; those of one name as a list."""
    values: dict[str, Any] = {}
    for child in children:
        value = as_json(child)
        if child.tag not in values:
            values[child.tag] = value
        elif isinstance(values[child.tag], list):
            values[child.tag].append(value)
        else:
            values[child.tag] = [values[child.tag], value]
    return values


class _Builder:
    """Receives the parser's events. White space between elements says nothing and goes."""

    def __init__(self, path: str) -> None:
        self.expat: XMLParserType | None = None
        self._path = path
        self._stack: list[Element] = []
        self._texts: list[list[str]] = []
        self.root: Element | None = None

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        line = self.expat.CurrentLineNumber if self.expat is not None else 0
        if len(self._stack) >= _MAX_DEPTH:
            raise UnreadableError(
                self._path, f"elements nested more than {_MAX_DEPTH} deep", line=line, expected="annotations"
            )
        element = Element(_local(tag), line, dict(attributes))
        if self._stack:
            self._stack[-1].children.append(element)
        else:
            self.root = element
        self._stack.append(element)
        self._texts.append([])

    def data(self, text: str) -> None:
        if self._texts:
            self._texts[-1].append(text)

    def end(self, tag: str) -> None:  # noqa: ARG002 - the interface of a parser's target
        self._stack.pop().text = "".join(self._texts.pop()).strip()

    def close(self) -> None:
        pass


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _expat_text(data: bytes, path: str) -> bytes:
    """The file for expat: East Asian encodings become UTF-8, without a declaration."""
    declared = _DECLARED.search(data[:512])
    if declared is None or (encoding := declared.group(1).decode().lower()) not in _EAST_ASIAN:
        return data
    try:
        text = data[declared.end() :].decode(encoding)
    except UnicodeDecodeError as error:
        raise UnreadableError(
            path, f"{error.reason} at offset {error.start}", expected=f"{encoding} text"
        ) from error
    return text.encode()
