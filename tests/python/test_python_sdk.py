"""The Python SDK against the real relayer."""

import asyncio
import base64
import json
import subprocess
import sys
import threading
from decimal import Decimal

import httpx
from eth_account import Account

from relayer_case import AGENT, RelayerCase
from stack import PAYEE, main
from stipend import AsyncStipend, Refused, Stipend
from stipend.signing import request_headers
from test_python_sdk_edges import Faults, Forms, Restarts  # noqa: F401 (they run with these)

PAY_MANY = """
import concurrent.futures, sys
from stipend import Stipend
relayer, key, mandate, payee = sys.argv[1:]
wallet = Stipend(relayer, key)
with concurrent.futures.ThreadPoolExecutor(10) as pool:
    payments = pool.map(lambda _: wallet.pay(mandate, payee, "1.00", wait=None), range(20))
    print("\\n".join(payment.id for payment in payments))
"""


class Sdk(RelayerCase):
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
            async with AsyncStipend(self.relayer, AGENT) as wallet:
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

    def test_two_processes_with_one_key_pay_once_each(self):
        mandate = self.mandate()
        run = [sys.executable, "-c", PAY_MANY, self.relayer, AGENT, mandate.id, PAYEE]
        processes = [subprocess.Popen(run, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        said = [process.communicate(timeout=120)[0] for process in processes]
        self.assertEqual([process.returncode for process in processes], [0, 0])
        ids = "".join(said).split()
        self.assertEqual((len(ids), len(set(ids))), (40, 40))
        for payment in ids:
            self.assertEqual(self.wallet.wait_for(payment, "settled").state, "settled")
        self.assertEqual(self.wallet.mandate(mandate).paid, Decimal(40))

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

    def test_requests_that_were_tampered_with_are_refused(self):
        relayer, account = self.relayer, Account.from_key(AGENT)
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
