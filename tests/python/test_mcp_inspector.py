"""The Model Context Protocol's inspector, unmodified, lists and calls everything that the wallet offers, and /mcp.

Each call is a process of its own, as it is for whoever tries the wallet from a shell.
"""

import json
import os
import subprocess
import unittest

from stack import BINARY, PAYEE, Stack, main

NODE = os.environ["MCP_NODE"]
INSPECTOR = os.environ["MCP_INSPECTOR"]
# The inspector's exit codes.
REFUSED, FAILED = 5, 1


class Session(unittest.TestCase):
    def setUp(self):
        self.stack = self.enterContext(Stack("--mandate", "100"))
        self.mandate = self.stack.ready["mandates"][0]
        self.called = set()

    def transport(self):
        """How the inspector reaches the server."""
        raise NotImplementedError

    def ask(self, method, *arguments, code=0):
        """What the inspector prints."""
        command = [NODE, INSPECTOR, "--cli", "--quiet", "--format", "json", *self.transport(), "--method", method]
        said = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)
        self.assertEqual(said.returncode, code, f"{method} {arguments}: {said.stdout}{said.stderr}")
        return json.loads(said.stdout)["result"] if said.stdout else None

    def call(self, tool, code=0, **arguments):
        self.called.add(tool)
        result = self.ask("tools/call", "--tool-name", tool, "--tool-args-json", json.dumps(arguments), code=code)
        self.assertEqual(bool(result["isError"]), code != 0, result)
        return json.loads(result["content"][0]["text"])


class Wallet(Session):
    def transport(self):
        return [BINARY, *self.stack.where(), "mcp"]

    def test_every_tool_is_listed_and_called(self):
        # With --strict it fails for a schema that hosts may not take.
        listed = {tool["name"] for tool in self.ask("tools/list", "--strict")["tools"]}
        self.assertEqual(self.call("wallet_balance")["available"], "100.00")
        self.assertEqual(self.call("mandate_list")["mandates"][0]["mandate"], self.mandate)
        self.assertEqual(self.call("mandate_show", mandate=self.mandate)["state"], "open")
        asked = self.call("payment_request", amount="5", intent="Flowers", duration="1d")
        self.assertEqual(asked["state"], "pending")
        # As models write it: a number.
        paid = self.call("payment_execute", payee=PAYEE, amount=4.20, reference="invoice 17")
        self.assertEqual((paid["state"], paid["amount"]), ("mined", "4.20"))
        repeat = self.call("payment_execute", payee=PAYEE, amount="4.20", reference="invoice 17")
        self.assertEqual((repeat["payment"], repeat["repeated"]), (paid["payment"], True))
        self.assertEqual(self.call("payment_status", payment=paid["payment"])["payment"], paid["payment"])
        self.assertFalse(self.call("payment_explain", payee=PAYEE, amount="1000")["allowed"])
        refused = self.call("payment_execute", REFUSED, payee=PAYEE, amount="1000", reference="too much")
        self.assertEqual((refused["code"], refused["may_have_happened"]), ("insufficient_budget", False))
        card = self.call("card_create", amount="20", reference="licenses")
        self.assertEqual(self.call("card_status", card=card["card"])["state"], "active")
        self.assertTrue(self.call("card_reveal", card=card["card"])["number"].endswith(card["last_four"]))
        self.assertIn(self.call("card_close", card=card["card"])["state"], ("closing", "closed"))
        self.assertIn("payment.denied", [entry["what"] for entry in self.call("audit_recent")["entries"]])
        self.assertEqual(self.called, listed)
        self.ask("tools/call", "--tool-name", "nothing_of_the_kind", code=REFUSED)

    def test_resources_and_prompts_are_listed_and_read(self):
        self.assertEqual(len(self.ask("resources/templates/list")["resourceTemplates"]), 2)
        resources = self.ask("resources/list")["resources"]
        self.assertEqual(len(resources), 2)
        for resource in resources:
            (content,) = self.ask("resources/read", "--uri", resource["uri"])["contents"]
            self.assertIn(self.mandate, content["text"])
        self.ask("resources/read", "--uri", f"stipend://mandates/mand_{'0' * 64}", code=FAILED)
        for prompt in self.ask("prompts/list")["prompts"]:
            arguments = [f"{argument['name']}=X17" for argument in prompt["arguments"]]
            got = self.ask("prompts/get", "--prompt-name", prompt["name"], "--prompt-args", *arguments)
            self.assertIn("X17", got["messages"][0]["content"]["text"])

    def test_the_stateless_revision_of_the_protocol_is_served(self):
        balance = self.ask("tools/call", "--tool-name", "wallet_balance", "--protocol-era", "modern")
        self.assertEqual(balance["structuredContent"]["available"], "100.00")


class Relayer(Session):
    """Over HTTP. The inspector signs nothing, so it learns what is missing."""

    def transport(self):
        return [self.stack.ready["relayer"] + "/mcp"]

    def test_every_tool_is_listed_and_called(self):
        listed = {tool["name"] for tool in self.ask("tools/list", "--strict")["tools"]}
        own = {
            **dict.fromkeys(("wallet_balance", "mandate_list", "audit_recent"), {}),
            **dict.fromkeys(("card_status", "card_reveal", "card_close"), {"card": f"card_{'0' * 32}"}),
            "payment_request": {"amount": "5", "intent": "Flowers", "duration": "1d"},
            "payment_status": {"payment": f"pay_{'0' * 32}"},
            "payment_explain": {"mandate": self.mandate, "amount": "5"},
            "mandate_show": {"mandate": self.mandate},
        }
        for tool, arguments in own.items():
            self.assertEqual(self.call(tool, REFUSED, **arguments)["code"], "unauthenticated", tool)
        # A signature that no key has made.
        signature = f"0x{'11' * 32}{'22' * 32}1b"
        signed = {"mandate": self.mandate, "nonce": 0, "deadline": 4_000_000_000, "signature": signature}
        payment = {**signed, "payee": PAYEE, "amount": 4.20, "reference": "invoice 17"}
        card = {**signed, "amount": "20", "capture_by": 4_000_000_000, "reference": "licenses"}
        for tool, arguments in {"payment_execute": payment, "card_create": card}.items():
            self.assertEqual(self.call(tool, REFUSED, **arguments)["code"], "bad_signature", tool)
        self.assertEqual(self.called, listed)


# Only what reaches a server is a test.
del Session

if __name__ == "__main__":
    main()
