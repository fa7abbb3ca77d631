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

# Problems after which it is not known whether the payment was accepted.
UNKNOWN = {"unavailable", "timeout", "internal"}
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
        self.relayer = relayer.rstrip("/")
        self._http = httpx.Client(base_url=self.relayer, timeout=60, follow_redirects=False)
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
        except httpx.ConnectError as error:
            raise Unreachable(f"the relayer does not answer: {error}") from error
        except httpx.TransportError as error:
            raise Unknown(f"the relayer's answer was lost: {error}", body) from error
        try:
            said = answer.json()
            if answer.status_code < 300:
                return self._checked(Receipt(**said["receipt"]), body)
            problem = Refused(said if "code" in said else {"code": "unavailable"})
        except (ValueError, KeyError, TypeError) as error:
            raise Unknown(f"this is no relayer's answer: HTTP {answer.status_code}", body) from error
        if problem.code in UNKNOWN:
            raise Unknown(str(problem), body) from problem
        raise problem

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
        signer = receipt_signer(self._info, receipt.__dict__)
        if signer.lower() != str(self._info.get("receipt_signer")).lower():
            raise Unknown(f"the receipt is signed by {signer}, who is not the relayer's signer", body)
        if receipt.payment.lower() != payment_digest(self._info, body):
            raise Unknown("the receipt is for another payment", body)
        if receipt.state == "failed":
            raise Refused({"code": "payment_failed", "detail": "it can never be paid", "hint": "ask for another payment"})
        return receipt
