"""Backup, destruction, restore: the real commands against a real server."""

from __future__ import annotations

import asyncio
import hashlib

from tests.backup_plant import AFTER, BEFORE, CONTENTS, names, originals, running_plant, send, well
from tests.bug_client import Caller


def test_what_was_destroyed_is_back_and_what_came_later_is_taken_when_it_is_sent_again() -> None:
    with running_plant() as plant:
        plant.backup()
        server = plant.server
        samples, raw, bug = server.all_samples(), originals(server), plant.told()
        assert asyncio.run(send(server, AFTER)) == ["saved"] * len(AFTER)
        assert server.stop() == 0
        plant.destroy()
        said = well("restore", plant.place, "--data-dir", server.folder)
        assert f"restored {names(plant.place)[0]}" in said
        assert "2 attachments" in said
        server.start()
        assert server.all_samples() == samples
        assert originals(server) == raw
        assert plant.told() == bug
        assert plant.attachments() == {name: hashlib.sha256(body).hexdigest() for name, body in CONTENTS.items()}
        assert Caller(server, plant.key).get("/api/sqal/devices")
        assert asyncio.run(send(server, [*BEFORE, *AFTER])) == ["duplicate"] * len(BEFORE) + ["saved"] * len(AFTER)
