"""What the relayer answers. Amounts are Decimals of USDC, times are seconds since 1970."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any, TypeVar

T = TypeVar("T", bound="Model")


@dataclass(frozen=True)
class Model:
    """`raw` is the whole answer; fields that a newer relayer adds are there alone."""

    raw: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def of(cls: type[T], answer: dict[str, Any]) -> T:
        values: dict[str, Any] = {}
        for item in fields(cls):
            if item.name == "raw":
                continue
            value = answer.get(item.metadata.get("name", item.name))
            if value is not None and "Decimal" in str(item.type):
                value = Decimal(value)
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
    """A card's number, which no repr shows."""

    number: str = field(repr=False)
    cvv: str = field(repr=False)
    exp_month: str = field(repr=False)
    exp_year: str = field(repr=False)


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
    seq: int
    at: int
    kind: str = field(metadata={"name": "type"})
    mandate: str | None
    payment: str | None
    card: str | None
    data: dict[str, Any]
