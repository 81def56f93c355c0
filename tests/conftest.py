from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.forks import Server

settings.register_profile("any machine", deadline=None)  # a test that takes long on a busy one is right nevertheless
settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first, or one process would be at the last of them while the others have nothing left to do."""
    items.sort(key=lambda item: "slow" not in item.keywords)


@pytest.fixture(scope="session")
def forks() -> Iterator[Server]:
    """Processes that have imported what training takes."""
    server = Server(
        "lightning.pytorch.cli", "neo_lightning.cli.run", "tests.training.run_tiny", "tests.training.run_real"
    )
    yield server
    server.close()
