"""Lines of the log: whole, short, without secrets, held back when they only repeat, and never waited for."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import warnings
from collections import Counter
from contextlib import contextmanager
from io import FileIO
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator

from app.core.log_limits import Kind, RepeatLimits
from app.core.log_lines import LINE_MAX_BYTES, OURS, render
from app.core.log_privacy import Privacy, looks_secret, stand_in
from app.core.log_sink import LineSink
from app.core.logging import configure_logging, flush_logging, get_logger, line_handler
from tests import log_catalogue
from tests.process_limits import no_more_threads

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA_TEXT = json.loads((log_catalogue.ROOT / "deploy/logs/schema.json").read_text())
SCHEMA = Draft202012Validator(SCHEMA_TEXT)
HEAD = {"timestamp": "2026-07-01T10:11:12.123456Z", "level": "info", "logger": "gaveurs.test", "event": "it happened"}
SAID_ELSEWHERE = {"app/core/graceful_shutdown.py", "app/core/supervision.py"}


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


# The catalogue


def test_events_are_constant_texts_but_for_the_shutdowns() -> None:
    varying = [one for one in log_catalogue.all_events() if not one.constant]
    assert {one.place.rpartition(":")[0] for one in varying} == SAID_ELSEWHERE, varying


def test_no_event_uses_a_reserved_name_or_one_that_is_redacted() -> None:
    for one in log_catalogue.all_events():
        assert not {*OURS, "event", "cut", "detail", "suppressed", "repeated", "over_s"} & {*one.fields}, one
        assert [name for name in one.fields if stand_in(name)] == [], one


def test_the_page_lists_every_event() -> None:
    text = log_catalogue.PAGE.read_text()
    assert log_catalogue.page(text) == text, "run python -m tests.log_catalogue"
    assert len(log_catalogue.all_events()) > 100


def test_the_catalogue_sees_every_call_that_logs() -> None:
    """By another way: no call on something called log but those it found."""
    found = {one.place for one in log_catalogue.all_events()}
    for path in (log_catalogue.ROOT / "app").rglob("*.py"):
        place = path.relative_to(log_catalogue.ROOT)
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.strip().startswith(("log.", "_plain_log.", "_say(")) and "core/logging" not in str(place):
                assert f"{place}:{number}" in found or "cli_backup" in str(place), f"{place}:{number}: {line}"


# One event, one line

TEXTS = st.text(st.characters(exclude_categories=()), max_size=200)  # lone surrogates and controls too
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5) | st.sets(st.integers()),
    max_leaves=20,
)


@settings(max_examples=50)
@given(st.dictionaries(TEXTS, VALUES, max_size=8))
def test_whatever_is_logged_is_one_short_line_of_json(fields: dict[str, Any]) -> None:
    free = {name: value for name, value in fields.items() if name not in SCHEMA_TEXT["properties"]}
    line = render({**free, **HEAD}, Privacy())
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert line.endswith(b"}\n")
    assert len(line) <= LINE_MAX_BYTES
    parsed = json.loads(line, parse_constant=pytest.fail)
    SCHEMA.validate(parsed)
    assert {name: parsed[name] for name in HEAD} == HEAD


@pytest.mark.parametrize(
    "value",
    [
        "x" * 1_000_000,
        "\x00\ud800" * 100_000,
        ["y" * 5_000] * 1_000,
        {str(n): "é" * 900 for n in range(1_000)},
        10**6_000,
    ],
    ids=["text", "controls", "list", "fields", "number"],
)
def test_huge_values_are_cut_with_a_mark_and_the_rest_stays(value: object) -> None:
    line = render(HEAD | {"request_id": "r1", "value": value}, Privacy())
    assert len(line) <= LINE_MAX_BYTES
    parsed = json.loads(line)
    assert parsed["cut"] is True
    assert (parsed["event"], parsed["request_id"]) == ("it happened", "r1")


def test_a_cut_traceback_keeps_its_innermost_frame() -> None:
    parsed = json.loads(render(HEAD | {"exception": "Traceback\n" + "frame\n" * 10_000 + "KeyError: 'it'"}, Privacy()))
    assert parsed["exception"].startswith("Traceback\n")
    assert parsed["exception"].endswith("frame\nKeyError: 'it'")


def test_a_value_that_cannot_show_itself_costs_nothing_else() -> None:
    assert json.loads(render(HEAD | {"it": Unshowable()}, Privacy()))["it"] == "<Unshowable that cannot be shown>"


def test_a_value_that_holds_itself_ends() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert json.loads(render(HEAD | {"loop": loop}, Privacy()))["cut"] is True


# Nothing secret or personal

PRIVATE = Privacy(["s3cr3t/with+signs", "gaveurs"])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("it is s3cr3t/with+signs", "it is [secret]"),
        ("it is s3cr3t%2Fwith%2Bsigns", "it is [secret]"),
        ("postgresql://u:p@ss/w0rd@db:5432/x failed", "postgresql://u:[secret]@db:5432/x failed"),
        ("redis://:hunter2@cache:6379/0", "redis://:[secret]@cache:6379/0"),
        ("host=db password=hunter2 user=x", "host=db password=[secret] user=x"),
        ('{"api_key": "hunter2", "a": 1}', '{"api_key": "[secret]", "a": 1}'),
        ("Authorization: Bearer abc.def.ghi", "Authorization: Bearer [secret]"),
        ("/x/gvk_0123456789ab_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "/x/gvk_0123456789ab_[secret]"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_[secret]"),
        ("asked by jean.d'arc@plant.example.org", "asked by [personal]"),
        ("null value\nDETAIL:  Failing row contains (1, Jean).\nHINT:  no", "null value\nDETAIL: [personal]\nHINT:  no"),
        ("1 error\n  bad [type=x, input_value='Jean', input_type=str]", "1 error\n  bad [type=x, input_value=[personal], input_type=str]"),
        ("the request ran at 12:30:01 in 5 ms: a=b", "the request ran at 12:30:01 in 5 ms: a=b"),
        ("aws_secret_access_key=ab/cd+e", "aws_secret_access_key=[secret]"),
        ("SECRET_KEY=abc secret_key: abc", "SECRET_KEY=[secret] secret_key: [secret]"),
        ("passphrase=abc, credentials=abc", "passphrase=[secret], credentials=[secret]"),
        ("/x?X-Amz-Signature=abc&a=1", "/x?X-Amz-Signature=[secret]&a=1"),
        ("password='a b c' user=x", "password='[secret]' user=x"),
        (r"password='it\'s' user=x", "password='[secret]' user=x"),
        (r'"{\"password\": \"a b\", \"n\": 1}"', r'"{\"password\": \"[secret]\", \"n\": 1}"'),
        ("Authorization: AWS4-HMAC-SHA256 Credential=a/b, Signature=c\nHost: x", "Authorization: [secret]\nHost: x"),
        ("{'authorization': 'AWS4 Credential=a, Signature=b', 'n': 1}", "{'authorization': '[secret]', 'n': 1}"),
        ("Cookie: a=b; c=d\nHost: x", "Cookie: [secret]\nHost: x"),
        ("authorization=Bearer abc BEARER abcdefgh", "authorization=Bearer [secret] BEARER [secret]"),
        ("{'reporter_name': 'Jean Dupont', 'n': 1}", "{'reporter_name': '[personal]', 'n': 1}"),
        ("postgresql://u:" + "p" * 2_000 + "@db/x", "postgresql://u:[secret]@db/x"),
        ("token_count=5 tokens_left: 3 password_file=/run/x", "token_count=5 tokens_left: 3 password_file=/run/x"),
        ("foo@bar.service, getty@tty1.service.", "foo@bar.service, getty@tty1.service."),
        ("to a@b.service.example.org.", "to [personal]."),
        ("got eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl, refused", "got [secret], refused"),
        ("/x/Bearer%20eyJhbGciOiJI.eyJzdWIiOiIx.", "/x/Bearer%20[secret]"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl", "[secret]"),
        ("AKIAIOSFODNN7EXAMPLE", "[secret]"),
        ("by ASIAIOSFODNN7EXAMPLE/20260701", "by [secret]/20260701"),
        ("POST hooks.slack.com/services/T00/B00/XX failed", "POST hooks.slack.com/services/[secret] failed"),
        ("violates it: Failing row contains (1, Jean,\nParis).\nHINT:  no", "violates it: Failing row contains [personal]\nHINT:  no"),
        ("/users/jean.dupont%40plant.example.org/bugs", "/users/[personal]/bugs"),
        ("/users/jean%2540plant.example.org%2Cpaul%2540b.fr/bugs", "/users/[personal]/bugs"),
        ("/users/5%40home/a.b", "/users/5%40home/a.b"),
        ("from jean@büro.example, li@例え.テスト.", "from [personal], [personal]."),
        ("to jean@xn--bro-hoa.xn--p1ai.", "to [personal]."),
        ("pass=hunter2 db_pass: hunter2 'pass': 'hunter2'", "pass=[secret] db_pass: [secret] 'pass': '[secret]'"),
        ("passed=5 bypass=1 compass: n", "passed=5 bypass=1 compass: n"),
        ('InvalidPasswordError: password authentication failed for user "app"', 'InvalidPasswordError: password authentication failed for user "app"'),
        ("LoginRefusedError: InvalidPasswordError: password: hunter2", "LoginRefusedError: InvalidPasswordError: password: [secret]"),
        ("jwt.ExpiredTokenError: it ended at 5", "jwt.ExpiredTokenError: it ended at 5"),
        ("'PasswordError': 'x', \"TokenError\": \"x\"", "'PasswordError': '[secret]', \"TokenError\": \"[secret]\""),
        ("passwordError: x PASSWORD_ERROR: x password_error: x", "passwordError: [secret] PASSWORD_ERROR: [secret] password_error: [secret]"),
        ("PasswordError=x PasswordErrors: x", "PasswordError=[secret] PasswordErrors: [secret]"),
        ("password: hunter2 db_password=hunter2 Password: hunter2", "password: [secret] db_password=[secret] Password: [secret]"),
    ],
)  # fmt: skip
def test_secrets_and_people_are_taken_out_of_texts(text: str, shown: str) -> None:
    parsed = json.loads(render(HEAD | {"deep": [{"text": text}]}, PRIVATE))
    said = parsed["deep"][0]["text"]
    assert said == shown or said.replace("jean.d'[personal]", "[personal]") == shown


@pytest.mark.parametrize(
    "given",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "eyJhbGciOiJI.eyJzdWIiOiIx.c2ln",
        "jean%40x.org",
        "hooks.slack.com/services/T0/B0",
        "pass=x",
    ],
)
def test_a_request_id_that_is_a_secret_is_known_for_one(given: str) -> None:
    assert looks_secret(given)
    assert not looks_secret("4f1d0c12-8f1e-4c55-9d1e-2b1a7f0e9c11")


@pytest.mark.parametrize(
    "name",
    ["password", "redis_password", "Authorization", "set-cookie", "x_api_key", "DATABASE_URL", "aws_secret_access_key"],
)
def test_fields_named_like_secrets_have_no_value(name: str) -> None:
    assert json.loads(render(HEAD | {name: {"deep": 1}}, Privacy()))[name] == "[secret]"


@pytest.mark.parametrize("name", ["token_count", "tokens_left", "password_file", "secrets_dir", "session_cookie_name"])
def test_fields_about_secrets_have_theirs(name: str) -> None:
    assert json.loads(render(HEAD | {name: "it"}, Privacy()))[name] == "it"


@pytest.mark.parametrize("before", range(4_900, 5_060, 13))
def test_a_secret_where_a_long_text_was_cut_is_not_shown_in_part(before: int) -> None:
    """What is replaced by less moves what is behind it to where it is shown."""
    filler = "password=" + "y" * 3_900 + " "
    secret = "s3cr3t/with+signs"
    for text in (filler + "x" * (before - len(filler)) + secret, secret + "x" * (before - len(filler)) + " " + filler):
        shown = json.loads(render(HEAD | {"a": text + "." * 20_000, "b": "." * 20_000 + text}, PRIVATE))
        for said in (shown["a"], shown["b"]):
            assert not any(secret[i : i + 4] in said for i in range(len(secret) - 3)), said[-200:]


def test_what_a_long_text_quotes_is_not_shown_at_its_end() -> None:
    text = "x" * 10_000 + " DETAIL: Key (name)=(" + "Jean " * 10_000 + ") exists."
    said = json.loads(render(HEAD | {"text": text}, Privacy()))["text"]
    assert "Jean" not in said


def test_a_password_that_is_an_ordinary_word_leaves_our_own_words_alone() -> None:
    parsed = json.loads(render(HEAD | {"reason": "gaveurs refused"}, PRIVATE))
    assert (parsed["logger"], parsed["reason"]) == ("gaveurs.test", "[secret] refused")


LENGTH = 40_000
PROSE = "the device answered at 12:30 in 5 ms, and 12 of 50 samples = 24 % were graded; nothing else is known. "
ORDINARY = (
    "GET /api/sqal/samples?limit=50: 12 items, token=a, Bearer abcdefgh, name=b, "
    "postgresql://gaveurs:x@db:5432/gaveurs answered 'no' to a@b.example.org, Cookie: a; eyJ, Asia, "
    "hooks.slack.com/: failing row contains (1), a%40b\n\n"
)
HOSTILE = [
    "://a:", "://", "://a:b@", "a" * 64 + "@", "a@", "a@b.", "a@b.c@", "@a.service", "password", "secret-", "token_count",
    "password=", "password='", "password=\\", "secret  ", 'api_key"', "authorization", "authorization=", "cookie:",
    "signature=x ", "e_mail", "user_name='", "bearer ", "bearer aaaaaaa ", "gvk_", "gvk_0123456789ab_", "whsec_",
    "AGE-SECRET-KEY-", "DETAIL:", "DETAIL:\n", "DETAIL:\n\n", "input_value=", "input_value=,", "&sig", "=", '\\"=',
    "eyJ", "eyJa.", "eyJa.eyJa.", "%20eyJ", "eyJa.eyJ-", "AKIA", "AKIAAAAAAAAAAAAAAAA-", "hooks.slack.com/", "hooks.slack.com/services/",
    "Failing row contains (", "Failing row contains (\n", "Failing row contains (\n\n", "%40", "%2540", "a%40", "a%40b.", "a%2540b.1 ",
    "pass", "pass ", "pass=", "_pass", "é@é.", "a@é", "a@é.é@", "é", "A", "PasswordError: ", "PasswordErro", "Passw" + "A" * 49,
]  # fmt: skip


def costs(*texts: str) -> list[float]:
    """Seconds of each, in turn, so that whatever else this machine does adds to all; of three the least."""
    privacy, least = Privacy(), [60.0] * len(texts)
    for _ in range(3):
        for place, text in enumerate(texts):
            began = time.process_time()
            privacy.text(text)
            least[place] = min(least[place], time.process_time() - began)
    return least


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_costs_about_as_much_as_ordinary_text(piece: str) -> None:
    hostile = (ORDINARY + piece * LENGTH)[:LENGTH]  # so that each search has a reason to look
    hostile_s, ordinary_s = costs(hostile, (ORDINARY + PROSE * LENGTH)[:LENGTH])
    assert hostile_s < 4 * ordinary_s


@pytest.mark.parametrize("length", [LENGTH, 1_000_000])
def test_of_a_long_text_only_its_ends_are_searched(length: int) -> None:
    searched = 0

    class Counting(Privacy):
        def text(self, text: str) -> str:
            nonlocal searched
            searched += len(text)
            return super().text(text)

    render(HEAD | {"path": "://a:" * (length // 5)}, Counting())
    assert searched < 3 * 2 * 5_000 + 1_000


# Repeated errors

KIND = Kind("gaveurs.x", logging.ERROR, "failed")


def test_the_first_lines_are_admitted_and_the_others_are_reported_when_the_interval_ends() -> None:
    limits = RepeatLimits(2, 60)
    assert [limits.admits(KIND, float(now)) for now in range(5)] == [True, True, False, False, False]
    assert limits.next_report_s() == 60
    assert limits.ended(59.9) == []
    (said,) = limits.ended(60)
    assert (said.kind, said.lines, said.over_s) == (KIND, 3, 60)
    assert limits.admits(KIND, 61) is True
    assert limits.end() == []


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 30)), max_size=200), st.integers(1, 4), st.integers(1, 4))
def test_what_is_not_admitted_is_reported_once(steps: list[tuple[int, float]], repeats: int, max_keys: int) -> None:
    limits = RepeatLimits(repeats, 10.0, max_keys=max_keys)
    logged: Counter[Kind] = Counter()
    admitted: Counter[Kind] = Counter()
    reported: Counter[Kind] = Counter()
    seen: set[Kind] = set()
    now = 0.0
    for number, wait in steps:
        now += wait
        kind = Kind("x", number, "e")
        logged[kind] += 1
        if limits.admits(kind, now):
            admitted[kind] += 1
            seen.add(kind)
        else:
            assert kind in seen, "a first line was not admitted"
        if number == 0:
            reported.update({one.kind: one.lines for one in limits.ended(now)})
        assert len(limits._intervals) <= max_keys
    for one in limits.end():
        reported[one.kind] += one.lines
    assert admitted + reported == logged


@contextmanager
def configured(**options: Any) -> Iterator[None]:
    """Logging as a process has it; afterwards as it was."""
    root = logging.getLogger()
    kept = root.handlers[:], root.level, sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning
    try:
        configure_logging("info", **options)
        yield
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:], level, sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning = kept
        root.setLevel(level)
        structlog.reset_defaults()


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    for line in lines:
        SCHEMA.validate(line)
    return lines


def test_critical_lines_and_the_shutdowns_are_never_held_back(capsys: pytest.CaptureFixture[str]) -> None:
    with configured(repeats=1):
        for _ in range(5):
            get_logger("gaveurs.x").error("failed")
            get_logger("gaveurs.x").critical("failed")
            get_logger("gaveurs.x").info("failed")
            get_logger("gaveurs.shutdown").error("failed")
        handler = line_handler()
        assert handler is not None
        assert (handler.suppressed, handler.lines["error"]) == (4, 10)
        flush_logging()
    lines = said(capsys)
    assert Counter((line["logger"], line["level"]) for line in lines if "suppressed" not in line) == {
        ("gaveurs.x", "error"): 1,
        ("gaveurs.x", "critical"): 5,
        ("gaveurs.x", "info"): 5,
        ("gaveurs.shutdown", "error"): 5,
    }
    (report,) = [line for line in lines if "suppressed" in line]
    assert (report["logger"], report["level"], report["repeated"], report["suppressed"]) == (
        "gaveurs.x", "error", "failed", 4
    )  # fmt: skip


def test_lines_that_say_what_they_repeat_are_held_back_at_any_level(capsys: pytest.CaptureFixture[str]) -> None:
    with configured(repeats=2):
        for number in range(5):
            for status in (401, 429):
                get_logger("gaveurs.http").info("request", status=status, ms=number, repeats=f"request {status}")
            get_logger("gaveurs.http").info("request", status=200, repeats=None)
        handler = line_handler()
        assert handler is not None
        assert (handler.suppressed, handler.lines["info"]) == (6, 15)
        flush_logging()
    lines = said(capsys)
    assert Counter(line["status"] for line in lines if "status" in line) == {401: 2, 429: 2, 200: 5}
    assert [(line["repeated"], line["suppressed"]) for line in lines if "suppressed" in line] == [
        ("request 401", 3),
        ("request 429", 3),
    ]
    assert not [line for line in lines if "repeats" in line]


def test_the_number_is_said_by_itself_when_the_interval_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with configured(repeats=1, repeats_every_s=1.0):
        for _ in range(3):
            get_logger("gaveurs.x").warning("again")
        handler = line_handler()
        assert handler is not None
        while (timer := handler._timer) is not None:
            timer.join()
        assert [line.get("suppressed") for line in said(capsys)] == [None, 2]


def test_without_a_thread_to_be_had_who_logs_is_not_troubled_and_the_number_is_said_later(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with configured(repeats=1, repeats_every_s=60.0):
        with no_more_threads():
            for _ in range(3):
                get_logger("gaveurs.x").warning("again")
        get_logger("gaveurs.x").warning("again")
        assert [thread for thread in threading.enumerate() if thread.name == "log-limits"]
        flush_logging()
    assert [line.get("suppressed") for line in said(capsys)] == [None, 3]


def test_others_lines_come_in_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    with configured():
        logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=ValueError("x"))
        logging.getLogger("lib").error("first %s\nsecond", "line", extra={"level": 7, "timestamp": 1, "more": 2})
        logging.getLogger("lib").error("bad %s %d", "call")  # noqa: PLE1206 - the mistake
        with structlog.contextvars.bound_contextvars(request_id="r1"):
            logging.getLogger("lib").warning("in a request")
        warnings.showwarning("old", DeprecationWarning, "file.py", 3)
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
        sys.excepthook(KeyError, KeyError("it"), None)
    uvicorn, lib, bad, bound, warned, failed, uncaught = said(capsys)
    assert (uvicorn["event"], uvicorn["exception"]) == ("Exception in ASGI application", "ValueError: x")
    assert (lib["event"], lib["detail"], lib["level"], lib["more"]) == ("first line", "second", "error", 2)
    assert (bad["event"], bad["format"]) == ("a line could not be made", "bad %s %d")
    assert bound["request_id"] == "r1"
    assert (warned["category"], warned["line"]) == ("DeprecationWarning", 3)
    assert "ZeroDivisionError" in failed["exception"]
    assert (uncaught["level"], uncaught["exception"]) == ("critical", "KeyError: 'it'")


# A reader that does not keep up


def notice(lines: int) -> bytes:
    return f"dropped {lines}\n".encode()


@contextmanager
def pipe() -> Iterator[tuple[FileIO, FileIO]]:
    out, into = os.pipe()
    with FileIO(out, "r") as reading, FileIO(into, "w") as writing:
        yield reading, writing


def read_lines(out: FileIO, into: FileIO, sink: LineSink) -> list[bytes]:
    """All that comes while the sink empties itself."""
    chunks: list[bytes] = []
    reader = threading.Thread(target=lambda: chunks.extend(iter(lambda: os.read(out.fileno(), 65_536), b"")))
    reader.start()
    assert sink.flush(10)
    into.close()
    reader.join(10)
    return b"".join(chunks).splitlines(keepends=True)


def test_a_line_is_out_before_the_call_returns() -> None:
    with pipe() as (out, into):
        LineSink(into.fileno(), notice).write(b"receipt\n")
        assert os.read(out.fileno(), 100) == b"receipt\n"


def test_nobody_waits_for_a_stalled_reader_and_what_must_stay_stays() -> None:
    """The least of three: whatever else this machine does only adds."""
    took_s: list[float] = []
    while len(took_s) < 3 and min(took_s, default=2.0) >= 2.0:
        took_s.append(writing_takes_s())
    assert min(took_s) < 2, took_s


def writing_takes_s() -> float:
    """While nobody reads."""
    with pipe() as (out, into):
        sink = LineSink(into.fileno(), notice, waiting_bytes=100_000)
        began = time.monotonic()
        for number in range(2_000):
            sink.write(b"%d %s\n" % (number, b"x" * 190))
        sink.write(b"receipt\n", must=True)
        took_s = time.monotonic() - began
        assert sink.flush(0) is False
        lines = read_lines(out, into, sink)
    numbers = [int(line.split()[0]) for line in lines[:-2]]
    assert numbers == list(range(len(numbers)))  # in order, whole, each once
    assert lines[-2:] == [b"receipt\n", b"dropped %d\n" % (2_000 - len(numbers))]
    assert sink.dropped == 2_000 - len(numbers) > 500
    return took_s


def test_threads_do_not_mix_their_lines() -> None:
    with pipe() as (out, into):
        sink = LineSink(into.fileno(), notice)
        made = [[b"%d-%d %s\n" % (t, n, bytes([97 + t]) * 9_000) for n in range(40)] for t in range(4)]

        def write(mine: list[bytes]) -> None:
            for line in mine:
                sink.write(line)

        threads = [threading.Thread(target=write, args=(mine,)) for mine in made]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lines = read_lines(out, into, sink)
    assert sorted(lines) == sorted(line for mine in made for line in mine)


def test_a_reader_that_is_gone_costs_lines_not_the_process() -> None:
    with pipe() as (out, into):
        sink = LineSink(into.fileno(), notice)
        out.close()
        sink.write(b"line\n")
        assert sink.dropped == 1


def test_lines_after_a_failure_say_how_many_are_missing() -> None:
    with pipe() as (out, into):
        sink = LineSink(into.fileno(), notice)
        full = os.open("/dev/full", os.O_WRONLY)
        sink._fd = full
        sink.write(b"lost\n")
        sink._fd = into.fileno()
        sink.write(b"line\n")
        os.close(full)
        assert read_lines(out, into, sink) == [b"line\n", b"dropped 1\n"]


def test_without_a_thread_to_be_had_lines_wait_until_there_is_one() -> None:
    with pipe() as (out, into):
        sink = LineSink(into.fileno(), notice)
        with no_more_threads():
            for number in range(20):
                sink.write(b"%d %s\n" % (number, b"x" * 9_000))
            assert sink.flush(0) is False
        sink.write(b"last\n")
        lines = read_lines(out, into, sink)
    assert [line.split()[0] for line in lines] == [*(b"%d" % number for number in range(20)), b"last"]
