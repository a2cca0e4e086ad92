"""The management port over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from app.core import management
from app.core.errors import CannotStartError
from app.core.loop_watchdog import LoopWatchdog
from app.core.management import Answer, ManagementServer
from app.core.server import listen
from tests.process_limits import no_more_descriptors

TIMEOUT_S = 10.0


def metrics(_headers: Mapping[str, str]) -> Answer:
    return Answer(200, "text/plain; version=0.0.4", b"up 1\n")


def echo(headers: Mapping[str, str]) -> Answer:
    return Answer(200, "application/json", json.dumps(dict(headers)).encode())


def broken(_headers: Mapping[str, str]) -> Answer:
    raise OSError("a defect of a route, not of a connection")


def odd(_headers: Mapping[str, str]) -> Answer:
    return Answer(799, "text/plain", b"")


ROUTES = {"/metrics": metrics, "/echo": echo, "/broken": broken, "/odd": odd}


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is cut for a machine that stands still for seconds, but where that is asked for."""
    monkeypatch.setattr(management, "REQUEST_DEADLINE_S", 60.0)
    monkeypatch.setattr(management, "STOP_DEADLINE_S", 60.0)


@pytest.fixture
def server() -> Iterator[ManagementServer]:
    server = ManagementServer("127.0.0.1", 0, ROUTES)
    server.start()
    yield server
    server.stop()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("management")]


@pytest.fixture
def client(server: ManagementServer) -> Iterator[HTTPConnection]:
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)) as connection:
        yield connection


def connect(server: ManagementServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S)


def read_all(peer: socket.socket) -> bytes:
    """Until the server closes; a server that never does is a TimeoutError."""
    parts = []
    while part := peer.recv(65_536):
        parts.append(part)
    return b"".join(parts)


def talk(server: ManagementServer, data: bytes) -> bytes:
    with connect(server) as peer:
        peer.sendall(data)
        return read_all(peer)


def ask(client: HTTPConnection, method: str, path: str, **options: Any) -> tuple[int, Mapping[str, str], bytes]:
    client.request(method, path, **options)
    response = client.getresponse()
    return response.status, dict(response.getheaders()), response.read()


def test_a_route_answers_and_its_connection_is_kept(client: HTTPConnection) -> None:
    status, headers, body = ask(client, "GET", "/metrics?name=up")
    first = client.sock
    assert (status, headers["Content-Type"], body) == (200, "text/plain; version=0.0.4", b"up 1\n")
    assert "Server" not in headers
    assert ask(client, "GET", "/metrics")[0] == 200
    assert client.sock is first is not None


def test_head_is_answered_without_a_body(server: ManagementServer) -> None:
    said = talk(server, b"HEAD /metrics HTTP/1.1\r\n\r\nHEAD /metrics HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert said.count(b"HTTP/1.1 200 OK\r\n") == said.count(b"Content-Length: 5\r\n") == 2
    assert b"up 1" not in said


def test_a_route_gets_the_headers_in_lower_case_and_those_of_one_name_joined(server: ManagementServer) -> None:
    said = talk(server, b"GET /echo HTTP/1.1\r\nAccept: a\r\nX-One: \xe9\r\nACCEPT: b\r\nConnection: close\r\n\r\n")
    assert json.loads(said.partition(b"\r\n\r\n")[2]) == {"accept": "a, b", "x-one": "é", "connection": "close"}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/metrics/", 404, "not_found"),
        ("POST", "/metrics", 405, "method_not_allowed"),
        ("GET", "/broken", 500, "internal_error"),
        ("GET", "/odd", 500, "internal_error"),
    ],
)
def test_what_cannot_be_answered_is_a_problem_document(
    client: HTTPConnection, method: str, path: str, status: int, code: str
) -> None:
    with capture_logs() as lines:
        got, headers, body = ask(client, method, path)
    problem = json.loads(body)
    assert (got, headers["Content-Type"]) == (status, "application/problem+json")
    assert set(problem) == {"type", "title", "status", "detail", "code"}
    assert (problem["status"], problem["code"], problem["type"]) == (status, code, f"urn:gaveurs:problem:{code}")
    assert headers.get("Allow") == ("GET, HEAD" if status == 405 else None)
    assert [line["path"] for line in lines] == ([path] if status == 500 else [])
    assert ask(client, "GET", "/metrics")[0] == 200


def test_requests_that_come_together_or_in_pieces_are_answered_in_turn(server: ManagementServer) -> None:
    requests = (
        b"GET /metrics HTTP/1.1\r\n\r\nHEAD /nowhere HTTP/1.1\r\n\r\nGET /echo HTTP/1.1\r\nConnection: close\r\n\r\n"
    )
    together = talk(server, requests)
    with connect(server) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(len(requests)):
            peer.sendall(requests[place : place + 1])
            time.sleep(0.001)  # or the server would find many of them together
        in_pieces = read_all(peer)
    for said in (together, in_pieces):
        assert said.count(b"HTTP/1.1 ") == 3
        assert said.index(b"up 1\n") < said.index(b"404 Not Found") < said.index(b'{"connection": "close"}')


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /metrics HTTP/1.0\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000,
    ],
)
def test_a_connection_that_cannot_be_kept_is_answered_and_closed(
    server: ManagementServer, request_: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(management, "LINGER_S", TIMEOUT_S)
    said = talk(server, request_)
    assert said.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in said
    assert said.endswith(b"\r\n\r\nup 1\n")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (b"NONSENSE /metrics HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nno colon\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", b"431"),
        (b"GET /" + b"a" * 200_000, b"431"),
        (b"GET /metrics HTTP/1.1\r\n" + b"X: a\r\n" * 20_000, b"431"),
    ],
)
def test_what_is_no_request_or_a_huge_one_is_refused(
    server: ManagementServer, data: bytes, status: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(management, "LINGER_S", TIMEOUT_S)
    assert talk(server, data).startswith(b"HTTP/1.1 " + status)


def test_a_client_that_is_refused_while_it_sends_can_read_why(
    server: ManagementServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(management, "LINGER_S", TIMEOUT_S)
    body = b"a" * 20_000_000  # more than the sockets between take
    said = talk(server, b"POST /metrics HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    assert said.startswith(b"HTTP/1.1 405 ")


def test_garbage_ends_in_an_answer_or_in_silence_and_harms_nobody(server: ManagementServer) -> None:
    pieces = st.binary(max_size=60) | st.sampled_from([b"GET /metrics HTTP/1.1\r\n", b"\r\n", b"A: b\r\n"])

    @given(st.lists(pieces, max_size=8))
    def send(parts: list[bytes]) -> None:
        with connect(server) as peer:
            peer.sendall(b"".join(parts))
            peer.shutdown(socket.SHUT_WR)
            said = read_all(peer)
        assert said == b"" or said.startswith(b"HTTP/1.1 ")
        assert b"200 OK" in talk(server, b"GET /metrics HTTP/1.0\r\n\r\n")

    send()


def test_a_request_that_trickles_in_is_cut_at_the_deadline(
    server: ManagementServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least of three: whatever else this machine does only adds."""
    monkeypatch.setattr(management, "REQUEST_DEADLINE_S", 0.3)
    took_s: list[float] = []
    while len(took_s) < 3 and min(took_s, default=5.0) >= 5.0:
        took_s.append(trickling_takes_s(server))
    assert 0.25 < min(took_s) < 5, took_s


def trickling_takes_s(server: ManagementServer) -> float:
    """Until it is cut, by an end or a reset."""
    began_s = time.monotonic()
    with connect(server) as peer, suppress(ConnectionError):
        peer.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        peer.settimeout(0.02)
        while True:
            try:
                assert peer.recv(100) == b""
                break
            except TimeoutError:
                peer.sendall(b"a")
    return time.monotonic() - began_s


def test_a_client_that_does_not_read_its_answer_is_cut_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(management, "REQUEST_DEADLINE_S", 0.3)
    size = 50_000_000  # more than the sockets between take
    asked = threading.Event()

    def large(_headers: Mapping[str, str]) -> Answer:
        asked.set()
        return Answer(200, "text/plain", b"a" * size)

    server = ManagementServer("127.0.0.1", 0, {"/": large})
    server.start()
    with connect(server) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert asked.wait(TIMEOUT_S)
        wait_for(lambda: not connection_threads())
        assert len(read_all(peer)) < size
    server.stop()


def connection_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "management-connection"]


def wait_for(true: Any) -> None:
    ends_at_s = time.monotonic() + TIMEOUT_S
    while not true():
        assert time.monotonic() < ends_at_s
        time.sleep(0.005)


def test_a_connection_is_not_kept_for_ever(client: HTTPConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(management, "CONNECTION_LIFE_S", 0.0)
    assert ask(client, "GET", "/metrics")[1]["Connection"] == "close"


def test_one_connection_too_many_is_refused_until_another_ends(server: ManagementServer) -> None:
    with ExitStack() as stack:
        held = [stack.enter_context(connect(server)) for _ in range(management.CONNECTIONS)]
        wait_for(lambda: len(connection_threads()) == management.CONNECTIONS)
        for said in (talk(server, b""), talk(server, b"GET /metrics HTTP/1.1\r\n\r\n")):
            assert said.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert json.loads(said.partition(b"\r\n\r\n")[2])["code"] == "too_many_connections"
        held[0].close()
        wait_for(lambda: len(connection_threads()) < management.CONNECTIONS)
        assert b"200 OK" in talk(server, b"GET /metrics HTTP/1.0\r\n\r\n")


def test_an_address_that_cannot_be_had_is_one_clear_line(server: ManagementServer) -> None:
    second = ManagementServer("127.0.0.1", server.port, ROUTES)
    with pytest.raises(CannotStartError) as caught:
        second.start()
    assert str(caught.value) == f"cannot listen on 127.0.0.1:{server.port} (METRICS_PORT): Address already in use"
    second.stop()


def test_that_there_are_no_sockets_is_one_clear_line() -> None:
    with no_more_descriptors(), pytest.raises(CannotStartError) as caught:
        ManagementServer("127.0.0.1", 0, ROUTES).start()
    assert str(caught.value) == "cannot listen on 127.0.0.1:0 (METRICS_PORT): Too many open files"
    with no_more_descriptors(), pytest.raises(CannotStartError) as caught:
        listen("127.0.0.1", 0)
    assert str(caught.value) == "cannot listen on 127.0.0.1:0: Too many open files"


def test_stopping_ends_idle_connections_at_once_and_a_second_time_does_nothing(server: ManagementServer) -> None:
    with connect(server) as silent, connect(server) as kept:
        kept.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert kept.recv(1_000).startswith(b"HTTP/1.1 200")
        wait_for(lambda: len(connection_threads()) == 2)
        began_s = time.monotonic()
        server.stop()
        assert time.monotonic() - began_s < management.STOP_DEADLINE_S / 2
        assert read_all(silent) == read_all(kept) == b""
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        connect(server)


def test_an_answer_under_way_leaves_before_the_server_stops() -> None:
    asked, may_answer = threading.Event(), threading.Event()

    def slow(_headers: Mapping[str, str]) -> Answer:
        asked.set()
        assert may_answer.wait(TIMEOUT_S)
        return Answer(200, "text/plain", b"late")

    server = ManagementServer("127.0.0.1", 0, {"/": slow})
    server.start()
    with connect(server) as peer, connect(server) as later:
        peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert asked.wait(TIMEOUT_S)
        wait_for(lambda: len(connection_threads()) == 2)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert read_all(later) == b""  # so the first was told too
        may_answer.set()
        said = read_all(peer)
        assert b"Connection: close" in said
        assert said.endswith(b"late")
        stopping.join(TIMEOUT_S)


def test_a_client_that_does_not_read_its_answer_is_cut_when_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(management, "STOP_DEADLINE_S", 2.0)
    server = ManagementServer("127.0.0.1", 0, {"/": lambda _headers: Answer(200, "text/plain", b"a" * 50_000_000)})
    server.start()
    with connect(server) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert peer.recv(1)
        server.stop()
        wait_for(lambda: not connection_threads())


def test_a_route_that_never_returns_does_not_keep_the_server_from_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least of three: whatever else this machine does only adds."""
    monkeypatch.setattr(management, "STOP_DEADLINE_S", 0.5)
    took_s: list[float] = []
    while len(took_s) < 3 and min(took_s, default=1.0) >= 1.0:
        took_s.append(stopping_takes_s())
    assert min(took_s) < management.STOP_DEADLINE_S + 0.5, took_s


def stopping_takes_s() -> float:
    """While a route does not return."""
    asked, over = threading.Event(), threading.Event()

    def stuck(_headers: Mapping[str, str]) -> Answer:
        asked.set()
        over.wait()
        return Answer(200, "text/plain", b"")

    server = ManagementServer("127.0.0.1", 0, {"/": stuck})
    server.start()
    with connect(server) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert asked.wait(TIMEOUT_S)
        began_s = time.monotonic()
        server.stop()
        took_s = time.monotonic() - began_s
        over.set()
    wait_for(lambda: not connection_threads())
    return took_s


async def test_liveness_is_refused_while_the_loop_is_blocked_and_granted_when_it_turns_again() -> None:
    watchdog = LoopWatchdog(tick_s=0.02, blocked_after_s=60)
    watchdog.start()

    def live(_headers: Mapping[str, str]) -> Answer:
        return Answer(200 if watchdog.is_turning(0.3) else 503, "application/json", b"{}")

    server = ManagementServer("127.0.0.1", 0, {"/health/live": live})
    server.start()

    def status() -> bytes:
        return talk(server, b"GET /health/live HTTP/1.0\r\n\r\n").split()[1]

    async def granted() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while await asyncio.to_thread(status) != b"200":
                pass

    await granted()
    wait_for(lambda: status() == b"503")  # asks on the loop, and so blocks it
    await granted()
    server.stop()
    watchdog.stop()
