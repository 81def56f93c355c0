from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.forks import Server


@pytest.fixture(scope="session")
def forks() -> Iterator[Server]:
    """Processes that have imported what training takes."""
    server = Server(
        "lightning.pytorch.cli", "neo_lightning.cli.run", "tests.training.run_tiny", "tests.training.run_real"
    )
    yield server
    server.close()
