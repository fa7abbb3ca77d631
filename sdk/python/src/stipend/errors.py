"""Why a call failed. The kinds differ in what is known about its effect."""

from __future__ import annotations

from typing import Any


class StipendError(Exception):
    """Any failure of a call.

    `money_may_have_moved` is what to look at first: if it is false, nothing was done.
    """

    money_may_have_moved = False


class InvalidInput(StipendError, ValueError):
    """An argument is malformed, and nothing was sent or signed. `argument` is its name, `expected` what is right."""

    def __init__(self, argument: str, expected: str, given: str | None = None):
        """`given`: the value as the message shows it; None for a secret."""
        self.argument = argument
        self.expected = expected
        super().__init__(argument, expected, given)

    @classmethod
    def of(cls, argument: str, expected: str, value: object) -> InvalidInput:
        try:
            given = repr(value)
        except Exception:  # An integer of thousands of digits, for one, has no repr.
            given = f"a value of type {type(value).__name__}"
        return cls(argument, expected, given if len(given) <= 100 else f"{given[:100]}…")

    def __str__(self) -> str:
        given = self.args[2]
        return f"{self.argument} must be {self.expected}" + ("" if given is None else f", and not {given}")


class Refused(StipendError):
    """The relayer refused, and nothing was done. `decision` has every rule's verdict, where the policy refused.

    `code` is stable, `status` that of HTTP, `retry_after` in seconds.
    """

    def __init__(self, problem: dict[str, Any]):
        self.code: str = problem.get("code", "unknown")
        self.status: int = problem.get("status", 0)
        self.detail: str = problem.get("detail", "")
        self.hint: str = problem.get("hint", "")
        self.retry_after: int | None = problem.get("retry_after")
        self.decision: dict[str, Any] | None = problem.get("decision")
        super().__init__(problem)

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class Unreachable(StipendError):
    """No relayer answers there, and nothing was done."""


class Unknown(StipendError):
    """No answer said whether it was done. `signed` is what was sent, if it carries a signature of its own, with its
    idempotency key: `send` it again, since the same bytes are never done twice."""

    money_may_have_moved = True

    def __init__(self, message: str, signed: dict[str, Any] | None = None):
        self.signed = signed
        super().__init__(message)
