"""Fixtures of several files."""

from __future__ import annotations

import pytest

from tests.unit.loopback import TOKEN


@pytest.fixture
def reward_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client of a served reward has the token of the tests' servers, and pauses a little only between attempts."""
    from alignkit.rewards.serve import endpoint

    monkeypatch.setenv("ALIGNKIT_TOKEN", TOKEN)
    monkeypatch.setattr(endpoint, "FIRST_PAUSE_S", 0.005)
