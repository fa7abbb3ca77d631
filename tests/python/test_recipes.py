"""Each recipe of examples/ as its reader runs it, with a scripted model behind its framework's own model client."""

import os
import pathlib
import subprocess
import tempfile
import unittest

from scripted_model import ScriptedModel
from stack import BINARY, PAYEE, Stack, main

HERE = pathlib.Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
# Anvil's well-known account 2.
AGENT = "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"
LINES_MAX = 40
# Of the environment that has the frameworks.
PYTHON = os.environ["RECIPES_PYTHON"]
TELEMETRY_OFF = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "LANGSMITH_TRACING": "false",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "OTEL_SDK_DISABLED": "true",
}


class Recipes(unittest.TestCase):
    def setUp(self):
        self.stack = self.enterContext(Stack("--mandate", "100.00"))
        self.model = self.enterContext(ScriptedModel())
        self.home = self.enterContext(tempfile.TemporaryDirectory())

    def told(self, file, task):
        """What the recipe prints, having reached nothing but this machine."""
        # Nothing of the caller's environment, such as the key of a real model.
        environment = {
            "PATH": os.pathsep.join([os.path.dirname(os.path.abspath(BINARY)), os.environ["PATH"]]),
            "HOME": self.home,
            "OPENAI_API_KEY": self.model.key,
            "OPENAI_BASE_URL": self.model.url,
            "STIPEND_RELAYER_URL": self.stack.ready["relayer"],
            "STIPEND_RPC_URL": self.stack.ready["rpc_url"],
            "STIPEND_PRIVATE_KEY": AGENT,
            **TELEMETRY_OFF,
        }
        reached = pathlib.Path(self.home, "reached")
        command = [PYTHON, HERE / "on_loopback.py", reached, EXAMPLES / file, task]
        ran = subprocess.run(command, env=environment, cwd=self.home, capture_output=True, text=True, timeout=300)
        self.assertEqual(self.model.refused, [], ran.stderr)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        self.assertEqual(reached.read_text(encoding="utf-8") if reached.exists() else "", "")
        return ran.stdout

    def check(self, file):
        """The recipe is short, pays once, and reads a refusal."""
        self.assertLessEqual(len((EXAMPLES / file).read_text(encoding="utf-8").splitlines()), LINES_MAX)

        paid = self.told(file, f"Pay 4.20 USDC to {PAYEE} for invoice 17.")
        (payment,) = self.stack.stipend("payment", "list")["data"]
        self.assertEqual((payment["payee"], payment["amount"]), (PAYEE, "4.20"))
        self.assertIn(payment["state"], ("mined", "settled"))
        self.assertIn(f"Paid: {payment['id']}.", paid)

        # Told again, the model remembers nothing, but the wallet does.
        self.assertIn(f"Paid: {payment['id']}.", self.told(file, f"Pay 4.20 USDC to {PAYEE} for invoice 17."))

        refused = self.told(file, f"Pay 200.00 USDC to {PAYEE} for invoice 18.")
        self.assertIn("Refused: insufficient_budget.", refused)
        trail = self.stack.stipend("audit")["data"]
        denied = [entry["data"] for entry in trail if entry["type"] == "payment.denied"]
        self.assertEqual(
            [(data["payee"], data["amount"], data["code"]) for data in denied],
            [(PAYEE, "200.00", "insufficient_budget")],
        )
        (balance,) = self.stack.stipend("balance")
        self.assertEqual((balance["available"], balance["chain"]["remaining"]), ("95.80", "95.80"))


class Agents(Recipes):
    def test_langchain_over_mcp(self):
        self.check("langchain_mcp.py")

    def test_langchain_with_plain_tools(self):
        self.check("langchain_tools.py")

    def test_openai_agents_sdk(self):
        self.check("openai_agents.py")

    def test_autogen(self):
        self.check("autogen_agent.py")


class CrewAi(Recipes):
    def test_crewai(self):
        self.check("crewai_agent.py")


if __name__ == "__main__":
    main()
