"""An agent hands a signed payment to a payee, who sends it and serves on the relayer's receipt: three processes, of which
two are the examples as they stand.
"""

import json
import os
import pathlib
import subprocess
import sys
import unittest

import httpx

from stack import PAYEE, Stack, main
from stipend import InvalidInput, Payee, Refused, Stipend, Unknown, Unreachable, hand_over

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
# Anvil's account 2, the dev agent: everybody knows it.
AGENT = "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"
REF = "0x" + "17" * 32
LINES_MAX = 40


class Receipts(unittest.TestCase):
    def setUp(self):
        self.stack = self.enterContext(Stack("--mandate", "100.00"))
        (self.mandate,) = self.stack.ready["mandates"]
        self.relayer = self.stack.ready["relayer"]
        self.wallet = self.enterContext(Stipend(self.relayer, AGENT))

    def run_example(self, name, *arguments, **environment):
        file = EXAMPLES / name
        self.assertLessEqual(len(file.read_text(encoding="utf-8").splitlines()), LINES_MAX)
        command = [sys.executable, file, *arguments]
        told = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        return subprocess.Popen(command, env={**os.environ, **environment}, **told)

    def seller(self):
        process = self.run_example("seller.py", "0", PAYEE, STIPEND_RELAYER_URL=self.relayer)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait, 30)
        self.addCleanup(process.terminate)
        return process.stdout.readline().strip()

    def buy(self, url):
        buyer = self.run_example("buyer.py", url, self.mandate, STIPEND_PRIVATE_KEY=AGENT)
        answer, _ = buyer.communicate(timeout=120)
        self.assertEqual(buyer.returncode, 0)
        return json.loads(answer)

    def test_agent_payee_and_relayer(self):
        shop = self.seller()
        bought = [self.buy(shop) for _ in range(2)]
        for page in bought:
            self.assertEqual((page["report"], page["state"]), ("All is well.", "reserved"))
        paid = self.wallet.payments(mandate=self.mandate)
        self.assertEqual({payment.raw["digest"] for payment in paid}, {page["payment"] for page in bought})
        for payment in paid:
            self.assertEqual((payment.payee, str(payment.amount)), (PAYEE, "0.10"))
            self.assertEqual(self.wallet.wait_for(payment, "settled").state, "settled")
        # Nothing for nothing: no payment, one for less, one to another, one that was used, one for another offer.
        offer = httpx.get(shop).json()
        good = self.wallet.sign_payment(self.mandate, PAYEE, "0.10", ref=offer["ref"])
        stranger = "0x976EA74026E726554dB657fA54763abd0C3a0aa9"
        for wrong in (
            {},
            self.wallet.sign_payment(self.mandate, PAYEE, "0.09", ref=offer["ref"]),
            self.wallet.sign_payment(self.mandate, stranger, "0.10", ref=offer["ref"]),
            self.wallet.sign_payment(self.mandate, PAYEE, "0.10", ref=REF),
            {**good, "amount": "0.11"},
            {**good, "signature": "0x" + "11" * 65},
        ):
            headers = {"stipend-ref": offer["ref"], "stipend-payment": hand_over(wrong)}
            self.assertEqual(httpx.get(shop, headers=headers).status_code, 402, wrong)
        headers = {"stipend-ref": offer["ref"], "stipend-payment": hand_over(good)}
        self.assertEqual(httpx.get(shop, headers=headers).status_code, 200)
        self.assertEqual(httpx.get(shop, headers=headers).status_code, 402)
        self.assertEqual(len(self.wallet.payments(mandate=self.mandate)), 3)

    def test_a_refusal_is_told_and_nothing_else_passes_for_a_receipt(self):
        payee = Payee(self.relayer, PAYEE)
        signed = self.wallet.sign_payment(self.mandate, PAYEE, "4.20", ref=REF)
        with self.assertRaises(InvalidInput):
            payee.collect(hand_over(signed), "4.19", REF)
        too_much = self.wallet.sign_payment(self.mandate, PAYEE, "1000", ref=REF)
        with self.assertRaises(Refused) as refused:
            payee.collect(hand_over(too_much), "1000", REF)
        self.assertEqual(refused.exception.code, "insufficient_budget")

        answers = []

        class Liar(httpx.BaseTransport):
            def handle_request(self, request):
                return answers.pop(0)(request)

        honest = payee.collect(hand_over(signed), "4.20", REF)
        self.assertIn(honest.state, ("reserved", "submitted", "mined"))
        receipt = honest.__dict__

        def lost(request):
            raise httpx.ReadTimeout("lost", request=request)

        def away(request):
            raise httpx.ConnectError("away", request=request)

        def says(status, body):
            return lambda request: httpx.Response(status, json=body)

        payee._http = httpx.Client(base_url=self.relayer, transport=Liar())
        for answer, error in (
            (lost, Unknown),
            (away, Unreachable),
            (says(503, {"type": "urn:stipend:problem:unavailable", "code": "unavailable"}), Unknown),
            (says(429, {"type": "urn:stipend:problem:rate_limited", "code": "rate_limited"}), Unknown),
            (says(503, {"type": "urn:stipend:problem:halted", "code": "halted"}), Unknown),
            (says(404, {"code": "not_found", "detail": "another server's"}), Unknown),
            (says(404, {"type": "urn:stipend:problem:not_found", "code": "not_found"}), Refused),
            (says(502, {"error": "bad gateway"}), Unknown),
            (says(202, {"state": "reserved"}), Unknown),
            (says(202, {"receipt": {**receipt, "state": "settled"}}), Unknown),
            (says(202, {"receipt": {**receipt, "payment": "0x" + "00" * 32}}), Unknown),
            (says(202, {"receipt": {**receipt, "signature": signed["signature"]}}), Unknown),
            (says(202, {"receipt": {**receipt, "signature": "0x"}}), Unknown),
            (says(202, {"receipt": []}), Unknown),
        ):
            answers.append(answer)
            with self.assertRaises(error):
                payee.collect(hand_over(signed), "4.20", REF)
        self.assertEqual(len(self.wallet.payments(mandate=self.mandate)), 1)


if __name__ == "__main__":
    main()
