"""The Model Context Protocol's own Python client, unmodified, uses the relayer's /mcp: what is the caller's own with
requests that are signed by ERC-8128, and to pay with the agent's EIP-712 signature alone.
"""

import contextlib
import json
import time
import unittest

import httpx2
from eth_account import Account
from eth_utils import keccak
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from stack import PAYEE, Stack, main
from stipend import Stipend
from stipend.signing import request_headers, sign_typed, typed_data
from test_mcp_client import READ_ONLY, TOOLS

# Anvil's account 2, the dev agent, and account 3: everybody knows them.
AGENT = Account.from_key("0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a")
STRANGER = Account.from_key("0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6")


class Remote:
    """A session with /mcp, whose requests `account` signs; or nobody."""

    def __init__(self, stack, account=None):
        self.stack, self.account, self.heard = stack, account, []

    def sign(self, request):
        body = request.content or None
        chain_id = self.stack.ready["chain_id"]
        request.headers.update(request_headers(self.account, chain_id, request.method, str(request.url), body))
        return request

    async def __aenter__(self):
        async with contextlib.AsyncExitStack() as opened:
            auth = self.sign if self.account else None
            client = await opened.enter_async_context(httpx2.AsyncClient(auth=auth, timeout=60))
            url = self.stack.ready["relayer"] + "/mcp"
            read, write, *_ = await opened.enter_async_context(streamable_http_client(url, http_client=client))
            self.session = await opened.enter_async_context(ClientSession(read, write))
            self.info = await self.session.initialize()
            self.opened = opened.pop_all()
        return self

    async def __aexit__(self, *_):
        await self.opened.aclose()

    async def call(self, tool, **arguments):
        async def hear(_progress, _total, message):
            self.heard.append(message)

        result = await self.session.call_tool(tool, arguments, progress_callback=hear)
        text = json.loads(result.content[0].text)
        assert result.structured_content == (None if result.is_error else text), result
        return text, bool(result.is_error)

    async def done(self, tool, **arguments):
        answer, failed = await self.call(tool, **arguments)
        assert not failed, answer
        return answer

    async def refused(self, tool, **arguments):
        answer, failed = await self.call(tool, **arguments)
        assert failed, answer
        return answer


class Http(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        self.stack = self.enterContext(Stack("--mandate", "100.00"))
        (self.mandate,) = self.stack.ready["mandates"]
        self.wallet = self.enterContext(Stipend(self.stack.ready["relayer"], AGENT))
        self.info = self.wallet.info()

    def payment(self, amount, reference, nonce, account=AGENT):
        """What a wallet signs, as the tool takes it."""
        deadline = int(time.time()) + 600
        ref = keccak(text=reference)
        units = int(float(amount) * 1_000_000)
        of = {"mandate": bytes.fromhex(self.mandate[5:]), "payee": PAYEE, "amount": units, "nonce": nonce}
        message = {**of, "deadline": deadline, "ref": ref}
        signature = sign_typed(account, typed_data("Spend", self.info["chain_id"], self.info["escrow"], message))
        of = {"mandate": self.mandate, "payee": PAYEE, "amount": amount, "nonce": nonce, "deadline": deadline}
        return {**of, "reference": reference, "signature": signature}

    def card(self, amount, reference, nonce):
        now = int(time.time())
        capture_by = now + 300 + self.info["cards"]["ttl"] + self.info["cards"]["clearing_reserve"]
        message = {"mandate": bytes.fromhex(self.mandate[5:]), "payee": self.info["cards"]["treasury"], "nonce": nonce}
        message |= {"amount": int(amount) * 1_000_000, "deadline": now + 600, "captureBy": capture_by}
        message["ref"] = keccak(text=reference)
        signature = sign_typed(AGENT, typed_data("Hold", self.info["chain_id"], self.info["escrow"], message))
        of = {"mandate": self.mandate, "amount": amount, "nonce": nonce, "deadline": now + 600}
        return {**of, "capture_by": capture_by, "reference": reference, "signature": signature}

    async def test_every_tool_is_listed_and_called(self):
        async with Remote(self.stack, AGENT) as remote:
            tools = {tool.name: tool for tool in (await remote.session.list_tools()).tools}
            self.assertEqual(set(tools), TOOLS)
            for name, tool in tools.items():
                reads = name in READ_ONLY | {"card_reveal"}
                self.assertEqual((tool.annotations.read_only_hint, bool(tool.output_schema)), (reads, True), name)
                self.assertNotIn("$ref", json.dumps([tool.input_schema, tool.output_schema]), name)

            balance = (await remote.done("wallet_balance"))["answer"]
            self.assertEqual(balance["relayer"]["escrow"], self.info["escrow"])
            (known,) = balance["mandates"]
            self.assertEqual((known["id"], known["available"]), (self.mandate, "100.00"))

            asked = await remote.done("payment_request", amount=50.00, intent="More ops", duration="7d")
            again = await remote.done("payment_request", amount="50.00", intent="More ops", duration="7d")
            self.assertEqual((again["answer"]["id"], again["repeated"]), (asked["answer"]["id"], True))

            explained = (await remote.done("payment_explain", mandate=self.mandate, payee=PAYEE, amount="1000"))["answer"]
            self.assertEqual((explained["decision"]["allow"], explained["headroom"]), (False, "100.00"))
            # A signature that the agent made is all it takes; its digits are those that were written.
            paid = await remote.done("payment_execute", **{**self.payment("4.20", "invoice 17", 0), "amount": 4.20})
            self.assertEqual((paid["answer"]["state"], paid["answer"]["amount"]), ("mined", "4.20"))
            self.assertTrue(any("reserved" in word or "submitted" in word for word in remote.heard), remote.heard)
            status = (await remote.done("payment_status", payment=paid["answer"]["id"]))["answer"]
            self.assertEqual(status["ref"], "0x" + keccak(text="invoice 17").hex())

            card = (await remote.done("card_create", **self.card("20", "licenses", 1)))["answer"]
            while (seen := (await remote.done("card_status", card=card["id"]))["answer"])["state"] != "active":
                self.assertIn(seen["state"], ("requested", "held"))
            revealed = await remote.done("card_reveal", card=card["id"])
            self.assertEqual(revealed["answer"], {"fetch": f"GET /v1/cards/{card['id']}/secrets"})
            closed = (await remote.done("card_close", card=card["id"]))["answer"]
            self.assertIn(closed["state"], ("closing", "closed"))

            (mandate, *_) = (await remote.done("mandate_list"))["answer"]["mandates"]
            shown = await remote.done("mandate_show", mandate=mandate["id"])
            self.assertEqual(shown["untrusted"], ["/intent/purpose"])
            resources = {str(resource.uri) for resource in (await remote.session.list_resources()).resources}
            self.assertEqual(resources, {f"stipend://mandates/{self.mandate}" + end for end in ("", "/audit")})
            for uri in resources:
                (content,) = (await remote.session.read_resource(uri)).contents
                self.assertIn(self.mandate, content.text)
            prompt = await remote.session.get_prompt("ask_for_a_budget", {"task": "T17", "amount": "5"})
            self.assertIn("T17", prompt.messages[0].content.text)
            trail = await remote.done("audit_recent", limit=100)
            kinds = [entry["type"] for entry in trail["answer"]["entries"]]
            self.assertIn("payment.mined", kinds)
            self.assertTrue(trail["untrusted"])
            for pointer in trail["untrusted"]:
                _, entries, index, data, name = pointer.split("/")
                self.assertIsInstance(trail["answer"][entries][int(index)][data][name], str)

    async def test_a_repeat_pays_once_and_another_reference_again(self):
        async with Remote(self.stack) as remote:
            first = await remote.done("payment_execute", **self.payment("1.00", "step 1", 0))
            same = await remote.done("payment_execute", **self.payment("1.00", "step 1", 0))
            # Signed anew, with another nonce: the reference is what counts.
            anew = await remote.done("payment_execute", **self.payment("1.00", "step 1", 1))
            for repeat in (same, anew):
                self.assertEqual((repeat["answer"]["id"], repeat["repeated"]), (first["answer"]["id"], True))
            other = await remote.done("payment_execute", **self.payment("1.00", "step 2", 1))
            self.assertEqual((other["repeated"], other["answer"]["id"] != first["answer"]["id"]), (False, True))
        self.assertEqual(len(self.wallet.payments(mandate=self.mandate)), 2)

    async def test_nothing_goes_without_its_signature(self):
        async with Remote(self.stack) as remote:
            self.assertEqual({tool.name for tool in (await remote.session.list_tools()).tools}, TOOLS)
            arguments = {
                "payment_status": {"payment": "pay_" + "0" * 32},
                "payment_explain": {"mandate": self.mandate, "amount": "1"},
                "mandate_show": {"mandate": self.mandate},
                "payment_request": {"amount": "1", "intent": "x", "duration": "1d"},
                **{name: {"card": "card_" + "0" * 32} for name in ("card_status", "card_reveal", "card_close")},
            }
            for tool in TOOLS - {"payment_execute", "card_create"}:
                refusal = await remote.refused(tool, **arguments.get(tool, {}))
                self.assertEqual(refusal["code"], "unauthenticated", tool)
            self.assertEqual((await remote.session.list_resources()).resources, [])
            with self.assertRaises(MCPError):
                await remote.session.read_resource(f"stipend://mandates/{self.mandate}")
            strange = await remote.refused("payment_execute", **self.payment("1.00", "x", 0, STRANGER))
            self.assertEqual(strange["code"], "not_found")
            # What was signed is what is done: not another reference, amount or payee.
            signed = self.payment("1.00", "x", 0)
            for altered in ({"reference": "y"}, {"amount": "1.01"}, {"payee": STRANGER.address}, {"nonce": 1}):
                refusal = await remote.refused("payment_execute", **{**signed, **altered})
                self.assertEqual(refusal["code"], "not_found", altered)
            for wrong in ({"amount": "1e2"}, {"amount": "0.0000001"}, {"reference": " "}, {"wait": "x"}, {"more": 1}):
                refusal = await remote.refused("payment_execute", **{**signed, **wrong})
                self.assertEqual((refusal["code"], refusal["may_have_happened"]), ("invalid_request", False), wrong)
        async with Remote(self.stack, STRANGER) as remote:
            self.assertEqual((await remote.done("wallet_balance"))["answer"]["mandates"], [])
            self.assertEqual((await remote.refused("mandate_show", mandate=self.mandate))["code"], "not_found")

    async def test_a_page_of_another_site_gets_nothing(self):
        ask = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        accept = {"accept": "application/json, text/event-stream"}
        async with httpx2.AsyncClient() as client:
            for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
                answer = await client.post(self.stack.ready["relayer"] + "/mcp", json=ask, headers={**accept, **headers})
                self.assertEqual(answer.status_code, 403, headers)
            # There is no stream and no session to end.
            for method in ("GET", "DELETE"):
                answer = await client.request(method, self.stack.ready["relayer"] + "/mcp", headers=accept)
                self.assertEqual(answer.status_code, 405, method)


if __name__ == "__main__":
    main()
