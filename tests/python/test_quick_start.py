"""The quick start of docs/guides/mcp.md, typed as it stands there, from the clone to a refused and a paid call.

The host is played by the Model Context Protocol's own client, and its model by the script below.
"""

import json
import os
import pathlib
import pty
import re
import shlex
import subprocess
import unittest

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

from scripted_model import TASK
from stack import BINARY, Stack, main

ROOT = pathlib.Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "mcp.md"
LINES_MAX = 10


def typed_lines():
    """What its reader types into shells (`$ `), to the model (`> `) and as answers, without comments."""
    section = GUIDE.read_text(encoding="utf-8").split("## Five minutes, from a clone\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    lines = [re.sub(r"\s+# .*", "", line) for block in blocks for line in block.splitlines()]
    return lines, section


def on_a_terminal(command, answer, environment):
    """The exit code of a command that asks, and is answered, on a terminal; and what it says."""
    controller, terminal = pty.openpty()
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, stdin=terminal, env=environment, **output)
    os.close(terminal)
    os.write(controller, f"{answer}\n".encode())
    said, _ = process.communicate(timeout=120)
    os.close(controller)
    return process.returncode, said


class QuickStart(unittest.IsolatedAsyncioTestCase):
    async def test_as_typed(self):
        lines, section = typed_lines()
        self.assertLessEqual(len(lines), LINES_MAX)
        clone, setup, dev, add, ask, second_terminal, approve, answer, go_on = lines

        # Who runs this has cloned and set up; BINARY is what that built.
        self.assertRegex(clone, r"^\$ git clone \S.* stipend && cd stipend$")
        export = 'export PATH="$PWD/target/debug:$PATH"'
        self.assertEqual(setup, f"$ ./scripts/setup && {export}")
        self.assertTrue(os.access(ROOT / "scripts" / "setup", os.X_OK))
        self.assertEqual(second_terminal, f"$ cd stipend && {export}")
        self.assertEqual(dev, "$ stipend dev &> /dev/null &")
        # On free ports instead of its usual ones.
        stack = self.enterContext(Stack())
        environment = {
            **os.environ,
            "PATH": os.pathsep.join([os.path.dirname(os.path.abspath(BINARY)), os.environ["PATH"]]),
            "STIPEND_RELAYER_URL": stack.ready["relayer"],
            "STIPEND_RPC_URL": stack.ready["rpc_url"],
        }

        host, server = add.removeprefix("$ ").split(" -- ")
        self.assertEqual(host, "claude mcp add stipend")
        command, *arguments = shlex.split(server)
        parameters = StdioServerParameters(command=command, args=arguments, env=environment)
        async with stdio_client(parameters) as (read, write), ClientSession(read, write) as session:
            await session.initialize()

            async def call(tool, **arguments):
                result = await session.call_tool(tool, arguments)
                return bool(result.is_error), json.loads(result.content[0].text)

            program, prompt = shlex.split(ask.removeprefix("$ "))
            self.assertEqual(program, "claude")
            payment = TASK.search(prompt).groupdict()
            failed, refusal = await call("payment_execute", **payment)
            self.assertEqual((failed, refusal["code"]), (True, "no_mandate"))
            self.assertIn(f"`{refusal['code']}`", section)
            self.assertIn("payment_request", refusal["next"])
            _, request = await call("payment_request", amount=payment["amount"], intent=prompt, duration="1d")

            command = approve.removeprefix("$ ").replace("req_…", request["request"])
            self.assertIn(f"`{command}`", request["next"])
            code, said = on_a_terminal(shlex.split(command), answer, environment)
            self.assertEqual(code, 0, said)

            self.assertTrue(go_on.startswith("> "))
            failed, paid = await call("payment_execute", **payment)
            self.assertEqual((failed, paid["state"], paid["amount"]), (False, "mined", "4.20"))
        (kept,) = stack.stipend("payment", "list")["data"]
        self.assertEqual((kept["id"], kept["payee"]), (paid["payment"], payment["payee"]))
        print(f"{len(lines)} lines typed, from the clone to the first paid call")


if __name__ == "__main__":
    main()
