"""Which firmware is later than which."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bugs.firmware import at_or_later, canonical, parse

OLDEST_FIRST = (
    "0.9", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11",
    "1.0.0-rc.1", "1.0.0", "2.3.1-rc1", "2.3.1", "2.3.2", "2.9", "2.10.0", "2.10.0.1", "10",
)  # fmt: skip
SAME = (
    ("v2.3.1", "2.3.1"), ("V2.3", "2.3.0"), ("2.3.1+abc", "2.3.1+def.5"), (" 2.3.1 ", "2.3.1"), ("2.03.1", "2.3.1"),
    ("2", "2.0.0.0"), ("2.3.1-rc.01", "2.3.1-rc.1"), ("0", "0.0"),
)  # fmt: skip
UNREADABLE = (
    "",
    "latest",
    "2.",
    "2..3",
    "2.3.1-",
    "2.3.1-a..b",
    "2.3.1 beta",
    "vv2",
    "2.3.1_1",
    "٢.٣",
    "1" * 5_000,
    "-",
)

numbers = st.integers(0, 10**6).map(str)
words = st.one_of(numbers, st.from_regex(r"[0-9A-Za-z-]{1,6}", fullmatch=True))


@st.composite
def readable(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from(["", "v"])) + ".".join(draw(st.lists(numbers, min_size=1, max_size=4)))
    if draw(st.booleans()):
        text += "-" + ".".join(draw(st.lists(words, min_size=1, max_size=3)))
    return text + draw(st.sampled_from(["", "+abc", "+1.2-x"]))


@pytest.mark.parametrize(("older", "newer"), list(pairwise(OLDEST_FIRST)))
def test_numbers_count_as_numbers_and_a_release_comes_after_what_came_before_it(older: str, newer: str) -> None:
    assert at_or_later(newer, older)
    assert not at_or_later(older, newer)


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_version_in_two_writings_is_one(one: str, other: str) -> None:
    assert at_or_later(one, other)
    assert at_or_later(other, one)
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize("text", UNREADABLE)
def test_what_cannot_be_read_is_later_than_nothing_but_the_same_text(text: str) -> None:
    assert parse(text) is None
    assert at_or_later(text, text)
    assert not at_or_later(text, "2.3.1")
    assert not at_or_later("2.3.1", text)
    assert canonical(f" {text} ") == text


@given(readable(), readable(), readable())
def test_readable_versions_are_in_one_order(a: str, b: str, c: str) -> None:
    assert at_or_later(a, a)
    assert at_or_later(a, b) or at_or_later(b, a)
    if at_or_later(a, b) and at_or_later(b, a):
        assert canonical(a) == canonical(b)
    if at_or_later(a, b) and at_or_later(b, c):
        assert at_or_later(a, c)
    low, middle, high = sorted((a, b, c), key=parse)  # type: ignore[arg-type]
    assert at_or_later(high, middle)
    assert at_or_later(middle, low)
    assert at_or_later(high, low)


@given(readable())
def test_the_canonical_writing_is_the_same_version_and_its_own(text: str) -> None:
    assert at_or_later(text, canonical(text))
    assert at_or_later(canonical(text), text)
    assert canonical(canonical(text)) == canonical(text)


@given(st.text(max_size=300), st.text(max_size=300))
def test_no_text_is_an_error(a: str, b: str) -> None:
    at_or_later(a, b)
    assert canonical(canonical(a)) == canonical(a)
