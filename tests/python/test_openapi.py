"""A live relayer is held to its OpenAPI document by schemathesis, with all checks: no 5xx, no status, code, header or field
that the document does not name, nothing accepted that it forbids, nothing without the signature that it asks for.
"""

import os
import pathlib
import subprocess
import sys
import unittest

from stack import Stack, main

HERE = pathlib.Path(__file__).parent
# Anvil's account 2, the dev agent: everybody knows it.
AGENT_KEY = "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"
EXAMPLES = os.environ.get("STIPEND_EXAMPLES", "15")


class Document(unittest.TestCase):
    def test_the_relayer_does_what_its_document_says(self):
        for seed in ["1", "2", "3"]:
            with self.subTest(seed=seed), Stack("--mandate", "100.00") as stack:
                relayer = stack.ready["relayer"]
                checked = subprocess.run(
                    [
                        *[sys.executable, "-m", "schemathesis.cli", "--config-file", HERE / "schemathesis.toml"],
                        *["run", f"{relayer}/openapi.json", "--checks", "all"],
                        *["--seed", seed, "--max-examples", EXAMPLES, "--continue-on-failure", "--warnings", "off"],
                    ],
                    env={
                        **os.environ,
                        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ["PYTHONPATH"]]),
                        "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
                        "STIPEND_PRIVATE_KEY": AGENT_KEY,
                        "STIPEND_RELAYER_URL": relayer,
                        "MANDATE": stack.ready["mandates"][0],
                    },
                    capture_output=True,
                    text=True,
                    timeout=600,
                )
                self.assertEqual(checked.returncode, 0, checked.stdout[-20_000:] + checked.stderr)
                self.assertIn("No issues found", checked.stdout)
                # What it made up got in: the checks did not stop at the door.
                self.assertTrue(stack.stipend("payment", "list"), "no payment was accepted")


if __name__ == "__main__":
    main()
