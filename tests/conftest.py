"""Fixtures for the cross-checks: data that lies beside the repository is used where present and skipped, with a reason, where not."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared():
    "A function from a relative path to the foreign file, skipping the test where it is absent."

    def find(relative: str) -> Path:
        path = SHARED / relative
        if not path.exists():
            pytest.skip(
                f"foreign test data not found: expected {relative} in a folder shared/data beside the repository"
            )
        return path

    return find
