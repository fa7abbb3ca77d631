"""The Python SDK at its edges: malformed input, nonces, lost and foreign answers, restarts.

test_python_sdk.py runs them.
"""

import asyncio
import concurrent.futures
import http.client
import http.server
import io
import json
import logging
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse
from decimal import Decimal, localcontext

import httpx
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils import keccak
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from relayer_case import AGENT, ROOT, RelayerCase
from stack import PAYEE, Stack
from stipend import AsyncStipend, InvalidInput, Refused, Stipend, StipendError, Unknown, Unreachable, inputs
from stipend.nonces import Nonces
from stipend.signing import request_headers, sign_typed, typed_data

MANDATE = "mand_" + "00" * 31 + "01"
MAX = 2**63 - 1
# What each argument of a payment must not be.
MALFORMED = {
    "mandate": ["", "mand_x", "mand_" + "00" * 31, MANDATE.upper(), "pay_" + "00" * 32, f"{MANDATE}/../..", 7, None],
    "payee": ["", "0x", PAYEE[2:], PAYEE[:-1], PAYEE + "00", PAYEE.replace("D", "d", 1), "0x" + "00" * 20, b"", None],
    "amount": ["", "abc", "NaN", "Infinity", "-1", "+1", "1e3", "1.", ".5", "01", "1,5", " 1", "1\n", "1_0", "١"]
    + ["1.0000001", "9223372036854.775808", "1" * 5000, -1, 10**5000, Decimal("NaN"), Decimal("sNaN")]
    + [Decimal("-Infinity"), Decimal("-0"), Decimal("1E-7"), Decimal("1E+999999"), Decimal("1." + "0" * 40 + "1")],
    "ref": ["", "0x", "00" * 32, "0x" + "00" * 31, "0x" + "0g" * 32, b"\0" * 32, 7, None],
    "idempotency_key": ["", " ", "a ", " a", "a\n", "ü", "x" * 256, 7, b"key"],
    "metadata": ["a", ["a"], {"a": 1}, {1: "a"}, {"": "a"}, {"a" * 41: ""}, {"a": "ü" * 251}, {"a": "\ud800"}]
    + [{str(number): "" for number in range(17)}],
    "wait": ["", "paid", "failed", True, 7],
    "timeout": [-1, -0.5, float("nan"), float("-inf"), "60", None, True],
}


class Forms(unittest.TestCase):
    """What needs no relayer: this port is closed, so that nothing can be sent."""

    def setUp(self):
        self.wallet = self.enterContext(Stipend("http://127.0.0.1:9", AGENT))

    def test_malformed_arguments_are_named_before_anything_is_sent(self):
        right = {"mandate": MANDATE, "payee": PAYEE, "amount": "1"}
        for name, values in MALFORMED.items():
            for value in values:
                with self.subTest(argument=name, value=value), self.assertRaises(InvalidInput) as caught:
                    self.wallet.pay(**{**right, name: value})
                said = str(caught.exception)
                self.assertTrue(name in said and caught.exception.expected in said and len(said) < 400, said)
                self.assertFalse(caught.exception.money_may_have_moved)
                self.assertIsInstance(caught.exception, ValueError)
        for value in (4.2, float("nan"), True, None, b"1", ["1"]):
            with self.subTest(amount=value), self.assertRaises(TypeError):
                self.wallet.pay(**{**right, "amount": value})

    def test_every_call_checks_what_it_is_given(self):
        wallet, request = self.wallet, ("1", "x", "1d")
        calls = [
            lambda: wallet.request_mandate("1e3", "x", "1d"),
            lambda: wallet.request_mandate("1", "", "1d"),
            lambda: wallet.request_mandate("1", "x", "1 day"),
            lambda: wallet.request_mandate(*request, per_payment="-1"),
            lambda: wallet.request_mandate(*request, window="1w"),
            lambda: wallet.request_mandate(*request, window_cap="x"),
            lambda: wallet.request_mandate(*request, refunds_restore_budget="no"),
            lambda: wallet.request_mandate(*request, payees=PAYEE),
            lambda: wallet.request_mandate(*request, payees=["x"]),
            lambda: wallet.request_mandate(*request, mccs=[5734]),
            lambda: wallet.request_mandate(*request, metadata=7),
            lambda: wallet.mandate_request("pay_1"),
            lambda: wallet.wait_for_mandate("req_" + "00" * 16, timeout=-1),
            lambda: wallet.mandate("../info"),
            lambda: wallet.payment("pay_?"),
            lambda: wallet.payments(mandate="x"),
            lambda: wallet.payments(state="paid"),
            lambda: wallet.payments(ref="x"),
            lambda: wallet.payments(limit=0),
            lambda: wallet.payments(cursor=""),
            lambda: wallet.wait_for("pay_" + "00" * 16, "reserved"),
            lambda: wallet.wait_for("pay_" + "00" * 16, timeout=float("nan")),
            lambda: wallet.explain(MANDATE, "1", payee="x"),
            lambda: wallet.create_card(MANDATE, "1", idempotency_key=""),
            lambda: wallet.create_card(MANDATE, "1", ref="x"),
            lambda: wallet.card("card_"),
            lambda: wallet.wait_for_card("card_" + "00" * 16, "charged"),
            lambda: wallet.card_secrets("x"),
            lambda: Stipend("http://relayer.example", AGENT).card_secrets("card_" + "00" * 16),
            lambda: wallet.close_card("x"),
            lambda: wallet.audit(after=-1),
            lambda: wallet.audit(limit=101),
            lambda: wallet.events("x"),
            lambda: wallet.events(after=-1),
            lambda: AsyncStipend("http://127.0.0.1:9", AGENT).events(after=True),
            lambda: wallet.send(None),
            lambda: wallet.send({}),
            lambda: wallet.send({"signature": b""}),
            lambda: wallet.send({"signature": "0x", "idempotency_key": ""}),
            lambda: Stipend("http://127.0.0.1:9", AGENT, timeout=-1),
            *(lambda url=url: Stipend(url, AGENT) for url in ("", "127.0.0.1", "ftp://x", "http://", None)),
            *(lambda url=url: Stipend(url, AGENT) for url in ("http://x:y", "http://a@x", "http://x?a", "http://x#a")),
        ]
        for number, call in enumerate(calls):
            with self.subTest(number), self.assertRaises(InvalidInput):
                call()

    @given(st.integers(0, MAX), st.integers(0, 12))
    @example(MAX, 0)
    def test_an_amount_is_the_same_however_it_is_spelled(self, units, zeros):
        exact = Decimal(f"{units // 10**6}.{units % 10**6:06}")
        # A caller's own decimal context changes nothing.
        with localcontext() as context:
            context.prec = 3
            spellings = [format(exact, "f"), exact, Decimal(f"{exact}{'0' * zeros}"), Decimal(f"{units}E-6")]
            if units % 10**6 == 0:
                whole = units // 10**6
                spellings += [whole, str(whole), Decimal(whole), Decimal(f"{whole}E+0")]
            self.assertEqual({inputs.amount("amount", spelling) for spelling in spellings}, {format(exact, "f")})

    @given(st.one_of(st.decimals(), st.integers(), st.text(), st.text("0123456789.eE+-_ ", max_size=24)))
    def test_an_amount_is_taken_exactly_or_not_at_all(self, value):
        try:
            said = inputs.amount("amount", value)
        except InvalidInput:
            return
        self.assertEqual(Decimal(said), Decimal(value))
        self.assertRegex(said, r"\A[0-9]+\.[0-9]{6}\Z")
        self.assertLessEqual(Decimal(said) * 10**6, MAX)

    def test_digests_and_signatures_are_those_of_the_contract(self):
        vectors = json.loads((ROOT / "bindings/vectors/eip712.json").read_text(encoding="utf-8"))
        agent = Account.from_key(vectors["agent"]["key"])
        escrow = vectors["domains"][0]["domain"]["verifyingContract"]
        for kind, name, cases in (("Spend", "spend", vectors["spends"]), ("Hold", "hold", vectors["holds"])):
            fields = typed_data(kind, 1, escrow, {})["types"][kind]
            listed = ",".join(f"{field['type']} {field['name']}" for field in fields)
            self.assertEqual(f"{kind}({listed})", vectors["types"][kind]["type"])
            self.assertEqual("0x" + keccak(text=f"{kind}({listed})").hex(), vectors["types"][kind]["typeHash"])
            self.assertGreaterEqual(len(cases), 5)
            for case in cases:
                texts = ("mandate", "payee", "ref")
                message = {key: value if key in texts else int(value) for key, value in case[name].items()}
                data = typed_data(kind, int(case["chainId"]), escrow, message)
                signable = encode_typed_data(full_message=data)
                digest = keccak(b"\x19" + signable.version + signable.header + signable.body)
                self.assertEqual("0x" + digest.hex(), case["digest"], case["name"])
                raw = bytes.fromhex(sign_typed(agent, data)[2:])
                r, s, v = raw[:32], int.from_bytes(raw[32:64], "big"), raw[64]
                vs = (v - 27) << 255 | s
                self.assertEqual(("0x" + r.hex(), f"0x{vs:064x}"), (case["r"], case["vs"]), case["name"])

    def test_nonces_that_are_free_again_are_used_lowest_first(self):
        nonces = Nonces()
        self.assertEqual([nonces.take(MANDATE, 4) for _ in range(3)], [4, 5, 6])
        nonces.release(MANDATE, 5)
        nonces.release(MANDATE, 4)
        self.assertEqual([nonces.take(MANDATE, 4) for _ in range(3)], [4, 5, 7])
        nonces.release(MANDATE, 7)
        nonces.forget_released(MANDATE)
        self.assertEqual([nonces.take(MANDATE, 4), nonces.take(MANDATE, 20), nonces.take("another", 0)], [8, 20, 0])

    def test_errors_can_be_sent_between_processes(self):
        errors = [
            InvalidInput.of("amount", "an amount", "x"),
            Refused({"code": "nonce_taken", "detail": "x", "retry_after": 1}),
            Unreachable("x"),
            Unknown("x", {"signature": "0x"}),
        ]
        for error in errors:
            copy = pickle.loads(pickle.dumps(error))
            self.assertEqual((type(copy), str(copy), vars(copy)), (type(error), str(error), vars(error)))

    def test_the_types_are_whole(self):
        with tempfile.TemporaryDirectory() as cache:
            check = [sys.executable, "-m", "mypy", "--strict", "--python-version", "3.10", "--cache-dir", cache]
            said = subprocess.run([*check, ROOT / "sdk/python/src/stipend"], capture_output=True, text=True)
        self.assertEqual(said.returncode, 0, said.stdout + said.stderr)

    def test_a_key_that_is_none_is_not_shown(self):
        for key in ("0x" + "5e" * 31, "not a key, 5e5e5e5e", "ключ 5e5e5e5e", 0x5E5E5E5E, b"5e5e5e5e", None):
            with self.assertRaises(InvalidInput) as caught:
                Stipend("http://127.0.0.1:9", key)
            error = caught.exception
            said = f"{error!r} {error} {vars(error)} {error.__cause__}"
            self.assertFalse("5e5e" in said or str(0x5E5E5E5E) in said, said)


class Between(http.server.ThreadingHTTPServer):
    """Between the wallet and the relayer, to which it passes things on. `spoil` answers so many payments in its way."""

    daemon_threads = True

    def __init__(self, relayer, spoil, times=1_000, port=0, passes_on=True):
        super().__init__(("127.0.0.1", port), Forwarder)
        self.relayer = urllib.parse.urlsplit(relayer)
        self.spoil, self.times, self.passes_on = spoil, times, passes_on
        self.payments = []
        self.closes = False
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Forwarder(http.server.BaseHTTPRequestHandler):
    def forward(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        is_payment = self.command == "POST" and self.path == "/v1/payments"
        content = b""
        if self.server.passes_on or not is_payment:
            answer, content = self.ask(body)
        if is_payment:
            self.body = json.loads(body)
            self.server.payments.append(self.body)
            if self.server.times > 0:
                self.server.times -= 1
                self.server.spoil(self, content)
                return
        if self.server.closes and self.path.startswith("/v1/mandates/"):
            self.server.__exit__()
        kept = ("content-type", "idempotent-replayed")
        headers = {name: value for name, value in answer.getheaders() if name.lower() in kept}
        self.answer(answer.status, content, **headers)

    do_GET = do_POST = forward

    def ask(self, body):
        relayer = http.client.HTTPConnection(self.server.relayer.hostname, self.server.relayer.port)
        # The caller signed for this address.
        relayer.request(self.command, self.path, body, dict(self.headers.items()))
        answer = relayer.getresponse()
        content = answer.read()
        relayer.close()
        return answer, content

    def answer(self, status, content, length=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


class Captive(Between):
    """Answers everything by itself."""

    def __init__(self, answer):
        super().__init__("http://127.0.0.1:9", answer)
        self.RequestHandlerClass = Hostile


class Hostile(Forwarder):
    def forward(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.spoil(self, b"")

    do_GET = do_POST = forward


def lost(handler, content):
    handler.close_connection = True


def truncated(handler, content):
    handler.answer(202, content[:40], length=len(content))
    handler.close_connection = True


def problem(code, status):
    answer = {"type": f"urn:stipend:problem:{code}", "code": code, "status": status, "detail": "x"}
    return lambda handler, _: handler.answer(status, json.dumps(answer).encode())


# How an answer to a payment gets lost, after the relayer has accepted it.
SPOILS = {
    "lost": lost,
    "truncated": truncated,
    "cut": lambda handler, content: handler.answer(202, content[:40]),
    "garbled": lambda handler, content: handler.answer(202, content, content_encoding="gzip"),
    "captive": lambda handler, _: handler.answer(200, b"<html>Please log in</html>", content_type="text/html"),
    "nested": lambda handler, _: handler.answer(200, b"[" * 60_000),
    "another": lambda handler, _: handler.answer(200, b'{"id": "pay_1", "state": "mined", "amount": "NaN"}'),
    "gateway": lambda handler, _: handler.answer(502, b"<html>Bad gateway</html>"),
    "not_found": lambda handler, _: handler.answer(404, b'{"code": "not_found", "retry_after": "soon"}'),
    "list": lambda handler, _: handler.answer(400, b'{"code": ["x"]}'),
    "unavailable": problem("unavailable", 503),
    "internal": problem("internal", 500),
}


class Faults(RelayerCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.open = cls.mandate("1000.00")

    def payments(self, **query):
        """All of the mandate's, by pages."""
        found, page = [], self.wallet.payments(mandate=self.open, limit=100, **query)
        while True:
            found += page
            if page.next_cursor is None:
                return found
            page = self.wallet.payments(mandate=self.open, limit=100, cursor=page.next_cursor, **query)

    def test_what_does_nothing_uses_no_nonce(self):
        with Stipend(self.relayer, AGENT) as wallet:
            for _ in range(100):
                for wrong in ({"amount": "abc"}, {"payee": "0x1"}, {"ref": "0x"}, {"metadata": 1}, {"wait": "x"}):
                    with self.assertRaises(InvalidInput):
                        wallet.pay(**{"mandate": self.open, "payee": PAYEE, "amount": "0.01", **wrong})
            for _ in range(100):
                with self.assertRaises(Refused) as caught:
                    wallet.pay(self.open, PAYEE, "5000")
                self.assertEqual(caught.exception.code, "insufficient_budget")
            # One key is one payment, and takes one nonce, however often it is asked for.
            keyed = [wallet.pay(self.open, PAYEE, "0.02", idempotency_key="again", wait=None) for _ in range(100)]
            self.assertEqual(len({payment.id for payment in keyed}), 1)
            following = [wallet.pay(self.open, PAYEE, "0.01", wait=None).nonce for _ in range(3)]
        self.assertEqual(following, [keyed[0].nonce + number for number in (1, 2, 3)])

    def test_a_nonce_is_free_again_if_nobody_was_there_and_not_if_the_outcome_is_unknown(self):
        proxy = Between(self.relayer, lost)
        with Stipend(proxy.url(), AGENT) as wallet:
            next_nonce = wallet.mandate(self.open).next_nonce
            proxy.closes = True
            with self.assertRaises(Unreachable):
                wallet.pay(self.open, PAYEE, "0.01")
            self.assertEqual(proxy.payments, [])
            with Between(self.relayer, lost, port=proxy.server_port) as proxy:
                with self.assertRaises(Unknown) as first:
                    wallet.pay(self.open, PAYEE, "0.01")
                with self.assertRaises(Unknown) as second:
                    wallet.pay(self.open, PAYEE, "0.01")
                proxy.times = 0
                third = wallet.pay(self.open, PAYEE, "0.01", wait=None)
        nonces = [first.exception.signed["nonce"], second.exception.signed["nonce"], third.nonce]
        self.assertEqual(nonces, [next_nonce, next_nonce + 1, next_nonce + 2])
        # Sent several times, always as it was signed.
        self.assertGreater(proxy.payments.count(first.exception.signed), 1)
        self.assertEqual(len({body["signature"] for body in proxy.payments}), 3)

    def test_lost_answers_are_asked_for_again_and_paid_once(self):
        ref = "0x" + "11" * 32
        with Between(self.relayer, lost, times=2) as proxy, Stipend(proxy.url(), AGENT) as wallet:
            paid = wallet.pay(self.open, PAYEE, "1.00", ref=ref, wait=None)
        self.assertEqual([payment.id for payment in self.payments(ref=ref)], [paid.id])
        self.assertEqual(len(proxy.payments), 3)

    def test_a_refusal_after_a_lost_answer_leaves_the_outcome_unknown(self):
        spoils = [lost, problem("halted", 503)]
        ref = "0x" + "22" * 32
        with Between(self.relayer, lambda *args: spoils.pop(0)(*args), times=2) as proxy:
            with Stipend(proxy.url(), AGENT) as wallet, self.assertRaises(Unknown) as caught:
                wallet.pay(self.open, PAYEE, "0.03", ref=ref)
        self.assertEqual(caught.exception.__cause__.code, "halted")
        sent = self.wallet.send(caught.exception.signed)
        self.assertEqual([payment.id for payment in self.payments(ref=ref)], [sent.id])

    def test_answers_that_no_relayer_gives_leave_the_outcome_unknown(self):
        elsewhere = self.enterContext(Between(self.relayer, lost))
        spoils = {
            **SPOILS,
            "redirect": lambda handler, _: handler.answer(307, b"", location=f"{elsewhere.url()}/v1/payments"),
        }

        def spoil(handler, content):
            spoils[handler.body["metadata"]["spoil"]](handler, content)

        def outcome(wallet, name):
            ref = "0x" + keccak(text=name).hex()
            try:
                return ref, wallet.pay(self.open, PAYEE, "0.05", ref=ref, metadata={"spoil": name})
            except Exception as error:
                return ref, error

        with Between(self.relayer, spoil) as proxy, Stipend(proxy.url(), AGENT) as wallet:
            with concurrent.futures.ThreadPoolExecutor(len(spoils)) as pool:
                outcomes = dict(zip(spoils, pool.map(lambda name: outcome(wallet, name), spoils)))
        for name, (ref, error) in outcomes.items():
            with self.subTest(name):
                self.assertIsInstance(error, Unknown)
                sent = self.wallet.send(json.loads(json.dumps(error.signed)))
                self.assertEqual([payment.id for payment in self.payments(ref=ref)], [sent.id])
        self.assertEqual(elsewhere.payments, [])

    def test_what_is_sent_again_keeps_its_key(self):
        with Between(self.relayer, lost, passes_on=False) as proxy, Stipend(proxy.url(), AGENT) as wallet:
            with self.assertRaises(Unknown) as caught:
                wallet.pay(self.open, PAYEE, "0.04", idempotency_key="invoice 4")
        # It never arrived; now it does, and its key with it.
        sent = self.wallet.send(caught.exception.signed)
        again = self.wallet.pay(self.open, PAYEE, "0.04", idempotency_key="invoice 4", wait=None)
        self.assertEqual(again.id, sent.id)

    def test_what_answers_but_is_no_relayer_is_unreachable(self):
        def ask(answer):
            with Captive(lambda handler, _: handler.answer(*answer)) as captive:
                try:
                    return Stipend(captive.url(), AGENT).explain(self.open, "1")
                except StipendError as error:
                    return error

        answers = [(200, b"<html>"), (200, b"{}"), (200, b"[]"), (302, b""), (404, b"{}"), (500, b"")]
        with concurrent.futures.ThreadPoolExecutor(len(answers)) as pool:
            for answer, outcome in zip(answers, pool.map(ask, answers)):
                self.assertIsInstance(outcome, Unreachable, answer)

    def test_the_relayer_takes_what_passes_here_and_nothing_else(self):
        account = Account.from_key(AGENT)
        texts = st.text("0123456789.eE+-_ ٣", min_size=1, max_size=24)
        texts |= st.from_regex(inputs.DECIMAL_STRING, fullmatch=True)
        digits = st.text("0123456789abcdefABCDEF", min_size=39, max_size=41)
        addresses = digits.map(lambda text: f"0x{text}") | digits.map(lambda text: f"0x{text.lower()}") | st.just(PAYEE)

        def passes(check, name, value):
            try:
                return bool(check(name, value))
            except InvalidInput:
                return False

        @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
        @given(texts, addresses)
        def agree(amount, payee):
            body = json.dumps({"mandate": MANDATE, "amount": amount, "payee": payee}).encode()
            url = f"{self.relayer}/v1/explain"
            headers = request_headers(account, 31337, "POST", url, body) | {"content-type": "application/json"}
            code = httpx.post(url, headers=headers, content=body).json()["code"]
            is_right = passes(inputs.amount, "amount", amount) and passes(inputs.address, "payee", payee)
            self.assertEqual(code, "not_found" if is_right else "invalid_request", (amount, payee))

        agree()

    def test_neither_key_nor_card_number_is_shown_or_logged(self):
        log = io.StringIO()
        handler = logging.StreamHandler(log)
        root = logging.getLogger()
        level = root.level
        root.addHandler(handler)
        root.setLevel(logging.DEBUG)
        try:
            card = self.wallet.wait_for_card(self.wallet.create_card(self.open, "1.00"))
            secrets = self.wallet.card_secrets(card)
            with self.assertRaises(Refused) as caught:
                self.wallet.pay(self.open, PAYEE, "5000")
        finally:
            root.removeHandler(handler)
            root.setLevel(level)
        error = caught.exception
        said = [log.getvalue(), repr(self.wallet), str(vars(self.wallet)), repr(secrets), repr(error), str(vars(error))]
        self.assertIn("/v1/cards", said[0])
        for text in said:
            self.assertNotIn(AGENT[2:], text.lower())
            self.assertNotIn(secrets.number, text)

    def test_texts_of_others_do_not_break_the_stream(self):
        intent = "a\u2028b\u2029c\x85d\ne"
        after = self.wallet.audit()[-1].seq
        while page := self.wallet.audit(after=after):
            after = page[-1].seq
        asked = self.wallet.request_mandate("1.00", intent, "1d")
        entry = next(self.wallet.events(after=after))
        self.assertEqual((entry.kind, entry.data["purpose"]), ("mandate.requested", intent))
        self.assertEqual(entry.raw["request"], asked.id)


# Runs the node, and stops it when told. It keeps the chain only if it may end in order, and this says when it has.
NODE = """#!/bin/sh
trap 'kill -TERM $node' TERM
"{anvil}" "$@" &
node=$!
while kill -0 $node 2> /dev/null; do wait $node; done
touch "{directory}/ended"
"""


class Restarts(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        node = self.directory / "anvil"
        node.write_text(NODE.format(anvil=os.environ["ANVIL"], directory=self.directory))
        node.chmod(0o755)
        self.stack = self.enterContext(Stack("--data", str(self.directory / "data"), "--anvil", str(node)))
        self.wallet = self.enterContext(Stipend(self.stack.ready["relayer"], AGENT))
        self.give_up = time.monotonic() + 180

    def kill(self):
        """The relayer gets no chance to end in order; its node, which its watchdog stops, does."""
        self.stack.process.kill()
        while not (self.directory / "ended").exists():
            self.assertLess(time.monotonic(), self.give_up)
            time.sleep(0.05)

    def pay(self, mandate, number):
        """As a careful caller does: what nobody received is signed anew, what is unknown is sent as it is."""
        signed = None
        while True:
            try:
                if signed is not None:
                    return self.wallet.send(signed)
                return self.wallet.pay(mandate, PAYEE, "0.01", ref=f"0x{number:064x}", wait=None)
            except Unreachable:
                self.assertLess(time.monotonic(), self.give_up)
            except Unknown as unknown:
                signed = unknown.signed

    def test_events_go_on_where_they_were_and_payments_are_made_once(self):
        asked = self.wallet.request_mandate("10.00", "Restarts", "30d")
        self.stack.stipend("mandate", "approve", asked.id, "--yes")
        mandate = self.wallet.wait_for_mandate(asked)
        seen, awaited = [], []

        def follow():
            with Stipend(self.stack.ready["relayer"], AGENT) as wallet:
                for entry in wallet.events(after=0):
                    seen.append(entry)
                    if entry.kind == "mandate.requested" and entry.data["purpose"] == "The end":
                        return

        async def follow_awaited():
            async with AsyncStipend(self.stack.ready["relayer"], AGENT) as wallet:
                async for entry in wallet.events(after=0):
                    awaited.append(entry)
                    if entry.kind == "mandate.requested" and entry.data["purpose"] == "The end":
                        return

        # Daemons: they would follow a relayer that is gone for ever.
        followers = [threading.Thread(target=follow, daemon=True)]
        followers.append(threading.Thread(target=lambda: asyncio.run(follow_awaited()), daemon=True))
        for follower in followers:
            follower.start()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            paid = [self.pay(mandate, number) for number in range(5)]
            for numbers, stop in ((range(5, 20), self.kill), (range(20, 35), lambda: self.stack.process.terminate())):
                paying = pool.submit(lambda numbers=numbers: [self.pay(mandate, number) for number in numbers])
                self.stack.restart(stop)
                paid += paying.result()
        for payment in paid:
            self.assertEqual(self.wallet.wait_for(payment, "settled").state, "settled")
        self.wallet.request_mandate("1.00", "The end", "1d")
        trail = []
        while page := self.wallet.audit(after=trail[-1].seq if trail else 0):
            trail += page
        for follower in followers:
            follower.join(timeout=60)
        for entries in (seen, awaited):
            self.assertEqual([entry.raw for entry in entries], [entry.raw for entry in trail])
        self.assertEqual(len({payment.id for payment in paid}), 35)
        self.assertEqual(self.wallet.mandate(mandate).paid, Decimal("0.35"))
