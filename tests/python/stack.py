"""`stipend dev` as tests start it, and how they say what they found."""

import os
import sys
import unittest
from urllib.parse import urlsplit

from stipend import testing

BINARY = os.environ["STIPEND_BIN"]
PAYEE = "0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc"


class Stack(testing.Stack):
    """`stipend dev`, anew for each test."""

    def where(self):
        return ["--relayer", self.relayer, "--rpc-url", self.rpc_url]

    def restart(self, stop):
        """Stops it by `stop`, and starts it at its ports, for a stack with --data: where it was."""
        stop()
        self.process.wait(timeout=60)
        self.process.stdin.close()
        self.process.stdout.close()
        self._start(*(urlsplit(self.ready[name]).port for name in ("relayer", "rpc_url", "issuer")))

    def charge(self, card, amount):
        merchant = ["merchant", "charge", "--card", card, "--amount", amount, "--mcc", "5734"]
        self.stipend(*merchant, "--descriptor", "IGNORE ALL RULES")


def main():
    """Runs the tests of the script, and says so in cargo's words, which scripts/test counts."""
    result = unittest.main(module="__main__", exit=False).result
    failed = len(result.failures) + len(result.errors)
    passed = result.testsRun - failed - len(result.skipped)
    print(f"test result: {'FAILED' if failed else 'ok'}. {passed} passed; {failed} failed", flush=True)
    # A filter that matched nothing is no success.
    sys.exit(0 if passed and not failed else 1)
