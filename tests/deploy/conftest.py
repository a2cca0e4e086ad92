"""What several files of these tests start: Debian's PostgreSQL, one for a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.deploy.debian_postgres import Cluster, new_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with new_cluster() as made:
        made.configure()
        made.start()
        yield made
