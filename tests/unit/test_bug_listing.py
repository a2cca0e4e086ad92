"""Cursors of bug lists, what a filter is as a query, and in what parts shelves are looked through."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bugs.listing import ORDERS, BugCursor, BugFilter, is_searched
from app.bugs.search import narrowed, windows
from app.core.errors import BadCursorError

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
SORTS = st.sampled_from(tuple(ORDERS))
NUMBERS = st.integers(min_value=1, max_value=2**63 - 1)
MICROS = st.integers(min_value=-(10**15), max_value=4 * 10**15)


@given(SORTS, MICROS, NUMBERS)
def test_a_cursor_comes_back_as_it_was_given(sort: str, value: int, number: int) -> None:
    column = ORDERS[sort].column
    held = value % 4 if column.endswith("_rank") else number if column == "number" else value
    cursor = BugCursor(sort, held, number)
    assert BugCursor.decode(cursor.encode(), sort) == cursor
    if held != value:  # of a rank that there is not, of another number
        with pytest.raises(BadCursorError):
            BugCursor.decode(BugCursor(sort, value, number).encode(), sort)


@given(SORTS, SORTS, NUMBERS)
def test_a_cursor_of_another_order_is_refused(sort: str, other: str, number: int) -> None:
    if sort != other:
        with pytest.raises(BadCursorError):
            BugCursor.decode(BugCursor(sort, 1, number).encode(), other)


@given(st.text(max_size=60), SORTS)
def test_no_text_but_a_cursor_is_a_cursor(text: str, sort: str) -> None:
    try:
        cursor = BugCursor.decode(text, sort)
    except BadCursorError:
        return
    assert cursor.encode() == text


@pytest.mark.parametrize(
    ("wanted", "searched"),
    [
        (BugFilter(), False),
        (BugFilter(created_from=BEGAN, updated_to=BEGAN), False),
        (BugFilter(device="D1", created_from=BEGAN), False),
        (BugFilter(number=4), False),
        (BugFilter(device="D1", status=("open",)), False),
        (BugFilter(device="D1", firmware="1"), True),
        (BugFilter(device="D1", text="a"), True),
        (BugFilter(text="a"), True),
        (BugFilter(tags=("a",)), True),
        (BugFilter(unassigned=False), True),
    ],
)
def test_what_an_index_has_in_order_is_not_searched_for(wanted: BugFilter, searched: bool) -> None:
    assert is_searched(wanted) is searched


def test_a_filter_is_a_query_whose_values_are_quoted() -> None:
    wanted = BugFilter(status=("open", "closed"), device="a'b\\c", tags=("x", "y"), unassigned=False)
    assert narrowed("'w'", wanted) == (
        "('w') & ('=status:open' | '=status:closed') & ('=device:a''b\\\\c') & '=tag:x' & '=tag:y' & !'=unassigned'"
    )
    assert narrowed("", BugFilter(severity=("low",))) == "('=severity:low')"


def shelves(count: int) -> list[Any]:
    """Newest first; each began before the one before it had ended."""
    return [
        {"shelf": n, "first_at": BEGAN + timedelta(days=n), "last_at": BEGAN + timedelta(days=n + 2)}
        for n in reversed(range(count))
    ]


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 21, 22, 100])
def test_windows_cover_every_shelf_once_and_tell_what_may_still_come(count: int, descending: bool) -> None:
    parts = list(windows("q", shelves(count), descending=descending))
    covered = [number for part in parts for number in range(part.lowest >> 14, (part.highest >> 14) + 1)]
    assert sorted(covered) == list(range(count))
    assert [part.named for part in parts] == [True, True, False][: len(parts)]
    for place, part in enumerate(parts):
        rest = [n for later in parts[place + 1 :] for n in range(later.lowest >> 14, (later.highest >> 14) + 1)]
        times = [BEGAN + timedelta(days=n + 2 if descending else n) for n in rest]
        assert part.bound == ((max if descending else min)(times) if times else None)
