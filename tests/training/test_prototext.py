from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import ConfigError
from training.detectnet_v2.prototext import Message, PrototextError, Scalar, format_text, parse


def texts(message: Message, key: str) -> list[str]:
    return [value.text for value in message.fields[key] if isinstance(value, Scalar)]


def test_messages_nest_with_and_without_colon_and_in_angle_brackets() -> None:
    message = parse("a { b: 1 } a: { b: 2 } a < b: 3 >")
    assert [texts(block, "b") for block in message.fields["a"] if isinstance(block, Message)] == [
        ["1"], ["2"], ["3"]
    ]  # fmt: skip


def test_repeated_keys_and_lists_give_the_same() -> None:
    assert texts(parse("x: 1 x: 2, x: 3;"), "x") == texts(parse("x: [1, 2, 3]"), "x") == ["1", "2", "3"]


def test_lists_of_messages_need_no_colon() -> None:
    message = parse("m [{ a: 1 }, { a: 2 }] e: []")
    assert len(message.fields["m"]) == 2
    assert message.fields["e"] == []


def test_comments_end_with_their_line_but_not_inside_strings() -> None:
    message = parse('# all\na: "x # y" # z\nb: NAME')
    assert texts(message, "a") == ["x # y"]
    assert message.fields["b"] == [Scalar("NAME", "name", 3)]


def test_strings_are_joined_and_their_escapes_decoded_as_utf8() -> None:
    assert texts(parse(r"""s: "a\n\"" 'b\'' "\303\251\x41\u00e9" """), "s") == ["a\n\"b'éAé"]


@pytest.mark.parametrize("number", ["-1", "0x1F", "017", "1e-8", "5.", ".5", "2.5f", "-inf"])
def test_numbers_are_kept_as_written(number: str) -> None:
    assert texts(parse(f"n: {number}"), "n") == [number]


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ("a {\n  b: 1\n", 3, "the end of the text"),
        ("a: 1\n}", 2, "'}'"),
        ("a: 1\nb\n", 3, "the end of the text"),
        ("a 1", 1, "'1'"),
        ('a: "x\n', 1, "an unclosed string"),
        ("a: [1 2]", 1, "'2'"),
        ("a: -x", 1, "'x'"),
        ('a: "\\q"', 1, r"\\q"),
        ('a: "\\xff"', 1, "xff"),
        ("a: 1x", 1, "'1x'"),
        ("[ext.name]: 1", 1, "'['"),
        ("a { b: 1 >", 1, "'>'"),
    ],
)
def test_a_wrong_text_is_refused_with_line_and_finding(text: str, line: int, found: str) -> None:
    with pytest.raises(PrototextError, match=f"spec.txt, line {line}") as caught:
        parse(text, "spec.txt")
    assert found in caught.value.message
    assert caught.value.line == line


def test_nesting_without_end_is_refused_rather_than_followed() -> None:
    with pytest.raises(ConfigError, match="nested deeper"):
        parse("a {" * 10_000)


@given(st.text())
def test_any_text_parses_or_raises_our_error(text: str) -> None:
    with contextlib.suppress(PrototextError):
        parse(text)


@given(st.text(st.characters(codec="utf-8")), st.floats(allow_nan=False), st.integers(), st.booleans())
def test_what_is_written_reads_back(text: str, real: float, whole: int, flag: bool) -> None:
    written = format_text({"s": text, "f": real, "i": [whole, whole], "m": {"b": flag}})
    message = parse(written)
    assert texts(message, "s") == [text]
    assert float(texts(message, "f")[0]) == real
    assert texts(message, "i") == [str(whole)] * 2
