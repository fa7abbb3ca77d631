"""Fixtures for pytest, which finds them by itself where this package is installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .testing import Stack


@pytest.fixture(scope="session")
def stipend_stack() -> Iterator[Stack]:
    """A running `stipend dev` with an open mandate over 100.00 USDC, for all tests of the session."""
    with Stack(mandates=["100.00"]) as stack:
        yield stack
