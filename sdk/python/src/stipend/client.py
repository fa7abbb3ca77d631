"""The relayer, as an agent uses it.

Each call is written once, as a generator that yields requests and pauses; `Stipend` and `AsyncStipend` differ only in
how they carry those out.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import httpx
from eth_account import Account
from eth_account.signers.local import LocalAccount

from .errors import Refused, Unknown, Unreachable
from .models import AuditEntry, Card, CardSecrets, Explanation, Mandate, MandateRequest, Payment
from .signing import request_headers, sign_typed, typed_data

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
UNKNOWN = {"unavailable", "timeout", "internal"}
WAIT = {"overloaded", "cannot_send", "rate_limited", "unauthenticated"}
# Refusals by a relayer that has looked for an earlier attempt and found none. So have those with a decision.
LOOKED = {"nonce_taken", "idempotency_key_reused"}
# Signed for a time that has passed on chain: its clock is ahead of this machine's.
LATE = {"deadline_passed", "deadline_too_soon", "capture_by_too_soon"}
NONCE = {"nonce_taken", "nonce_retired", "nonce_used"}
FINAL = {"settled", "failed"}
REACHED = {"mined": {"mined", "settled", "failed"}, "settled": FINAL}
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

    def json(self) -> Any:
        return json.loads(self.body)


def _amount(value: str | int | Decimal) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, Decimal)):
        raise TypeError('an amount is a string or a Decimal, such as "4.20", and never a float')
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def _units(amount: str) -> int:
    units = Decimal(amount) * 1_000_000
    if not units.is_finite() or units != int(units):
        raise ValueError(f"{amount} has more than six decimals")
    return int(units)


def _id(thing: Any) -> str:
    return thing if isinstance(thing, str) else thing.id


class _Calls:
    """The calls, as generators. `_run` carries one out."""

    def __init__(self, relayer: str, key: str | LocalAccount):
        self._base = relayer.rstrip("/")
        self._account: LocalAccount = Account.from_key(key) if isinstance(key, str) else key
        self._info: dict[str, Any] | None = None
        self._nonces: dict[str, int] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address} at {self._base}>"

    @property
    def address(self) -> str:
        """The address that signs."""
        return self._account.address

    def _run(self, call: Generator[Any, Any, Any]) -> Any:
        raise NotImplementedError

    def info(self) -> Any:
        """What the relayer serves: chain, contract, limits."""
        return self._run(self._get_info())

    def request_mandate(self, amount: str | Decimal, intent: str, duration: str, **more: Any) -> Any:
        """Asks an operator for a mandate. `more`: per_payment, window, window_cap, payees, mccs, metadata."""
        body = {"amount": _amount(amount), "intent": intent, "duration": duration}
        for name, value in more.items():
            body[name] = _amount(value) if name in ("per_payment", "window_cap") else value
        return self._run(self._model(MandateRequest, "POST", "/v1/mandate-requests", body=body))

    def mandate_request(self, request: str | MandateRequest) -> Any:
        return self._run(self._model(MandateRequest, "GET", f"/v1/mandate-requests/{_id(request)}"))

    def wait_for_mandate(self, request: str | MandateRequest, timeout: float = 600) -> Any:
        """The mandate, once an operator has approved the request and it is open."""
        return self._run(self._wait_for_mandate(_id(request), timeout))

    def mandates(self) -> Any:
        """The newest 100 mandates."""
        return self._run(self._page(Mandate, "/v1/mandates", {"limit": 100}))

    def mandate(self, mandate: str | Mandate) -> Any:
        return self._run(self._model(Mandate, "GET", f"/v1/mandates/{_id(mandate)}"))

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
        """Pays. `wait`: "mined", "settled" or None; after `timeout` the payment is returned as it is then.

        Raises Refused if it is refused, and Unknown with what was signed if nobody says what became of it.
        """
        content = {"payee": payee, "amount": _amount(amount), "ref": ref}
        if metadata:
            content["metadata"] = metadata
        return self._run(self._pay(_id(mandate), content, idempotency_key, wait, timeout))

    def send(self, signed: dict[str, Any]) -> Any:
        """Sends what was signed before, as it is: it is never done twice."""
        return self._run(self._send_again(signed))

    def payment(self, payment: str | Payment) -> Any:
        return self._run(self._model(Payment, "GET", f"/v1/payments/{_id(payment)}"))

    def payments(self, **query: Any) -> Any:
        """A page of payments, newest first. `query`: mandate, state, ref, limit (1 to 100), cursor."""
        return self._run(self._page(Payment, "/v1/payments", query))

    def wait_for(self, payment: str | Payment, state: str = "settled", timeout: float = 600) -> Any:
        """The payment, once it is "mined" or "settled", or can't be any more; or as it is after `timeout`."""
        return self._run(self._wait_for(_id(payment), state, timeout))

    def explain(self, mandate: str | Mandate, amount: str | Decimal, payee: str | None = None) -> Any:
        """What would become of a payment now, or of a card without a payee. Nothing is reserved."""
        body = {"mandate": _id(mandate), "amount": _amount(amount)}
        if payee is not None:
            body["payee"] = payee
        return self._run(self._model(Explanation, "POST", "/v1/explain", body=body))

    def create_card(
        self, mandate: str | Mandate, amount: str | Decimal, *, ref: str = ZERO, idempotency_key: str | None = None
    ) -> Any:
        """Asks for a card over `amount`, in whole cents."""
        content = {"amount": _amount(amount), "ref": ref}
        return self._run(self._create_card(_id(mandate), content, idempotency_key))

    def card(self, card: str | Card) -> Any:
        return self._run(self._model(Card, "GET", f"/v1/cards/{_id(card)}"))

    def wait_for_card(self, card: str | Card, state: str = "active", timeout: float = 120) -> Any:
        """The card, once it is in this state or closed or failed; or as it is after `timeout`."""
        return self._run(self._wait_for_card(_id(card), state, timeout))

    def card_secrets(self, card: str | Card) -> Any:
        """The number, for a merchant's form. Each look is written down."""
        return self._run(self._card_secrets(_id(card)))

    def close_card(self, card: str | Card) -> Any:
        return self._run(self._model(Card, "POST", f"/v1/cards/{_id(card)}/close"))

    def audit(self, mandate: str | Mandate | None = None, after: int = 0, limit: int = 100) -> Any:
        """A page of the trail, oldest first, after an entry."""
        query = {"after": after, "limit": limit, "mandate": _id(mandate) if mandate else None}
        return self._run(self._page(AuditEntry, "/v1/audit", query))

    def _get_info(self, anew: bool = False) -> Generator[Any, Any, dict[str, Any]]:
        if self._info is None or anew:
            answer = yield from self._ask("GET", "/v1/info", signed=False)
            self._info = answer.json()
        return self._info

    def _model(self, model: Any, method: str, path: str, **more: Any) -> Generator[Any, Any, Any]:
        yield from self._get_info()
        answer = yield from self._ask(method, path, **more)
        return model.of(answer.json())

    def _page(self, model: Any, path: str, query: dict[str, Any]) -> Generator[Any, Any, Any]:
        yield from self._get_info()
        query = {name: value for name, value in query.items() if value is not None}
        answer = yield from self._ask("GET", path, query=query)
        return [model.of(item) for item in answer.json()["data"]]

    def _latest(self, mandate: str | Mandate | None) -> Generator[Any, Any, list[AuditEntry]]:
        query = {"latest": "true", "limit": 1, "mandate": _id(mandate) if mandate else None}
        return self._page(AuditEntry, "/v1/audit", query)

    def _card_secrets(self, card: str) -> Generator[Any, Any, CardSecrets]:
        yield from self._get_info()
        answer = yield from self._ask("GET", f"/v1/cards/{card}/secrets")
        return CardSecrets(**answer.json())

    def _wait_for_mandate(self, request: str, timeout: float) -> Generator[Any, Any, Mandate]:
        start = time.monotonic()
        while True:
            asked = yield from self._model(MandateRequest, "GET", f"/v1/mandate-requests/{request}")
            if asked.mandate:
                mandate = yield from self._model(Mandate, "GET", f"/v1/mandates/{asked.mandate}")
                if mandate.state == "open":
                    return mandate
            if time.monotonic() - start >= timeout:
                raise TimeoutError(f"no operator has approved {request}: stipend mandate approve {request}")
            yield _Pause(1)

    def _wait_for(self, payment: str, state: str, timeout: float) -> Generator[Any, Any, Payment]:
        start = time.monotonic()
        while True:
            path = f"/v1/payments/{payment}"
            seen = yield from self._model(Payment, "GET", path, query={"wait": state})
            if seen.state in REACHED[state] or time.monotonic() - start >= timeout:
                return seen
            yield _Pause(0.2)

    def _wait_for_card(self, card: str, state: str, timeout: float) -> Generator[Any, Any, Card]:
        start = time.monotonic()
        while True:
            seen = yield from self._model(Card, "GET", f"/v1/cards/{card}")
            if seen.state in (state, "closed", "failed") or time.monotonic() - start >= timeout:
                return seen
            yield _Pause(0.5)

    def _pay(
        self, mandate: str, content: dict[str, Any], key: str | None, wait: str | None, timeout: float
    ) -> Generator[Any, Any, Payment]:
        def sign(info: dict[str, Any], nonce: int, end: int) -> dict[str, Any]:
            deadline = min(_now(info) + PAYMENT_LIFETIME - random.randrange(SPREAD), end)
            return {**content, "mandate": mandate, "nonce": nonce, "deadline": deadline}

        payment = Payment.of((yield from self._spend(mandate, "Spend", "/v1/payments", sign, key)))
        if wait is not None and payment.state not in REACHED[wait]:
            try:
                payment = yield from self._wait_for(payment.id, wait, timeout)
            except (Refused, Unknown, Unreachable):
                # It is accepted: nothing from here on may look as if it had failed.
                return payment
        return payment

    def _create_card(self, mandate: str, content: dict[str, Any], key: str | None) -> Generator[Any, Any, Card]:
        def sign(info: dict[str, Any], nonce: int, end: int) -> dict[str, Any]:
            cards = info.get("cards") or {"ttl": 0, "clearing_reserve": 0}
            now = _now(info) - random.randrange(SPREAD)
            capture_by = now + SPREAD + cards["ttl"] + cards["clearing_reserve"] + CAPTURE_MARGIN
            deadline = min(now + HOLD_LIFETIME, end)
            return {**content, "mandate": mandate, "nonce": nonce, "deadline": deadline, "capture_by": capture_by}

        return Card.of((yield from self._spend(mandate, "Hold", "/v1/cards", sign, key)))

    def _spend(self, mandate: str, kind: str, path: str, sign: Any, key: str | None) -> Generator[Any, Any, Any]:
        """Signs with the next free nonce, and sends. What another caller took is signed anew."""
        info = yield from self._get_info()
        known = yield from self._model(Mandate, "GET", f"/v1/mandates/{mandate}")
        end = known.terms["expiry"]
        renewed = False
        for _ in range(RENEWALS):
            with self._lock:
                nonce = max(self._nonces.get(mandate, 0), known.next_nonce)
                self._nonces[mandate] = nonce + 1
            body = sign(info, nonce, end)
            body["signature"] = self._sign(kind, info, body)
            try:
                answer = yield from self._ask("POST", path, body=body, key=key, signed=False)
            except Refused as refusal:
                if refusal.code not in NONCE:
                    with self._lock:
                        # Nobody has used it: the next one does.
                        if self._nonces.get(mandate) == nonce + 1:
                            self._nonces[mandate] = nonce
                    if renewed or refusal.code not in LATE:
                        raise
                    renewed = True
                    info = yield from self._get_info(anew=True)
                    continue
            else:
                # Known at the first sending of what was just signed: another caller has signed the very same.
                if key is not None or not answer.replayed or answer.resent:
                    return answer.json()
            known = yield from self._model(Mandate, "GET", f"/v1/mandates/{mandate}")
        raise Refused({"code": "nonce_taken", "detail": "others take every nonce", "hint": "try again later"})

    def _sign(self, kind: str, info: dict[str, Any], body: dict[str, Any]) -> str:
        payee = body["payee"] if kind == "Spend" else info["cards"]["treasury"] if info.get("cards") else None
        if payee is None:
            raise Refused({"code": "cards_not_offered", "detail": "this relayer has no card issuer", "hint": "pay instead"})
        message = {
            "mandate": bytes.fromhex(body["mandate"].removeprefix("mand_")),
            "payee": payee,
            "amount": _units(body["amount"]),
            "nonce": body["nonce"],
            "deadline": body["deadline"],
            "ref": bytes.fromhex(body["ref"].removeprefix("0x")),
        }
        if kind == "Hold":
            message["captureBy"] = body["capture_by"]
        return sign_typed(self._account, typed_data(kind, info["chain_id"], info["escrow"], message))

    def _send_again(self, signed: dict[str, Any]) -> Generator[Any, Any, Any]:
        is_card = "capture_by" in signed
        answer = yield from self._ask("POST", "/v1/cards" if is_card else "/v1/payments", body=signed, signed=False)
        return (Card if is_card else Payment).of(answer.json())

    def _ask(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        body: dict[str, Any] | None = None,
        key: str | None = None,
        signed: bool = True,
    ) -> Generator[Any, Any, _Answer]:
        """Asks until there is an answer that settles it. The same bytes each time; a request's own signature anew."""
        payload = None if body is None else json.dumps(body).encode()
        # One key for all attempts of what carries no signature of its own.
        key = key or (str(uuid4()) if method == "POST" and signed else None)
        call = _Call(method, path, query or {}, payload, key, signed)
        last: Exception | None = None
        unknown = False
        for attempt in range(ATTEMPTS):
            if attempt:
                retry = last.retry_after if isinstance(last, Refused) and last.retry_after else 0
                yield _Pause(min(10.0, max(retry, 0.1 * 2**attempt)))
            try:
                answer = yield call
            except httpx.ConnectError as error:
                last = Unreachable(f"no relayer answers at {self._base}: {error}")
                continue
            except httpx.TransportError as error:
                unknown, last = True, error
                continue
            if answer.status < 300:
                answer.resent = unknown
                return answer
            problem = _problem(answer)
            if problem is None or problem["code"] in UNKNOWN:
                unknown, last = True, Refused(problem or {"code": "unavailable", "detail": f"HTTP {answer.status}"})
                continue
            last = Refused(problem)
            if last.code in WAIT:
                continue
            if unknown and method == "POST" and last.decision is None and last.code not in LOOKED:
                break
            raise last
        if unknown and method == "POST":
            content = body if not signed else None
            raise Unknown(f"{path} has not said whether it was done: send the same again", content) from last
        if isinstance(last, (Refused, Unreachable)):
            raise last
        raise Unreachable(f"no relayer answers at {self._base}: {last}") from last

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

    def _stream(self, mandate: str | Mandate | None, after: int | None) -> dict[str, Any]:
        query = {"after": after, "mandate": _id(mandate) if mandate else None}
        query = {name: value for name, value in query.items() if value is not None}
        request = self._http(_Call("GET", "/v1/events", query, None, None, True))
        request["headers"]["accept"] = "text/event-stream"
        return request


def _now(info: dict[str, Any]) -> int:
    """What deadlines are measured against, as far as it is known: the later of the chain's time and this machine's."""
    return max(int(time.time()), info["head"]["time"])


def _problem(answer: _Answer) -> dict[str, Any] | None:
    try:
        problem = answer.json()
    except ValueError:
        return None
    return problem if isinstance(problem, dict) and "code" in problem else None


def _refused(status: int, body: bytes) -> Refused:
    return Refused(_problem(_Answer(status, body, False)) or {"code": "unknown", "detail": f"HTTP {status}"})


def _entry(line: str) -> AuditEntry | None:
    return AuditEntry.of(json.loads(line.removeprefix("data:"))) if line.startswith("data:") else None


class Stipend(_Calls):
    """The relayer at `relayer`, used with `key`: the agent's private key as hex, or an account of eth_account."""

    def __init__(self, relayer: str, key: str | LocalAccount, *, timeout: float = 35):
        super().__init__(relayer, key)
        self._client = httpx.Client(timeout=timeout)

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
                except httpx.TransportError as error:
                    step = call.throw(error)
                else:
                    step = call.send(answer)
        except StopIteration as end:
            return end.value

    def events(self, mandate: str | Mandate | None = None, after: int | None = None) -> Iterator[AuditEntry]:
        """The trail as it grows, from now on or after an entry.

        A broken connection, or a relayer that does not answer now, goes on where it was.
        """
        self.info()
        if after is None:
            # From a fixed place on, so that nothing is missed if the first connection breaks.
            latest = self._run(self._latest(mandate))
            after = latest[-1].seq if latest else 0
        pause = 0.1
        while True:
            try:
                with self._client.stream(**self._stream(mandate, after)) as response:
                    if response.status_code in (400, 404):
                        raise _refused(response.status_code, response.read())
                    for line in response.iter_lines():
                        if (entry := _entry(line)) is not None:
                            after, pause = entry.seq, 0.1
                            yield entry
            except httpx.TransportError:
                pass
            time.sleep(pause)
            pause = min(10, pause * 2)


class AsyncStipend(_Calls):
    """The same, to be awaited."""

    def __init__(self, relayer: str, key: str | LocalAccount, *, timeout: float = 35):
        super().__init__(relayer, key)
        self._client = httpx.AsyncClient(timeout=timeout)

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
                except httpx.TransportError as error:
                    step = call.throw(error)
                else:
                    step = call.send(answer)
        except StopIteration as end:
            return end.value

    async def events(self, mandate: str | Mandate | None = None, after: int | None = None) -> AsyncIterator[AuditEntry]:
        """The trail as it grows, from now on or after an entry.

        A broken connection, or a relayer that does not answer now, goes on where it was.
        """
        await self.info()
        if after is None:
            # From a fixed place on, so that nothing is missed if the first connection breaks.
            latest = await self._run(self._latest(mandate))
            after = latest[-1].seq if latest else 0
        pause = 0.1
        while True:
            try:
                async with self._client.stream(**self._stream(mandate, after)) as response:
                    if response.status_code in (400, 404):
                        raise _refused(response.status_code, await response.aread())
                    async for line in response.aiter_lines():
                        if (entry := _entry(line)) is not None:
                            after, pause = entry.seq, 0.1
                            yield entry
            except httpx.TransportError:
                pass
            await asyncio.sleep(pause)
            pause = min(10, pause * 2)
