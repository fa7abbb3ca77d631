"""The Model Context Protocol's conformance suite, against the relayer's /mcp: all of it, but for the checks that
tests/mcp/expected-failures.yml names with the reason. A check of that list that passes is an error, too.
"""

import os
import pathlib
import subprocess
import unittest

from stack import Stack, main

NODE = os.environ["MCP_NODE"]
SUITE = os.environ["MCP_CONFORMANCE"]
EXPECTED = pathlib.Path(__file__).parents[1] / "mcp" / "expected-failures.yml"


class Conformance(unittest.TestCase):
    def test_both_revisions(self):
        stack = self.enterContext(Stack())
        server = ["server", "--url", stack.ready["relayer"] + "/mcp", "--suite", "all"]
        # The last revision with sessions, and the one without.
        for revision in ("2025-11-25", "2026-07-28"):
            with self.subTest(revision=revision):
                command = [NODE, SUITE, *server, "--spec-version", revision, "--expected-failures", EXPECTED]
                ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
                self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
                self.assertRegex(ran.stdout, r"Total: [1-9]\d+ passed")


if __name__ == "__main__":
    main()
