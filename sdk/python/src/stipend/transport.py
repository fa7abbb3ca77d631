"""What is known of a call by how it failed, and how clients of httpx are set up."""

from __future__ import annotations

import json
from typing import Any

import httpx

from . import inputs
from .errors import Refused

# Problems after which it is not known whether the call took effect.
UNKNOWN = {"unavailable", "timeout", "internal"}
# What these failures keep from being sent at all.
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def refusal_of(body: bytes) -> Refused | None:
    """The relayer's problem; None if it is somebody else's answer."""
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        return None
    # Other servers have codes too; only a relayer's word counts.
    is_ours = isinstance(problem, dict) and problem.get("type") == f"urn:stipend:problem:{problem.get('code')}"
    return Refused(problem) if is_ours else None


def options(base: str, timeout: float) -> dict[str, Any]:
    """Those of a client for the relayer at `base`."""
    return {
        "timeout": inputs.seconds("timeout", timeout),
        # A signature is for one address: it is not carried elsewhere.
        "follow_redirects": False,
        # No proxy stands between this machine and itself.
        "trust_env": not inputs.is_loopback(base),
    }
