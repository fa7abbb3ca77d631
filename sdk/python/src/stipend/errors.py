"""Why a call failed. The kinds differ in what is known about its effect."""

from __future__ import annotations

from typing import Any


class StipendError(Exception):
    """Any failure of a call.

    `money_may_have_moved` is what to look at first: if it is false, nothing was done.
    """

    money_may_have_moved = False


class Refused(StipendError):
    """The relayer refused, and nothing was done. `decision` has every rule's verdict, where the policy refused."""

    def __init__(self, problem: dict[str, Any]):
        self.code: str = problem.get("code", "unknown")
        self.status: int = problem.get("status", 0)
        self.detail: str = problem.get("detail", "")
        self.hint: str = problem.get("hint", "")
        self.retry_after: int | None = problem.get("retry_after")
        self.decision: dict[str, Any] | None = problem.get("decision")
        super().__init__(f"{self.code}: {self.detail}")


class Unreachable(StipendError):
    """Nobody listens there, and nothing was done."""


class Unknown(StipendError):
    """No answer said whether it was done. `signed` is what was sent, if it carries a signature of its own: `send` it
    again, since the same bytes are never done twice."""

    money_may_have_moved = True

    def __init__(self, message: str, signed: dict[str, Any] | None = None):
        self.signed = signed
        super().__init__(message)
