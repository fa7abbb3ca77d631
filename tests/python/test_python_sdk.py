"""The Python SDK against the real relayer."""

import asyncio
import base64
import http.client
import http.server
import json
import pathlib
import subprocess
import sys
import threading
import unittest
import urllib.parse
from decimal import Decimal

import httpx
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils import keccak

from stack import PAYEE, Stack, main
from stipend import AsyncStipend, Refused, Stipend, Unknown, Unreachable
from stipend.signing import request_headers, sign_typed, typed_data

# Anvil's well-known account 2.
AGENT = "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"
ROOT = pathlib.Path(__file__).parents[2]

PAY_MANY = """
import concurrent.futures, sys
from stipend import Stipend
relayer, key, mandate, payee = sys.argv[1:]
wallet = Stipend(relayer, key)
with concurrent.futures.ThreadPoolExecutor(12) as pool:
    payments = pool.map(lambda _: wallet.pay(mandate, payee, "1.00", wait=None), range(12))
    print("\\n".join(payment.id for payment in payments))
"""


class LosesAnswers(http.server.ThreadingHTTPServer):
    """Before the relayer: it passes calls on, and loses the answers to so many payments. The next ones it refuses by
    this code, if there is one.
    """

    daemon_threads = True

    def __init__(self, relayer, losses, then=None):
        super().__init__(("127.0.0.1", 0), Forwarder)
        self.relayer = urllib.parse.urlsplit(relayer)
        self.losses = losses
        self.then = then
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Forwarder(http.server.BaseHTTPRequestHandler):
    def forward(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.command == "POST" and self.path == "/v1/payments" and self.server.losses <= 0 and self.server.then:
            self.answer(503, [], json.dumps({"code": self.server.then, "detail": "without an effect"}).encode())
            return
        relayer = http.client.HTTPConnection(self.server.relayer.hostname, self.server.relayer.port)
        # The caller signed for this address.
        relayer.request(self.command, self.path, body, dict(self.headers.items()))
        answer = relayer.getresponse()
        content = answer.read()
        relayer.close()
        if self.command == "POST" and self.path == "/v1/payments" and self.server.losses > 0:
            self.server.losses -= 1
            self.close_connection = True
            return
        self.answer(answer.status, answer.getheaders(), content)

    def answer(self, status, headers, content):
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = forward

    def log_message(self, *_):
        pass


class Sdk(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.stack = cls.enterClassContext(Stack())
        cls.wallet = cls.enterClassContext(Stipend(cls.stack.ready["relayer"], AGENT))

    def mandate(self, amount="100.00", **more):
        """Asked for by the agent, approved by the operator."""
        asked = self.wallet.request_mandate(amount, "Marketing ops", "30d", **more)
        self.stack.stipend("mandate", "approve", asked.id, "--yes")
        return self.wallet.wait_for_mandate(asked)

    def test_the_story(self):
        mandate = self.mandate(per_payment=Decimal("25"))
        self.assertEqual((mandate.state, mandate.available), ("open", Decimal(100)))
        paid = self.wallet.pay(mandate, PAYEE, "4.20", wait="settled")
        self.assertEqual((paid.state, paid.amount), ("settled", Decimal("4.20")))
        with self.assertRaises(Refused) as caught:
            self.wallet.pay(mandate, PAYEE, "30")
        refusal = caught.exception
        self.assertEqual((refusal.code, refusal.money_may_have_moved), ("above_per_payment", False))
        self.assertTrue(refusal.hint and not refusal.decision["allow"])
        explained = self.wallet.explain(mandate, "30", payee=PAYEE)
        self.assertEqual((explained.allowed, explained.headroom), (False, Decimal(25)))
        self.assertEqual(self.wallet.pay(mandate, PAYEE, explained.headroom).amount, Decimal(25))
        self.assertEqual(self.wallet.mandate(mandate).available, Decimal("70.80"))
        for wrong in (4.2, True, None):
            with self.assertRaises(TypeError):
                self.wallet.pay(mandate, PAYEE, wrong)
        # With a key, the same call is the same payment.
        first, again = (self.wallet.pay(mandate, PAYEE, "1.00", idempotency_key="invoice 17") for _ in range(2))
        self.assertEqual(first.id, again.id)
        self.assertEqual(len(self.wallet.payments(mandate=mandate.id)), 3)
        kinds = [entry.kind for entry in self.wallet.audit(mandate)]
        self.assertIn("payment.denied", kinds)

    def test_the_same_awaited(self):
        mandate = self.mandate("10.00")

        async def story():
            async with AsyncStipend(self.stack.ready["relayer"], AGENT) as wallet:
                pays = [wallet.pay(mandate, PAYEE, "1.00", wait=None) for _ in range(5)]
                payments = await asyncio.gather(*pays)
                self.assertEqual(len({payment.id for payment in payments}), 5)
                last = await wallet.wait_for(payments[-1], "mined")
                self.assertIn(last.state, ("mined", "settled"))
                seen = []
                async for entry in wallet.events(mandate, after=0):
                    seen.append(entry.kind)
                    if seen.count("payment.reserved") == 5:
                        return seen

        self.assertIn("mandate.opened", asyncio.run(asyncio.wait_for(story(), 60)))

    def test_events_from_now_on_begin_at_the_end_of_the_trail(self):
        mandate = self.mandate("10.00")
        events = self.wallet.events(mandate)
        known = self.wallet.audit(mandate)[-1].seq
        threading.Timer(1, lambda: self.wallet.pay(mandate, PAYEE, "1.00", wait=None)).start()
        entry = next(events)
        self.assertGreater(entry.seq, known)
        self.assertEqual(entry.kind, "payment.reserved")
        events.close()
        with self.assertRaises(Refused):
            next(self.wallet.events("mand_x", after=0))

    def test_two_processes_with_one_key_pay_once_each(self):
        mandate = self.mandate()
        run = [sys.executable, "-c", PAY_MANY, self.stack.ready["relayer"], AGENT, mandate.id, PAYEE]
        processes = [subprocess.Popen(run, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        said = [process.communicate(timeout=120)[0] for process in processes]
        self.assertEqual([process.returncode for process in processes], [0, 0])
        ids = "".join(said).split()
        self.assertEqual((len(ids), len(set(ids))), (24, 24))
        for payment in ids:
            self.assertEqual(self.wallet.wait_for(payment, "settled").state, "settled")
        self.assertEqual(self.wallet.mandate(mandate).paid, Decimal(24))

    def test_lost_answers_are_asked_for_again_and_paid_once(self):
        mandate = self.mandate("10.00")
        relayer = self.stack.ready["relayer"]
        with LosesAnswers(relayer, 2) as proxy, Stipend(proxy.url(), AGENT) as wallet:
            paid = wallet.pay(mandate, PAYEE, "1.00", wait=None)
        self.assertEqual([payment.id for payment in self.wallet.payments(mandate=mandate.id)], [paid.id])
        # All lost: what was signed comes with the error, and is paid once.
        with LosesAnswers(relayer, 1_000) as proxy, Stipend(proxy.url(), AGENT) as wallet:
            with self.assertRaises(Unknown) as caught:
                wallet.pay(mandate, PAYEE, "2.00", wait=None)
        self.assertTrue(caught.exception.money_may_have_moved)
        sent = self.wallet.send(caught.exception.signed)
        self.assertEqual(sent.amount, Decimal(2))
        self.assertEqual(len(self.wallet.payments(mandate=mandate.id)), 2)
        with Stipend("http://127.0.0.1:9", AGENT) as wallet, self.assertRaises(Unreachable):
            wallet.info()

    def test_a_refusal_after_a_lost_answer_counts_only_if_the_relayer_has_looked(self):
        mandate = self.mandate("10.00")
        for code, error in (("halted", Unknown), ("not_found", Unknown), ("idempotency_key_reused", Refused)):
            with LosesAnswers(self.stack.ready["relayer"], 1, code) as proxy, Stipend(proxy.url(), AGENT) as wallet:
                with self.assertRaises(error, msg=code):
                    wallet.pay(mandate, PAYEE, "1.00")

    def test_a_card_is_bought_and_charged(self):
        mandate = self.mandate("50.00")
        card = self.wallet.wait_for_card(self.wallet.create_card(mandate, "20.00", idempotency_key="licenses"))
        self.assertEqual(card.state, "active")
        secrets = self.wallet.card_secrets(card)
        self.assertTrue(secrets.number.endswith(card.last_four) and secrets.number not in repr(secrets))
        self.assertEqual(self.wallet.create_card(mandate, "20.00", idempotency_key="licenses").id, card.id)
        self.stack.charge(card.id, "18.40")
        closed = self.wallet.wait_for_card(card, "closed")
        self.assertEqual((closed.captured, closed.released), (Decimal("18.40"), Decimal("1.60")))
        spare = self.wallet.wait_for_card(self.wallet.create_card(mandate, "1.00"))
        self.assertIn(self.wallet.close_card(spare).state, ("closing", "closed"))

    def test_digests_are_those_of_the_contract(self):
        vectors = json.loads((ROOT / "bindings/vectors/eip712.json").read_text(encoding="utf-8"))
        found = 0
        for name, vector in vectors["types"].items():
            if name in ("Spend", "Hold"):
                fields = typed_data(name, 1, "0x" + "00" * 20, {})["types"][name]
                listed = ",".join(f"{field['type']} {field['name']}" for field in fields)
                signature = f"{name}({listed})"
                self.assertEqual(signature, vector["type"])
                self.assertEqual("0x" + keccak(text=signature).hex(), vector["typeHash"])
                found += 1
        self.assertEqual(found, 2)
        escrow = vectors["domains"][0]["domain"]["verifyingContract"]
        agent = Account.from_key(vectors["agent"]["key"])
        for kind, name in (("Spend", "spend"), ("Hold", "hold")):
            for vector in vectors[f"{name}s"]:
                texts = vector[name]
                message = {key: text if text.startswith("0x") else int(text) for key, text in texts.items()}
                data = typed_data(kind, int(vector["chainId"]), escrow, message)
                signable = encode_typed_data(full_message=data)
                digest = keccak(b"\x19" + signable.version + signable.header + signable.body)
                self.assertEqual("0x" + digest.hex(), vector["digest"], vector["name"])
                # The contract takes r and vs (EIP-2098), the SDK signs r, s and v.
                vs = int(vector["vs"], 16)
                signature = vector["r"] + f"{vs % 2**255:064x}{27 + (vs >> 255):x}"
                self.assertEqual(sign_typed(agent, data), signature, vector["name"])

    def test_requests_that_were_tampered_with_are_refused(self):
        relayer, account = self.stack.ready["relayer"], Account.from_key(AGENT)
        body = json.dumps({"amount": "1", "intent": "x", "duration": "1d"}).encode()
        url = f"{relayer}/v1/mandate-requests"

        def status(change=None, url=url, sent=body):
            headers = request_headers(account, 31337, "POST", f"{relayer}/v1/mandate-requests", body)
            headers["content-type"] = "application/json"
            if change:
                change(headers)
            return httpx.post(url, headers=headers, content=sent).status_code

        self.assertEqual(status(), 201)

        def replaced(name, old, new):
            def change(headers):
                assert old in headers[name], headers
                headers[name] = headers[name].replace(old, new, 1)

            return change

        def flipped(index):
            def change(headers):
                raw = bytearray(base64.b64decode(headers["signature"][5:-1]))
                raw[index] ^= 1
                headers["signature"] = f"eth=:{base64.b64encode(bytes(raw)).decode()}:"

            return change

        # A changed body, target or method; each part of the signature; each parameter; what is covered.
        self.assertEqual(status(sent=body.replace(b"1", b"2", 1)), 401)
        self.assertEqual(status(url=f"{url}?limit=1"), 401)
        self.assertEqual(status(url=f"{relayer}/v1/mandates"), 401)
        changes = [flipped(index) for index in (0, 7, 15, 23, 31, 32, 40, 48, 56, 63, 64)]
        changes += [lambda headers, name=name: headers.pop(name) for name in ("signature", "signature-input", "content-digest")]
        for old, new in [
            (";created=", ";created=1"),
            (";expires=", ";expires=1"),
            (';nonce="', ';nonce="x'),
            ("erc8128:31337", "erc8128:1"),
            ("erc8128:31337", "erc8128:031337"),
            (account.address.lower(), PAYEE.lower()),
            (' "content-digest"', ""),
            ('"@authority" ', ""),
            ('"@method" ', ""),
            ('"@path" ', ""),
            ('"@path"', '"@path" "@query"'),
            ("eth=(", "sig=("),
        ]:
            changes.append(replaced("signature-input", old, new))
        changes.append(replaced("content-digest", "sha-256=:", "sha-256=:A"))
        changes.append(replaced("signature", "eth=:", "other=:"))
        for number, change in enumerate(changes):
            self.assertEqual(status(change), 401, number)
        self.assertGreaterEqual(len(changes) + 3, 30)


if __name__ == "__main__":
    main()
