"""Nothing acknowledged is lost, whatever dies: the real process, real signals, the client's own journal."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from typing import TYPE_CHECKING

import asyncpg
import pytest
from websockets.exceptions import ConnectionClosed

from app.core.loop_watchdog import EXIT_STATUS
from tests.journal_check import assert_kept, kill_round, load, stopped
from tests.support import Server, data_folder, device, running_server, trimmed

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 2


@pytest.fixture
def own_server() -> Iterator[Server]:
    with running_server() as running:
        yield running


async def dsn_of(server: Server) -> str:
    dsn: str = json.loads((server.folder / "connection.json").read_text())["dsn"]
    return dsn


@pytest.mark.timeout(180)
async def test_server_and_database_killed_under_load(own_server: Server) -> None:
    dice = random.Random(7)
    async with load(own_server, devices=10, rate=20, duration_s=8) as journal:
        for number in range(ROUNDS):
            blow = await kill_round(own_server, journal, dice)
            print(f"round {number}: killed {blow.whom} with {blow.in_flight} samples in flight")
            assert blow.in_flight > 0
    assert journal.unacknowledged == 0
    assert_kept(own_server, journal)


async def test_postgres_killed_between_insert_and_commit(own_server: Server) -> None:
    """A trigger holds the first transaction open after its rows are written; then the database dies."""
    # As long as this connection is there, that is until the crash, commits are held.
    connection = await asyncpg.connect(await dsn_of(own_server), server_settings={"application_name": "gate"})
    await connection.execute(
        "CREATE FUNCTION wait_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'gate') THEN PERFORM pg_sleep(60); END IF; RETURN NULL; END $$"
    )
    await connection.execute(
        "CREATE CONSTRAINT TRIGGER held AFTER INSERT ON messages_1 DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION wait_at_commit()"
    )
    async with device(own_server) as client:
        await client.send(trimmed())
        while not await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query = 'COMMIT;'"
        ):
            await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.socket.recv(), 0.3)  # rows written, nothing committed: no ack
        for process in own_server.postgres():
            process.kill()
        answer = await client.receive()
        while answer["type"] == "error":
            assert answer["code"] == "busy"
            await asyncio.sleep(answer["retry_after_ms"] / 1000)
            answer = await client.ask(trimmed())
        assert answer["status"] == "saved"
    assert len(own_server.all_samples()) == 1


@pytest.mark.timeout(120)
async def test_a_stalled_database_costs_time_and_nothing_else(own_server: Server) -> None:
    async with load(own_server, devices=5, rate=5, duration_s=8) as journal:
        await asyncio.sleep(2)
        with stopped(own_server, signal.SIGSTOP, signal.SIGCONT):
            async with device(own_server) as client:
                while own_server.request("/health/ready")[0] == 200:
                    await asyncio.sleep(0.1)
                assert own_server.request("/health/live")[0] == 200
                error = await client.ask(trimmed(sample_id="told when to retry"))
                assert (error["code"], error["sample_id"]) == ("busy", "told when to retry")
                assert error["retry_after_ms"] >= 1_000
                assert (await client.ask({"type": "ping"}))["type"] == "pong"
                status, body, headers = await asyncio.to_thread(own_server.request, "/api/sqal/latest")
                assert status == 503
                assert json.loads(body)["code"] in ("database_unavailable", "circuit_open")
                assert int(headers["retry-after"]) > 0
    assert journal.unacknowledged == 0
    assert journal.reconnections == 0, "a socket was closed because the database stalled"
    assert_kept(own_server, journal)


@pytest.mark.timeout(120)
async def test_at_sigterm_what_was_read_is_committed_and_acknowledged(own_server: Server) -> None:
    async with device(own_server) as client:
        for number in range(300):
            await client.send(trimmed(sample_id=f"t{number}"))
        first = await client.receive()
        own_server.running.send_signal(signal.SIGTERM)
        answers = [first]
        try:
            while True:
                answers.append(await client.receive())
        except ConnectionClosed:
            assert client.socket.close_code == 1012
    acked = {answer["sample_id"] for answer in answers if answer["type"] == "ack"}
    assert await asyncio.to_thread(own_server.running.wait, 30) == 0
    assert not own_server.postgres(), "the database outlived its owner"
    own_server.start()
    stored = {item["sample_id"] for item in own_server.all_samples()}
    assert acked == stored
    assert acked


async def test_new_sockets_are_refused_while_the_service_starts() -> None:
    with data_folder() as folder:
        server = Server(folder).start(wait=False)
        try:
            statuses = set()
            while server.running.poll() is None:
                try:
                    status, body, _ = server.request("/health/startup")
                except OSError:
                    continue
                statuses.add(status)
                if status == 200:
                    break
                assert json.loads(body)["status"] == "starting"
                if server.request("/api/sqal/latest")[0] == 503:
                    assert server.request("/health/ready")[0] in (503, 200)
            assert statuses == {503, 200}, "the process listens before its database is there"
        finally:
            server.clean_up()


async def test_the_database_ends_with_an_owner_that_is_killed_and_opens_again(own_server: Server) -> None:
    async with device(own_server) as client:
        assert (await client.ask(trimmed()))["status"] == "saved"
    processes = own_server.postgres()
    own_server.kill()
    for process in processes:
        await asyncio.to_thread(process.wait, 30)
    own_server.start()
    assert own_server.get("/api/sqal/latest")["sample_id"] == trimmed()["sample_id"]


async def test_a_process_whose_loop_does_not_come_back_ends_and_has_lost_nothing_when_it_starts_anew() -> None:
    times = {"LOOP_BLOCKED_AFTER_S": "0.2", "LOOP_BLOCKED_EXIT_S": "4"}
    with running_server(FAULT_SWITCHES="true", **times) as server:
        async with device(server) as client:
            assert (await client.ask(trimmed(sample_id="acknowledged")))["status"] == "saved"
            stall = {"kind": "stall", "latency_ms": 30_000, "expires_s": 60}
            assert server.request("/api/admin/faults/event_loop", method="PUT", body=stall)[0] == 200
            assert await asyncio.to_thread(server.running.wait, 25) == EXIT_STATUS
        last = [line for line in server.events() if line["level"] == "critical"]
        assert [line["event"] for line in last] == ["the event loop does not come back"]
        assert "time.sleep" in last[0]["stack"]
        server.start()
        assert [one["sample_id"] for one in server.all_samples()] == ["acknowledged"]


async def test_a_database_that_dies_alone_is_started_again(own_server: Server) -> None:
    async with device(own_server) as client:
        assert (await client.ask(trimmed(sample_id="before")))["status"] == "saved"
        own_server.postmaster().kill()
        while (answer := await client.ask(trimmed(sample_id="after")))["type"] == "error":
            await asyncio.sleep(answer["retry_after_ms"] / 1000)
        assert answer["status"] == "saved"
    assert {item["sample_id"] for item in own_server.all_samples()} == {"before", "after"}


def test_the_demo_says_what_to_open_and_its_samples_come_in() -> None:
    with running_server(command="demo") as demo:
        assert f"{demo.url}/api/sqal/samples" in demo.log()
        seen = 0
        while seen < 3:
            now = len(demo.all_samples())
            assert now >= seen
            seen = now
        states = {item["device_id"]: item["state"] for item in demo.get("/api/sqal/devices")["items"]}
        assert set(states.values()) == {"online"}
        assert demo.stop() == 0
