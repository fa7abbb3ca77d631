"""What the tests of the Python SDK share: a real relayer, and a wallet that uses it."""

import pathlib
import unittest

from stack import Stack
from stipend import Stipend

# Anvil's well-known account 2.
AGENT = "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"
ROOT = pathlib.Path(__file__).parents[2]


class RelayerCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.stack = cls.enterClassContext(Stack())
        cls.relayer = cls.stack.ready["relayer"]
        cls.wallet = cls.enterClassContext(Stipend(cls.relayer, AGENT))

    @classmethod
    def mandate(cls, amount="100.00", **more):
        """Asked for by the agent, approved by the operator."""
        asked = cls.wallet.request_mandate(amount, "Marketing ops", "30d", **more)
        cls.stack.stipend("mandate", "approve", asked.id, "--yes")
        return cls.wallet.wait_for_mandate(asked)
