"""The payee's side: a signed payment that an agent hands over is checked, sent to the relayer, and answered with a receipt."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httpx

from . import inputs
from .errors import InvalidInput, Refused, Unknown, Unreachable
from .signing import payment_digest, receipt_signer
from .transport import NOT_SENT, options, refusal_of

FIELDS = ("mandate", "payee", "amount", "nonce", "deadline", "ref", "signature")


@dataclass(frozen=True)
class Receipt:
    """A relayer's signature over what it accepted: `payment` is the EIP-712 digest that the agent signed; times are seconds
    since 1970."""

    payment: str
    state: str
    deadline: int
    time: int
    signature: str


def hand_over(signed: dict[str, Any]) -> str:
    """A signed payment as the value of a header."""
    return base64.urlsafe_b64encode(json.dumps(signed).encode()).decode()


class Payee:
    """Takes payments to `address` that agents hand over. It has no key, and trusts the relayer at `relayer`."""

    def __init__(self, relayer: str, address: str):
        """Asks the relayer who signs its receipts. Raises Unreachable, and InvalidInput for a malformed address."""
        self.address = inputs.address("address", address)
        self.relayer = inputs.relayer(relayer)
        self._http = httpx.Client(base_url=self.relayer, **options(self.relayer, 60))
        try:
            self._info = self._http.get("/v1/info").raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unreachable(f"no relayer answers at {relayer}: {error}") from error

    def collect(self, handed: str, amount: str | Decimal, ref: str) -> Receipt:
        """Takes a payment of exactly `amount`, in USDC, with this `ref`: accepted, with a receipt whose signature is right.

        Raises InvalidInput for another payment, Refused if it is not accepted, and Unknown or Unreachable if that is not
        known: then collect the same again. Whoever serves once for each `ref` serves once for each payment.
        """
        body = self._read(handed, inputs.amount("amount", amount), inputs.reference("ref", ref))
        try:
            answer = self._http.post("/v1/payments", params={"receipt": "true"}, json=body)
        except NOT_SENT as error:
            raise Unreachable(f"the relayer does not answer: {error}") from error
        except httpx.HTTPError as error:
            raise Unknown(f"the relayer's answer was lost: {error}", body) from error
        refusal = refusal_of(answer.content)
        # Who is told to come back has not been told what became of an earlier attempt.
        comes_back = answer.status_code in (408, 429) or answer.status_code >= 500
        if refusal is not None and (refusal.decision is not None or not comes_back):
            raise refusal
        try:
            receipt = Receipt(**answer.json()["receipt"])
        except (ValueError, KeyError, TypeError) as error:
            raise Unknown(f"no receipt came: HTTP {answer.status_code}", body) from refusal or error
        return self._checked(receipt, body)

    def _read(self, handed: str, amount: str, ref: str) -> dict[str, Any]:
        try:
            given = json.loads(base64.urlsafe_b64decode(handed))
            body = {name: given[name] for name in FIELDS}
            is_it = (
                body["payee"].lower() == self.address.lower()
                and Decimal(inputs.amount("amount", body["amount"])) == Decimal(amount)
                and body["ref"].lower() == ref.lower()
            )
            payment_digest(self._info, body)
        except Exception as error:
            raise InvalidInput("payment", "a payment that an agent has signed") from error
        if not is_it:
            raise InvalidInput("payment", f"a payment of {amount} to {self.address} with ref {ref}")
        return body

    def _checked(self, receipt: Receipt, body: dict[str, Any]) -> Receipt:
        try:
            signer = receipt_signer(self._info, receipt.__dict__).lower()
        except Exception:  # Of whatever kind: it is no signature.
            signer = "nobody"
        if signer != str(self._info.get("receipt_signer")).lower():
            raise Unknown(f"the receipt is signed by {signer}, who is not the relayer's signer", body)
        if receipt.payment.lower() != payment_digest(self._info, body):
            raise Unknown("the receipt is for another payment", body)
        if receipt.state == "failed":
            raise Refused({"code": "payment_failed", "detail": "it can never be paid", "hint": "ask for another payment"})
        return receipt
