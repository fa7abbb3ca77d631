"""The relayer, as an agent uses it.

Each call is written once, as a generator that yields requests and pauses; `Stipend` and `AsyncStipend` differ only in
how they carry those out.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import httpx
from eth_account.signers.local import LocalAccount

from . import inputs
from .errors import InvalidInput, Refused, StipendError, Unknown, Unreachable
from .models import AuditEntry, Card, CardSecrets, Explanation, Mandate, MandateRequest, Page, Payment
from .nonces import Nonces
from .signing import request_headers, sign_body
from .transport import NOT_SENT, UNKNOWN, options, refusal_of

# How long signatures of payments and holds live, in seconds, and by how much they differ: two processes that sign at
# once must not sign the very same message.
PAYMENT_LIFETIME = 3_600
HOLD_LIFETIME = 600
SPREAD = 60
# How often the same is sent while its outcome is unknown, or while the relayer asks to wait.
ATTEMPTS = 6
# How often a payment is signed anew because another one took its nonce.
RENEWALS = 200
# How much longer than asked a hold lasts: the relayer counts from when it is asked.
CAPTURE_MARGIN = 300
# How long the relayer waits for a payment's state before it answers, in seconds.
LONG_POLL = 25
WAIT = {"overloaded", "cannot_send", "rate_limited", "unauthenticated"}
NONCE = {"nonce_taken", "nonce_retired", "nonce_used"}
# Signed for a time that has passed on chain: its clock is ahead of this machine's.
LATE = {"deadline_passed", "deadline_too_soon", "capture_by_too_soon"}
# With these, as with a decision, the relayer has looked for what was sent before, and has not found it.
LOOKED = {"nonce_taken", "idempotency_key_reused"}
PAYMENT_STATES = ("reserved", "submitted", "mined", "settled", "failed")
CARD_STATES = ("requested", "held", "active", "used", "closing", "closed", "failed")
# What is asked by POST and changes nothing.
READS = {"/v1/explain"}
REACHED = {"mined": {"mined", "settled", "failed"}, "settled": {"settled", "failed"}}
SEQ_MAX = 2**63 - 1
ZERO = "0x" + "00" * 32


@dataclass
class _Call:
    method: str
    path: str
    query: dict[str, Any]
    body: bytes | None
    key: str | None
    signed: bool


@dataclass
class _Pause:
    seconds: float


@dataclass
class _Answer:
    status: int
    body: bytes
    replayed: bool
    # Whether it was sent more than once: then a replay may be its own.
    resent: bool = False
    # What it says, read.
    value: Any = None


class _Calls:
    """The calls, as generators. `_run` carries one out."""

    def __init__(self, relayer: str, key: str | LocalAccount):
        self._base = inputs.relayer(relayer)
        self._account = inputs.account(key)
        self._info: dict[str, Any] | None = None
        self._nonces = Nonces()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address} at {self._base}>"

    @property
    def address(self) -> str:
        """The address that signs."""
        return str(self._account.address)

    def _run(self, call: Generator[Any, Any, Any]) -> Any:
        raise NotImplementedError

    def info(self) -> Any:
        """A dict of what the relayer serves: chain, contract, limits."""
        return self._run(self._get_info())

    def request_mandate(
        self,
        amount: str | Decimal,
        intent: str,
        duration: str,
        *,
        per_payment: str | Decimal | None = None,
        window: str | None = None,
        window_cap: str | Decimal | None = None,
        refunds_restore_budget: bool | None = None,
        payees: list[str] | None = None,
        mccs: list[str] | None = None,
        metadata: dict[str, str] | None = None,
    ) -> Any:
        """Asks an operator for a mandate over `amount` USDC: a MandateRequest.

        `intent` says what for; `duration` and `window` are such as "30d", "12h", "45m" or "90s". `per_payment` limits
        each payment, `window_cap` what is paid within any `window`, `payees` who is paid, and `mccs` at which
        merchants cards are used, by category; without them there is no such limit.
        """
        body: dict[str, Any] = {
            "amount": inputs.amount("amount", amount),
            "intent": inputs.text("intent", 1, 1_000, intent),
            "duration": inputs.duration("duration", duration),
        }
        if per_payment is not None:
            body["per_payment"] = inputs.amount("per_payment", per_payment)
        if window is not None:
            body["window"] = inputs.duration("window", window)
        if window_cap is not None:
            body["window_cap"] = inputs.amount("window_cap", window_cap)
        if refunds_restore_budget is not None:
            body["refunds_restore_budget"] = inputs.flag("refunds_restore_budget", refunds_restore_budget)
        if payees is not None:
            body["payees"] = inputs.addresses("payees", payees)
        if mccs is not None:
            body["mccs"] = inputs.categories("mccs", mccs)
        if metadata is not None:
            body["metadata"] = inputs.metadata(metadata)
        return self._run(self._model(MandateRequest, "POST", "/v1/mandate-requests", body=body))

    def mandate_request(self, request: str | MandateRequest) -> Any:
        """A MandateRequest as it is now."""
        return self._run(self._model(MandateRequest, "GET", f"/v1/mandate-requests/{_request(request)}"))

    def wait_for_mandate(self, request: str | MandateRequest, timeout: float = 600) -> Any:
        """The Mandate, once an operator has approved the request and it is open. Raises TimeoutError."""
        return self._run(self._wait_for_mandate(_request(request), inputs.seconds("timeout", timeout)))

    def mandates(self) -> Any:
        """The newest 100 Mandates: a Page."""
        return self._run(self._page(Mandate, "/v1/mandates", {"limit": 100}))

    def mandate(self, mandate: str | Mandate) -> Any:
        """A Mandate as it is now."""
        return self._run(self._model(Mandate, "GET", f"/v1/mandates/{_mandate(mandate)}"))

    def pay(
        self,
        mandate: str | Mandate,
        payee: str,
        amount: str | Decimal,
        *,
        ref: str = ZERO,
        idempotency_key: str | None = None,
        metadata: dict[str, str] | None = None,
        wait: str | None = "mined",
        timeout: float = 60,
    ) -> Any:
        """Pays `amount` USDC to an address: a Payment.

        `ref`, 32 bytes as 0x and hex, goes on chain. All calls with one `idempotency_key` (1 to 255 printable ASCII
        characters) are one payment. `metadata`: at most 16 pairs, names of 1 to 40 bytes, values up to 500.
        `wait`: "mined", "settled" or None; after `timeout` seconds the payment is returned as it is then.

        Raises InvalidInput before anything is signed, Refused if it is refused, Unreachable if no relayer answers, and
        Unknown with what was signed if nobody says what became of it.
        """
        content = _payment_content(payee, amount, ref, metadata)
        wait = None if wait is None else inputs.choice("wait", REACHED, wait)
        timeout = inputs.seconds("timeout", timeout)
        key = inputs.idempotency_key(idempotency_key)
        return self._run(self._pay(_mandate(mandate), content, key, wait, timeout))

    def sign_payment(
        self,
        mandate: str | Mandate,
        payee: str,
        amount: str | Decimal,
        *,
        ref: str = ZERO,
        metadata: dict[str, str] | None = None,
    ) -> Any:
        """Signs a payment for somebody else to send, such as its payee: the body of the API's call, and nothing is sent.

        It takes a nonce, which no other payment gets, whether it is sent or not. Arguments and errors are those of `pay`.
        """
        content = _payment_content(payee, amount, ref, metadata)
        return self._run(self._sign_payment(_mandate(mandate), content))

    def send(self, signed: dict[str, Any]) -> Any:
        """Sends what was signed before, as it is, `signed` of an Unknown: it is never done twice. A Payment or Card."""
        try:
            body = dict(signed)
            key = inputs.idempotency_key(body.pop("idempotency_key", None))
            kind, path = (Card, "/v1/cards") if "capture_by" in body else (Payment, "/v1/payments")
            is_signed = "signature" in body and json.dumps(body, allow_nan=False)
        except (TypeError, ValueError):
            is_signed = False
        if not is_signed:
            raise InvalidInput("signed", "what an Unknown has as `signed`")
        return self._run(self._send_again(kind, path, body, key))

    def payment(self, payment: str | Payment) -> Any:
        """A Payment as it is now."""
        return self._run(self._model(Payment, "GET", f"/v1/payments/{_payment(payment)}"))

    def payments(
        self,
        *,
        mandate: str | Mandate | None = None,
        state: str | None = None,
        ref: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Any:
        """A Page of Payments, newest first: those of a mandate, in a state, with a `ref`; `limit` is 1 to 100.

        Its `next_cursor`, if it has one, is the `cursor` of the next page.
        """
        query = {
            "mandate": None if mandate is None else _mandate(mandate),
            "state": None if state is None else inputs.choice("state", PAYMENT_STATES, state),
            "ref": None if ref is None else inputs.reference("ref", ref),
            "limit": None if limit is None else inputs.whole("limit", 1, 100, limit),
            "cursor": None if cursor is None else inputs.cursor(cursor),
        }
        return self._run(self._page(Payment, "/v1/payments", query))

    def wait_for(self, payment: str | Payment, state: str = "settled", timeout: float = 600) -> Any:
        """The Payment, once it is "mined" or "settled", or can't be any more; or as it is after `timeout` seconds."""
        state = inputs.choice("state", REACHED, state)
        return self._run(self._wait_for(_payment(payment), state, inputs.seconds("timeout", timeout)))

    def explain(self, mandate: str | Mandate, amount: str | Decimal, payee: str | None = None) -> Any:
        """What would become of a payment now, or of a card without a payee: an Explanation. Nothing is reserved."""
        body = {"mandate": _mandate(mandate), "amount": inputs.amount("amount", amount)}
        if payee is not None:
            body["payee"] = inputs.address("payee", payee)
        return self._run(self._model(Explanation, "POST", "/v1/explain", body=body))

    def create_card(
        self, mandate: str | Mandate, amount: str | Decimal, *, ref: str = ZERO, idempotency_key: str | None = None
    ) -> Any:
        """Asks for a Card over `amount` USDC, in whole cents. Arguments and errors are those of `pay`."""
        content = {"amount": inputs.amount("amount", amount), "ref": inputs.reference("ref", ref)}
        key = inputs.idempotency_key(idempotency_key)
        return self._run(self._create_card(_mandate(mandate), content, key))

    def card(self, card: str | Card) -> Any:
        """A Card as it is now."""
        return self._run(self._model(Card, "GET", f"/v1/cards/{_card(card)}"))

    def wait_for_card(self, card: str | Card, state: str = "active", timeout: float = 120) -> Any:
        """The Card, once it is in this state or past it, or has failed; or as it is after `timeout` seconds."""
        state = inputs.choice("state", CARD_STATES, state)
        return self._run(self._wait_for_card(_card(card), state, inputs.seconds("timeout", timeout)))

    def card_secrets(self, card: str | Card) -> Any:
        """The number, for a merchant's form: CardSecrets. Each look is written down."""
        if not self._base.startswith("https:") and not inputs.is_loopback(self._base):
            raise InvalidInput("relayer", "https or this machine, to be told a card's number", self._base)
        return self._run(self._model(CardSecrets, "GET", f"/v1/cards/{_card(card)}/secrets"))

    def close_card(self, card: str | Card) -> Any:
        """Ends a card that was not charged: the Card."""
        return self._run(self._model(Card, "POST", f"/v1/cards/{_card(card)}/close"))

    def audit(self, mandate: str | Mandate | None = None, after: int = 0, limit: int = 100) -> Any:
        """A Page of the trail, at most 100 AuditEntries, oldest first, after the entry of that `seq`."""
        query = {
            "after": inputs.whole("after", 0, SEQ_MAX, after),
            "limit": inputs.whole("limit", 1, 100, limit),
            "mandate": None if mandate is None else _mandate(mandate),
        }
        return self._run(self._page(AuditEntry, "/v1/audit", query))

    def _get_info(self, anew: bool = False) -> Generator[Any, Any, dict[str, Any]]:
        if self._info is None or anew:
            answer = yield from self._ask("GET", "/v1/info", _read_info, signed=False)
            self._info = answer.value
        return self._info

    def _model(self, model: Any, method: str, path: str, **more: Any) -> Generator[Any, Any, Any]:
        yield from self._get_info()
        answer = yield from self._ask(method, path, model.of, **more)
        return answer.value

    def _page(self, model: Any, path: str, query: dict[str, Any]) -> Generator[Any, Any, Page[Any]]:
        def read(answer: Any) -> Page[Any]:
            if not isinstance(answer, dict) or not isinstance(answer.get("data"), list):
                raise ValueError("this is no page")
            page = Page(model.of(item) for item in answer["data"])
            page.next_cursor = answer.get("next_cursor")
            return page

        yield from self._get_info()
        query = {name: value for name, value in query.items() if value is not None}
        answer = yield from self._ask("GET", path, read, query=query)
        page: Page[Any] = answer.value
        return page

    def _latest(self, mandate: str | None) -> Generator[Any, Any, int]:
        """The end of the trail. That asks for it as any call does, so that what is refused is so at once."""
        entries = yield from self._page(AuditEntry, "/v1/audit", {"latest": "true", "limit": 1, "mandate": mandate})
        return entries[-1].seq if entries else 0

    def _wait_for_mandate(self, request: str, timeout: float) -> Generator[Any, Any, Mandate]:
        start = time.monotonic()
        while True:
            asked = yield from self._model(MandateRequest, "GET", f"/v1/mandate-requests/{request}")
            if asked.mandate:
                mandate: Mandate = yield from self._model(Mandate, "GET", f"/v1/mandates/{asked.mandate}")
                if mandate.state == "open":
                    return mandate
            if time.monotonic() - start >= timeout:
                raise TimeoutError(f"no operator has approved {request}: stipend mandate approve {request}")
            yield _Pause(1)

    def _wait_for(self, payment: str, state: str, timeout: float) -> Generator[Any, Any, Payment]:
        start = time.monotonic()
        while True:
            left = timeout - (time.monotonic() - start)
            # The relayer does the waiting, if there is time for it.
            query = {"wait": state} if left > LONG_POLL else {}
            seen: Payment = yield from self._model(Payment, "GET", f"/v1/payments/{payment}", query=query)
            if seen.state in REACHED[state] or left <= 0:
                return seen
            yield _Pause(0.2 if query else max(0, min(0.5, left)))

    def _wait_for_card(self, card: str, state: str, timeout: float) -> Generator[Any, Any, Card]:
        start = time.monotonic()
        while True:
            seen: Card = yield from self._model(Card, "GET", f"/v1/cards/{card}")
            if seen.state in CARD_STATES[CARD_STATES.index(state) :] or time.monotonic() - start >= timeout:
                return seen
            yield _Pause(0.5)

    def _pay(
        self, mandate: str, content: dict[str, Any], key: str | None, wait: str | None, timeout: float
    ) -> Generator[Any, Any, Payment]:
        payment: Payment = yield from self._spend(Payment, mandate, "Spend", "/v1/payments", _payment_of(mandate, content), key)
        if wait is not None and payment.state not in REACHED[wait]:
            try:
                payment = yield from self._wait_for(payment.id, wait, timeout)
            except StipendError:
                # It is accepted: nothing from here on may look as if it had failed.
                return payment
        return payment

    def _create_card(self, mandate: str, content: dict[str, Any], key: str | None) -> Generator[Any, Any, Card]:
        def sign(info: dict[str, Any], nonce: int, end: int) -> dict[str, Any]:
            cards = info["cards"]
            now = _now(info) - random.randrange(SPREAD)
            capture_by = now + SPREAD + cards["ttl"] + cards["clearing_reserve"] + CAPTURE_MARGIN
            deadline = min(now + HOLD_LIFETIME, end)
            return {**content, "mandate": mandate, "nonce": nonce, "deadline": deadline, "capture_by": capture_by}

        info = yield from self._get_info()
        if not info.get("cards"):
            detail = "this relayer has no card issuer"
            raise Refused({"code": "cards_not_offered", "detail": detail, "hint": "pay instead"})
        card: Card = yield from self._spend(Card, mandate, "Hold", "/v1/cards", sign, key)
        return card

    def _sign_payment(self, mandate: str, content: dict[str, Any]) -> Generator[Any, Any, dict[str, Any]]:
        info = yield from self._get_info(anew=True)
        known = yield from self._model(Mandate, "GET", f"/v1/mandates/{mandate}")
        return self._signed("Spend", mandate, info, known, _payment_of(mandate, content))

    def _signed(self, kind: str, mandate: str, info: dict[str, Any], known: Mandate, sign: Any) -> dict[str, Any]:
        """The body with the next free nonce, signed."""
        nonce = self._nonces.take(mandate, known.next_nonce)
        try:
            body: dict[str, Any] = sign(info, nonce, known.terms["expiry"])
            body["signature"] = sign_body(self._account, kind, info, body)
        except BaseException:
            self._nonces.release(mandate, nonce)
            raise
        return body

    def _spend(
        self, model: Any, mandate: str, kind: str, path: str, sign: Any, key: str | None
    ) -> Generator[Any, Any, Any]:
        """Signs with the next free nonce, and sends. What another caller took is signed anew."""
        info = yield from self._get_info()
        known = yield from self._model(Mandate, "GET", f"/v1/mandates/{mandate}")
        renewed = False
        for _ in range(RENEWALS):
            body = self._signed(kind, mandate, info, known, sign)
            nonce = body["nonce"]
            try:
                answer = yield from self._ask("POST", path, model.of, body=body, key=key, signed=False)
            except (Refused, Unreachable) as error:
                if not isinstance(error, Refused) or error.code not in NONCE:
                    self._nonces.release(mandate, nonce)
                    if renewed or not isinstance(error, Refused) or error.code not in LATE:
                        raise
                    renewed = True
                    info = yield from self._get_info(anew=True)
                    continue
            else:
                if key is not None and answer.value.raw.get("nonce") != nonce:
                    # The key's payment has a nonce of its own.
                    self._nonces.release(mandate, nonce)
                # Known at the first sending of what was just signed: another caller has signed the very same.
                if key is not None or not answer.replayed or answer.resent:
                    return answer.value
            self._nonces.forget_released(mandate)
            known = yield from self._model(Mandate, "GET", f"/v1/mandates/{mandate}")
        raise Refused({"code": "nonce_taken", "detail": "others take every nonce", "hint": "try again later"})

    def _send_again(self, model: Any, path: str, body: dict[str, Any], key: str | None) -> Generator[Any, Any, Any]:
        answer = yield from self._ask("POST", path, model.of, body=body, key=key, signed=False)
        return answer.value

    def _ask(
        self,
        method: str,
        path: str,
        read: Callable[[Any], Any],
        *,
        query: dict[str, Any] | None = None,
        body: dict[str, Any] | None = None,
        key: str | None = None,
        signed: bool = True,
    ) -> Generator[Any, Any, _Answer]:
        """Asks until there is an answer that settles it. The same bytes each time; a request's own signature anew.

        `read` takes what a relayer answers, and raises ValueError for anything else, such as a proxy's page.
        """
        payload = None if body is None else json.dumps(body).encode()
        content = {**(body or {}), **({} if key is None else {"idempotency_key": key})}
        # One key for all attempts of what carries no signature of its own.
        if key is None and method == "POST" and signed:
            key = str(uuid4())
        call = _Call(method, path, query or {}, payload, key, signed)
        foreign = f"what answers at {self._base} is no relayer"
        last: StipendError = Unreachable(foreign)
        unknown = False
        for attempt in range(ATTEMPTS):
            if attempt:
                retry = last.retry_after if isinstance(last, Refused) and last.retry_after else 0
                yield _Pause(min(10.0, max(retry, 0.1 * 2**attempt)))
            try:
                answer: _Answer = yield call
            except NOT_SENT as error:
                last = Unreachable(f"no relayer answers at {self._base}: {error}")
                continue
            except httpx.RequestError as error:
                unknown, last = True, Unreachable(f"no relayer answers at {self._base}: {error}")
                continue
            if 200 <= answer.status < 300:
                try:
                    answer.value = read(json.loads(answer.body))
                except (ValueError, RecursionError):
                    # Not as a cause: it may quote a card's number.
                    unknown, last = True, Unreachable(f"{foreign}: HTTP {answer.status}")
                    continue
                answer.resent = unknown
                return answer
            refusal = refusal_of(answer.body)
            if refusal is None:
                unknown, last = True, Unreachable(f"{foreign}: HTTP {answer.status}")
            elif refusal.code in UNKNOWN:
                unknown, last = True, refusal
            else:
                last = refusal
                if last.code not in WAIT:
                    break
        has_looked = isinstance(last, Refused) and (last.decision is not None or last.code in LOOKED)
        if unknown and method == "POST" and path not in READS and not has_looked:
            raise Unknown(
                f"{path} has not said whether it was done: send the same again", None if signed else content
            ) from last
        raise last

    def _http(self, call: _Call) -> dict[str, Any]:
        url = self._base + call.path + (f"?{urlencode(call.query)}" if call.query else "")
        headers = {"accept": "application/json"}
        if call.body is not None:
            headers["content-type"] = "application/json"
        if call.key is not None:
            headers["idempotency-key"] = call.key
        if call.signed:
            chain_id = (self._info or {})["chain_id"]
            headers |= request_headers(self._account, chain_id, call.method, url, call.body)
        return {"method": call.method, "url": url, "headers": headers, "content": call.body}

    def _stream(self, mandate: str | None, after: int) -> dict[str, Any]:
        query = {"after": after} if mandate is None else {"after": after, "mandate": mandate}
        request = self._http(_Call("GET", "/v1/events", query, None, None, True))
        request["headers"]["accept"] = "text/event-stream"
        return request


def _payment_content(payee: str, amount: str | Decimal, ref: str, metadata: dict[str, str] | None) -> dict[str, Any]:
    content: dict[str, Any] = {
        "payee": inputs.address("payee", payee),
        "amount": inputs.amount("amount", amount),
        "ref": inputs.reference("ref", ref),
    }
    if metadata is not None:
        content["metadata"] = inputs.metadata(metadata)
    return content


def _payment_of(mandate: str, content: dict[str, Any]) -> Callable[[dict[str, Any], int, int], dict[str, Any]]:
    """What is signed for it with a nonce, until its mandate's end."""

    def terms(info: dict[str, Any], nonce: int, end: int) -> dict[str, Any]:
        deadline = min(_now(info) + PAYMENT_LIFETIME - random.randrange(SPREAD), end)
        return {**content, "mandate": mandate, "nonce": nonce, "deadline": deadline}

    return terms


def _now(info: dict[str, Any]) -> int:
    """What deadlines are measured against, as far as it is known: the later of the chain's time and this machine's."""
    return max(int(time.time()), int(info["head"]["time"]))


class _Entries:
    """The entries of a stream of server-sent events, each once. One that no empty line has ended does not count."""

    def __init__(self, after: int):
        self.after = after
        self.begin()

    def begin(self) -> None:
        """A new connection."""
        self._rest = self._data = b""

    def feed(self, chunk: bytes) -> Iterator[AuditEntry]:
        # Texts of others may hold what Python, but not this format, takes for the end of a line.
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            line = line.rstrip(b"\r")
            if line.startswith(b"data:"):
                self._data += line[5:]
            elif not line and self._data:
                data, self._data = self._data, b""
                entry = AuditEntry.of(json.loads(data))
                if entry.seq > self.after:
                    self.after = entry.seq
                    yield entry


def _mandate(mandate: object) -> str:
    return inputs.identifier("mandate", "mand_", mandate)


def _payment(payment: object) -> str:
    return inputs.identifier("payment", "pay_", payment)


def _card(card: object) -> str:
    return inputs.identifier("card", "card_", card)


def _request(request: object) -> str:
    return inputs.identifier("request", "req_", request)


def _read_info(answer: Any) -> dict[str, Any]:
    if isinstance(answer, dict) and isinstance(answer.get("chain_id"), int) and isinstance(answer.get("escrow"), str):
        if isinstance(answer.get("head"), dict) and isinstance(answer["head"].get("time"), int):
            return answer
    raise ValueError("this is no relayer's /v1/info")


class Stipend(_Calls):
    """The relayer at `relayer`, an http or https URL, used with `key`: the agent's private key as hex, or an account of
    eth_account.

    `timeout` is that of one HTTP exchange, in seconds. Threads may share it. Every call may raise a StipendError:
    InvalidInput, Refused, Unreachable or Unknown.
    """

    def __init__(self, relayer: str, key: str | LocalAccount, *, timeout: float = 35):
        super().__init__(relayer, key)
        self._client = httpx.Client(**options(self._base, timeout))

    def __enter__(self) -> Stipend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def _run(self, call: Generator[Any, Any, Any]) -> Any:
        try:
            step = call.send(None)
            while True:
                if isinstance(step, _Pause):
                    time.sleep(step.seconds)
                    step = call.send(None)
                    continue
                try:
                    response = self._client.request(**self._http(step))
                    answer = _Answer(response.status_code, response.content, "idempotent-replayed" in response.headers)
                except httpx.RequestError as error:
                    step = call.throw(error)
                else:
                    step = call.send(answer)
        except StopIteration as end:
            return end.value

    def events(self, mandate: str | Mandate | None = None, after: int | None = None) -> Iterator[AuditEntry]:
        """The trail as it grows, AuditEntry by AuditEntry: from now on, or after the one of that `seq`.

        A broken connection, or a relayer that does not answer now, goes on where it was: none is lost or comes twice.
        """
        which = None if mandate is None else _mandate(mandate)
        return self._events(which, None if after is None else inputs.whole("after", 0, SEQ_MAX, after))

    def _events(self, mandate: str | None, after: int | None) -> Iterator[AuditEntry]:
        # From a fixed place on, so that nothing is missed if the first connection breaks.
        latest = self._run(self._latest(mandate))
        entries = _Entries(latest if after is None else after)
        pause = 0.1
        while True:
            try:
                with self._client.stream(**self._stream(mandate, entries.after)) as response:
                    if response.status_code in (400, 404) and (refusal := refusal_of(response.read())):
                        raise refusal
                    if response.status_code == 200:
                        entries.begin()
                        for chunk in response.iter_bytes():
                            for entry in entries.feed(chunk):
                                pause = 0.1
                                yield entry
            except (httpx.RequestError, ValueError, RecursionError):
                pass
            time.sleep(pause)
            pause = min(10, pause * 2)


class AsyncStipend(_Calls):
    """The same, to be awaited."""

    def __init__(self, relayer: str, key: str | LocalAccount, *, timeout: float = 35):
        super().__init__(relayer, key)
        self._client = httpx.AsyncClient(**options(self._base, timeout))

    async def __aenter__(self) -> AsyncStipend:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._client.aclose()

    async def _run(self, call: Generator[Any, Any, Any]) -> Any:
        try:
            step = call.send(None)
            while True:
                if isinstance(step, _Pause):
                    await asyncio.sleep(step.seconds)
                    step = call.send(None)
                    continue
                try:
                    response = await self._client.request(**self._http(step))
                    answer = _Answer(response.status_code, response.content, "idempotent-replayed" in response.headers)
                except httpx.RequestError as error:
                    step = call.throw(error)
                else:
                    step = call.send(answer)
        except StopIteration as end:
            return end.value

    def events(self, mandate: str | Mandate | None = None, after: int | None = None) -> AsyncIterator[AuditEntry]:
        """The trail as it grows, AuditEntry by AuditEntry: from now on, or after the one of that `seq`.

        A broken connection, or a relayer that does not answer now, goes on where it was: none is lost or comes twice.
        """
        which = None if mandate is None else _mandate(mandate)
        return self._events(which, None if after is None else inputs.whole("after", 0, SEQ_MAX, after))

    async def _events(self, mandate: str | None, after: int | None) -> AsyncIterator[AuditEntry]:
        # From a fixed place on, so that nothing is missed if the first connection breaks.
        latest = await self._run(self._latest(mandate))
        entries = _Entries(latest if after is None else after)
        pause = 0.1
        while True:
            try:
                async with self._client.stream(**self._stream(mandate, entries.after)) as response:
                    if response.status_code in (400, 404) and (refusal := refusal_of(await response.aread())):
                        raise refusal
                    if response.status_code == 200:
                        entries.begin()
                        async for chunk in response.aiter_bytes():
                            for entry in entries.feed(chunk):
                                pause = 0.1
                                yield entry
            except (httpx.RequestError, ValueError, RecursionError):
                pass
            await asyncio.sleep(pause)
            pause = min(10, pause * 2)
