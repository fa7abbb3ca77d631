"""What the relayer answers. Amounts are Decimals of USDC, times are seconds since 1970."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

T = TypeVar("T")
M = TypeVar("M", bound="Model")
TYPES: dict[str, Any] = {"str": str, "int": int, "Decimal": str, "dict[str, Any]": dict, "Any": object}


class Page(list[T]):
    """A page of a list. `next_cursor` is the `cursor` of the next one; None: this was the last."""

    next_cursor: str | None = None


@dataclass(frozen=True)
class Model:
    """`raw` is the whole answer; fields that a newer relayer adds are there alone."""

    raw: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def of(cls: type[M], answer: Any) -> M:
        """Raises ValueError if this is no such object."""
        if not isinstance(answer, dict):
            raise ValueError(f"this is no {cls.__name__}")
        values: dict[str, Any] = {}
        for item in fields(cls):
            if item.name == "raw":
                continue
            kind, _, is_optional = str(item.type).partition(" | ")
            value = answer.get(item.metadata.get("name", item.name))
            if not isinstance(value, TYPES[kind]) and not (is_optional and value is None):
                raise ValueError(f"this {cls.__name__} has no {item.name}")
            if value is not None and kind == "Decimal":
                try:
                    value = Decimal(value)
                except InvalidOperation:
                    raise ValueError(f"the {item.name} of this {cls.__name__} is no amount") from None
            values[item.name] = value
        return cls(raw=answer, **values)


@dataclass(frozen=True)
class MandateRequest(Model):
    id: str
    state: str
    amount: Decimal
    mandate: str | None


@dataclass(frozen=True)
class Mandate(Model):
    """`state`: opening, open, frozen or ended."""

    id: str
    state: str
    terms: dict[str, Any]
    available: Decimal
    reserved: Decimal
    held: Decimal
    paid: Decimal
    returned: Decimal
    next_nonce: int


@dataclass(frozen=True)
class Payment(Model):
    """`state`: reserved, submitted, mined, settled or failed."""

    id: str
    mandate: str
    state: str
    reason: str | None
    payee: str
    amount: Decimal
    nonce: int
    deadline: int
    tx_hash: str | None


@dataclass(frozen=True)
class Card(Model):
    """`state`: requested, held, active, used, closing, closed or failed."""

    id: str
    mandate: str
    state: str
    reason: str | None
    amount: Decimal
    authorized: Decimal | None
    captured: Decimal
    released: Decimal
    last_four: str | None
    expires_at: int


@dataclass(frozen=True)
class CardSecrets:
    """A card's number of 16 digits, code, month of two digits and year of four, which no repr shows."""

    number: str = field(repr=False)
    cvv: str = field(repr=False)
    exp_month: str = field(repr=False)
    exp_year: str = field(repr=False)

    @classmethod
    def of(cls, answer: Any) -> CardSecrets:
        """Raises ValueError if these are none, and does not quote what they are."""
        names = [item.name for item in fields(cls)]
        if not isinstance(answer, dict) or not all(isinstance(answer.get(name), str) for name in names):
            raise ValueError("these are no card's secrets")
        return cls(**{name: answer[name] for name in names})


@dataclass(frozen=True)
class Explanation(Model):
    """What would become of a payment now."""

    decision: dict[str, Any]
    headroom: Decimal
    passes_at: int | None
    expected: dict[str, Any]

    @property
    def allowed(self) -> bool:
        return bool(self.decision["allow"])


@dataclass(frozen=True)
class AuditEntry(Model):
    """A fact of the trail. `seq` is its place in it, `kind` such as "payment.mined"; `data` differs by kind."""

    seq: int
    at: int
    kind: str = field(metadata={"name": "type"})
    mandate: str | None
    payment: str | None
    card: str | None
    data: Any
