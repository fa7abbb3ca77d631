"""What callers pass, held to the forms of the API before anything is signed or sent.

Each function takes the argument's name and value, and answers with the value as the API takes it. What is malformed is
InvalidInput; an amount of another type, above all a float, is a TypeError.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from decimal import Context, Decimal, Inexact, InvalidOperation
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import httpx
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address

from .errors import InvalidInput

UNIT = Decimal("0.000001")
AMOUNT_MAX = Decimal("9223372036854.775807")
# Fails on what six decimals can't hold, instead of rounding.
EXACT = Context(prec=30, traps=[Inexact, InvalidOperation])
DECIMAL_STRING = re.compile(r"(0|[1-9][0-9]*)(\.[0-9]{1,6})?")
ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
HASH = re.compile(r"0x[0-9a-fA-F]{64}")
DURATION = re.compile(r"[0-9]{1,10}[dhms]")
MCC = re.compile(r"[0-9]{4}")
# No space at either end: HTTP drops it, and two keys would be one.
IDEMPOTENCY_KEY = re.compile(r"[!-~]([ -~]{0,253}[!-~])?")
CURSOR = re.compile(r"[!-~]{1,128}")
DIGITS = {"req_": 32, "pay_": 32, "card_": 32, "mand_": 64}


def amount(name: str, value: object) -> str:
    """USDC, as a decimal string with six decimals."""
    if isinstance(value, bool) or not isinstance(value, (str, int, Decimal)):
        raise TypeError(f'{name} must be a string or a Decimal, such as "4.20", and never a {type(value).__name__}')
    expected = f'a decimal string or a Decimal, such as "4.20", with at most six decimals and at most {AMOUNT_MAX}'
    if isinstance(value, str) and not DECIMAL_STRING.fullmatch(value):
        raise InvalidInput.of(name, expected, value)
    try:
        exact = Decimal(value).quantize(UNIT, context=EXACT)
        if exact.is_signed() or not exact <= AMOUNT_MAX:
            raise InvalidInput.of(name, expected, value)
    except (Inexact, InvalidOperation):
        raise InvalidInput.of(name, expected, value) from None
    return format(exact, "f")


def address(name: str, value: object) -> str:
    expected = "0x and 40 hex digits, in one case or with the right checksum (EIP-55), and not zero"
    text = _matching(name, ADDRESS, expected, value)
    is_mixed = text[2:] not in (text[2:].lower(), text[2:].upper())
    if int(text, 16) == 0 or (is_mixed and to_checksum_address(text) != text):
        raise InvalidInput.of(name, expected, value)
    return text


def addresses(name: str, value: object) -> list[str]:
    return _list(name, address, "a list of addresses", value)


def categories(name: str, value: object) -> list[str]:
    def category(name: str, value: object) -> str:
        return _matching(name, MCC, 'a merchant category of four digits, such as "5734"', value)

    return _list(name, category, "a list of merchant categories", value)


def reference(name: str, value: object) -> str:
    return _matching(name, HASH, "32 bytes: 0x and 64 hex digits", value)


def identifier(name: str, prefix: str, thing: object) -> str:
    """The id of what has one, or the id itself."""
    pattern = re.compile(f"{prefix}[0-9a-f]{{{DIGITS[prefix]}}}")
    expected = f"{prefix} and {DIGITS[prefix]} lower-case hex digits"
    return _matching(name, pattern, expected, getattr(thing, "id", thing))


def idempotency_key(value: object) -> str | None:
    if value is None:
        return None
    expected = "1 to 255 printable ASCII characters without a space at either end, or None"
    return _matching("idempotency_key", IDEMPOTENCY_KEY, expected, value)


def metadata(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > 16:
        raise InvalidInput.of("metadata", "a dict of at most 16 pairs of strings", value)
    return {text("a name in metadata", 1, 40, name): text("metadata", 0, 500, item) for name, item in value.items()}


def text(name: str, least: int, most: int, value: object) -> str:
    """From `least` to `most` bytes."""
    expected = f"a string of {least} to {most} bytes in UTF-8"
    try:
        if isinstance(value, str) and least <= len(value.encode()) <= most:
            return value
    except UnicodeEncodeError:
        pass
    raise InvalidInput.of(name, expected, value)


def duration(name: str, value: object) -> str:
    return _matching(name, DURATION, 'a whole number and a unit, such as "30d", "12h", "45m" or "90s"', value)


def cursor(value: object) -> str:
    return _matching("cursor", CURSOR, "the next_cursor of an earlier page", value)


def flag(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidInput.of(name, "True or False", value)


def whole(name: str, least: int, most: int, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise InvalidInput.of(name, f"a whole number from {least} to {most}", value)


def seconds(name: str, value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
        return value
    raise InvalidInput.of(name, "a number of seconds, and not negative", value)


def choice(name: str, choices: Collection[str], value: object) -> str:
    if isinstance(value, str) and value in choices:
        return value
    raise InvalidInput.of(name, "one of " + ", ".join(f'"{item}"' for item in choices), value)


def relayer(value: object) -> str:
    """The base of every URL, without a slash at its end."""
    expected = "an http or https URL without user, query and fragment"
    try:
        if isinstance(value, str):
            parts = urlsplit(value)
            # Both must read it: one signs the authority, the other sends it.
            has_host = parts.hostname and parts.port != 0 and httpx.URL(value).host
            if parts.scheme in ("http", "https") and has_host and not any(mark in value for mark in "@?#"):
                return value.rstrip("/")
    except (ValueError, httpx.InvalidURL):
        pass
    # It may hold a password.
    raise InvalidInput("relayer", expected)


def is_loopback(relayer: str) -> bool:
    """Whether what is said to it stays on this machine."""
    host = (urlsplit(relayer).hostname or "").rstrip(".")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def account(value: object) -> LocalAccount:
    if isinstance(value, LocalAccount):
        return value
    try:
        if isinstance(value, str):
            made: LocalAccount = Account.from_key(value)
            return made
    except Exception:  # Whatever it is, it may quote the key.
        pass
    raise InvalidInput("key", "a private key, 0x and 64 hex digits, or a LocalAccount of eth_account")


def _matching(name: str, pattern: re.Pattern[str], expected: str, value: object) -> str:
    if isinstance(value, str) and pattern.fullmatch(value):
        return value
    raise InvalidInput.of(name, expected, value)


def _list(name: str, item: Callable[[str, Any], str], expected: str, value: object) -> list[str]:
    if not isinstance(value, (list, tuple)):
        raise InvalidInput.of(name, expected, value)
    return [item(name, part) for part in value]
