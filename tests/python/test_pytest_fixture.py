"""The fixture for pytest, as somebody has it who installed the package: found by its entry point, in a run of its own."""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import unittest

from stack import main

ROOT = pathlib.Path(__file__).parents[2]

TESTS = """
import decimal
import pytest
from stipend import Refused

def test_a_payment_settles(stipend_stack):
    mandate, payee = stipend_stack.mandates[0], stipend_stack.payee
    paid = stipend_stack.agent.pay(mandate, payee, "4.20", wait="settled")
    assert paid.state == "settled"
    assert stipend_stack.agent.mandate(mandate).available == decimal.Decimal("95.80")

def test_another_one_uses_the_same_stack(stipend_stack):
    with pytest.raises(Refused) as caught:
        stipend_stack.agent.pay(stipend_stack.mandates[0], stipend_stack.test_payees["denied"], "1.00")
    assert caught.value.code == "bad_payee"
    with pytest.raises(RuntimeError, match="not_found"):
        stipend_stack.stipend("payment", "show", "pay_" + "0" * 32)
    # The chain's time is a month ahead of the agent's clock from here on.
    stipend_stack.advance("29d")
    paid = stipend_stack.agent.pay(stipend_stack.mandates[0], stipend_stack.payee, "1.00")
    assert paid.state in ("mined", "settled")
    stipend_stack.advance("2d")
    with pytest.raises(Refused) as caught:
        stipend_stack.agent.pay(stipend_stack.mandates[0], stipend_stack.payee, "1.00")
    assert caught.value.code in ("mandate_expired", "mandate_ended")
    print("relayer:", stipend_stack.relayer)
"""


class Fixture(unittest.TestCase):
    def test_pytest_finds_it_and_it_stops(self):
        directory = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        # Building leaves files beside the sources.
        source = shutil.copytree(ROOT / "sdk/python", directory / "source")
        install = ["pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
        packages = directory / "packages"
        subprocess.run([sys.executable, "-m", *install, "--target", str(packages), str(source)], check=True)
        tests = directory / "tests" / "test_agent.py"
        tests.parent.mkdir()
        tests.write_text(TESTS, encoding="utf-8")
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rP", str(tests)],
            env={**os.environ, "PYTHONPATH": str(packages)},
            cwd=tests.parent,
            capture_output=True,
            text=True,
        )
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        self.assertIn("2 passed", ran.stdout)
        relayer = next(line for line in ran.stdout.splitlines() if line.startswith("relayer: ")).split("//")[1]
        host, _, port = relayer.partition(":")
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection((host, int(port)))


if __name__ == "__main__":
    main()
