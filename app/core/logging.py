"""structlog for our own lines and for everybody else's: readable on a terminal, else one JSON object a line.

docs/logs.md is the contract. Nothing here waits for whoever reads the log.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
import warnings
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import structlog

from app.core.log_limits import Kind, RepeatLimits, Suppressed
from app.core.log_lines import clean, render
from app.core.log_privacy import Privacy
from app.core.log_sink import LineSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LEVELS: Final = ("debug", "info", "warning", "error", "critical")
STDERR: Final = 2
FLUSH_S: Final = 2.0
KIND_CHARACTERS: Final = 120
# Never held back, and kept longest while nobody reads: what was lost, if anything, must stand in the log.
MUST: Final = "gaveurs.shutdown"
# Of a line of ours, a field that is not written: what the line repeats, whatever its level is.
REPEATS: Final = "repeats"
_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
log = structlog.stdlib.get_logger("gaveurs.log")


def configure_logging(
    level: str, *, repeats: int = 10, repeats_every_s: float = 60.0, secrets: Iterable[str] = ()
) -> None:
    """Send every line to standard error, with the bound request, connection and device ids.

    Of warnings and errors that say the same, and of lines with the same `REPEATS`, `repeats` are written in
    `repeats_every_s`; the others are counted.
    `secrets` are values that must not appear.
    """
    handler = LineHandler(RepeatLimits(repeats, repeats_every_s), Privacy(secrets))
    root = logging.getLogger()
    _retire(root)
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    # One line a socket or request from uvicorn would drown ours, which carry ids; its errors still come through. httpx
    # writes the URLs that it calls (a webhook's is often its secret), httpcore the headers that come back.
    for name in ("uvicorn.access", "uvicorn.error", "alembic", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_not_about_refused_handshakes)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    _take_over()


def _retire(root: logging.Logger) -> None:
    for handler in root.handlers:
        if isinstance(handler, LineHandler):
            handler.close()


def _not_about_refused_handshakes(record: logging.LogRecord) -> bool:
    """uvicorn logs an error for every handshake that is properly answered 401 or 503; anybody could fill the log."""
    return "without completing handshake" not in record.getMessage()


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose lines carry the bound ids of the request or connection they happen in."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def line_handler() -> LineHandler | None:
    """Where the lines of this process go; None before `configure_logging`. The standard library's root knows it."""
    return next((one for one in logging.getLogger().handlers if isinstance(one, LineHandler)), None)


def flush_logging() -> None:
    """Say what was held back and wait, for two seconds at most, until a slow reader has taken what is left."""
    if (handler := line_handler()) is not None:
        handler.flush()


class LineHandler(logging.Handler):
    """Counts, limits and writes. Its counts are read at a scrape."""

    def __init__(self, limits: RepeatLimits, privacy: Privacy, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.lines = dict.fromkeys(LEVELS, 0)
        self.suppressed = 0
        self._limits = limits
        self._privacy = privacy
        self._monotonic = monotonic
        self._counting = threading.RLock()
        self._timer: threading.Timer | None = None
        self._closed = False
        self._console = _console() if sys.stderr.isatty() else None
        self._sink = _sink(self._notice)

    @property
    def dropped(self) -> int:
        """Lines given up because their reader was too slow."""
        return self._sink.dropped if self._sink is not None else 0

    def handle(self, record: logging.LogRecord) -> bool:
        """Without the handler's own lock: formatting needs none."""
        if not self.filter(record):
            return False
        with self._counting:
            self.lines[_level(record.levelno)] += 1
            admitted = self._admits(record)
            self.suppressed += not admitted
        if admitted:
            self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        must = record.levelno >= logging.CRITICAL or record.name == MUST
        self._write(self._line(_fields(record)), must=must)

    def flush(self) -> None:
        self._report(self._limits.end)
        if self._sink is not None:
            self._sink.flush(FLUSH_S)

    def close(self) -> None:
        with self._counting:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
        super().close()

    def _admits(self, record: logging.LogRecord) -> bool:
        kind = _kind(record)
        if kind is None:
            return True
        admitted = self._limits.admits(kind, self._monotonic())
        if self._timer is None and not self._closed and self._limits.next_report_s() < float("inf"):
            self._set_timer()
        return admitted

    def _set_timer(self) -> None:
        wait_s = max(0.05, self._limits.next_report_s() - self._monotonic())
        self._timer = threading.Timer(wait_s, self._time_is_over)
        self._timer.daemon = True
        self._timer.name = "log-limits"
        try:
            self._timer.start()
        except RuntimeError:  # no thread is to be had: the next line that is held back tries again
            self._timer = None

    def _time_is_over(self) -> None:
        self._report(lambda: self._limits.ended(self._monotonic()))
        with self._counting:
            self._timer = None
            if not self._closed and self._limits.next_report_s() < float("inf"):
                self._set_timer()

    def _report(self, take: Callable[[], list[Suppressed]]) -> None:
        with self._counting:
            reports = take()
        for one in reports:
            self.emit(_record_of(one))

    def _line(self, fields: dict[str, Any]) -> bytes:
        if self._console is None:
            return render(fields, self._privacy)
        shown = clean(fields, self._privacy)
        return f"{self._console(None, '', shown)}\n".encode("utf-8", "backslashreplace")

    def _write(self, line: bytes, *, must: bool) -> None:
        if self._sink is not None:
            self._sink.write(line, must=must)
        else:
            sys.stderr.write(line.decode())

    def _notice(self, lines: int) -> bytes:
        fields = {"level": "error", "logger": "gaveurs.log", "event": "lines were dropped: nobody read them in time"}
        return self._line({"timestamp": _time(time.time()), **fields, "lines": lines})


def _sink(notice: Callable[[int], bytes]) -> LineSink | None:
    """None where standard error was replaced, as tests do. Only the descriptor that is its by name is surely its."""
    try:
        return LineSink(STDERR, notice) if sys.stderr.fileno() == STDERR else None
    except (AttributeError, OSError, ValueError):
        return None


def _console() -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)


def _kind(record: logging.LogRecord) -> Kind | None:
    """None for a line that is never held back."""
    said: Any = record.msg
    text = said.get(REPEATS) if isinstance(said, dict) else None
    if text is None and record.levelno >= logging.WARNING:
        text = said["event"] if isinstance(said, dict) else said
    if text is None or record.levelno >= logging.CRITICAL or record.name == MUST:
        return None
    return Kind(record.name, record.levelno, str(text).partition("\n")[0][:KIND_CHARACTERS])


def _level(number: int) -> str:
    return LEVELS[min(max(number // 10 - 1, 0), len(LEVELS) - 1)]


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    try:
        made = _of_ours(record.msg) if isinstance(record.msg, dict) else _of_others(record)
        fields = dict(structlog.processors.format_exc_info(None, "", made))
    except Exception as error:  # noqa: BLE001 - a mistake in a call that logs must cost neither the line nor the caller
        fields = {"event": "a line could not be made", "reason": repr(error), "format": str(record.msg)}
    event, _, more = str(fields.pop("event", "")).partition("\n")
    if more:
        fields["detail"] = more
    fixed = {"level": _level(record.levelno), "logger": record.name, "event": event}
    return fields | fixed | {"timestamp": _time(record.created)}


def _of_ours(given: dict[str, Any]) -> dict[str, Any]:
    fields = given.copy()
    fields.pop(REPEATS, None)
    return fields


def _of_others(record: logging.LogRecord) -> dict[str, Any]:
    """A line of the standard library's kind, with its `extra` and the ids bound around it."""
    fields = structlog.contextvars.get_contextvars()
    fields |= {name: value for name, value in vars(record).items() if name not in _PLAIN}
    fields |= {"event": record.getMessage()}
    if record.exc_info:
        fields["exc_info"] = record.exc_info
    if record.stack_info:
        fields["stack"] = record.stack_info
    return fields


def _record_of(said: Suppressed) -> logging.LogRecord:
    name, level, event = said.kind
    fields = {"event": "lines were suppressed", "suppressed": said.lines, "repeated": event, "over_s": said.over_s}
    return logging.makeLogRecord({"name": name, "levelno": level, "msg": fields})


def _take_over() -> None:
    """What Python itself would print, in its own form, goes the same way."""
    sys.excepthook = _uncaught
    threading.excepthook = _thread_failed
    sys.unraisablehook = _unraisable
    warnings.showwarning = _warned


def _uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        log.warning("interrupted")
    else:
        log.critical("an exception ended the process", exc_info=(kind, error, trace))


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_type is not SystemExit:
        name = failed.thread.name if failed.thread else None
        error = failed.exc_value or failed.exc_type()
        log.error("a thread failed", thread=name, exc_info=(failed.exc_type, error, failed.exc_traceback))


def _unraisable(failed: sys.UnraisableHookArgs) -> None:
    trace = "".join(traceback.format_exception(failed.exc_type, failed.exc_value, failed.exc_traceback))
    log.error("an exception could not be raised", where=failed.err_msg, what=repr(failed.object), exception=trace)


def _warned(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    del file, line
    log.warning("Python warns", category=category.__name__, text=str(message), file=filename, line=lineno)
