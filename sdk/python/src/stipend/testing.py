"""A whole Stipend for your tests: a chain, the contracts, a relayer, a card issuer and funded keys.

    with Stack(mandates=["100.00"]) as stack:
        stack.agent.pay(stack.mandates[0], stack.payee, "4.20")

It needs the `stipend` command: the one in STIPEND_BIN, or on PATH. It stops with the `with`, and when the process that
started it dies. For pytest there is the fixture `stipend_stack`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from decimal import Decimal
from typing import IO, Any, cast

from .client import Stipend

# Of the dev agent, which everybody knows: account 2 of anvil.
AGENT_KEY = "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"
# Longer than the program gives its parts to stop.
STOPS_WITHIN = 40


class Stack:
    """A running `stipend dev`. `mandates` are opened for the dev agent; blocks come every `block_time` seconds.

    `ready` has all that it printed; `relayer`, `rpc_url`, `payee`, `test_payees` and `mandates` are the most useful of it.
    `agent` is the relayer as the dev agent sees it.
    """

    def __init__(self, *arguments: str, mandates: Iterable[str | Decimal] = (), block_time: int = 1):
        binary = os.environ.get("STIPEND_BIN") or shutil.which("stipend")
        if binary is None:
            raise FileNotFoundError("no stipend found: put it on PATH, or name it in STIPEND_BIN")
        self.binary = binary
        self.arguments = ["--block-time", str(block_time), *arguments]
        for amount in mandates:
            self.arguments += ["--mandate", str(amount)]

    def __enter__(self) -> Stack:
        self._start(0, 0, 0)
        self.agent = Stipend(self.relayer, AGENT_KEY)
        return self

    def _start(self, port: int, anvil_port: int, issuer_port: int) -> None:
        ports = ["--port", str(port), "--anvil-port", str(anvil_port), "--issuer-port", str(issuer_port)]
        with tempfile.TemporaryFile("w+") as log:
            self.process = subprocess.Popen(
                [self.binary, "--json", "dev", *ports, "--until-eof", *self.arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            self._stdin, self._stdout = cast(IO[str], self.process.stdin), cast(IO[str], self.process.stdout)
            try:
                line = self._stdout.readline()
            except BaseException:
                self.__exit__()
                raise
            if not line:
                self.__exit__()
                log.seek(0)
                raise RuntimeError(f"stipend dev does not start: {log.read().strip()}")
        self.ready: dict[str, Any] = json.loads(line)
        self.relayer: str = self.ready["relayer"]
        self.rpc_url: str = self.ready["rpc_url"]
        self.payee: str = self.ready["payee"]
        self.test_payees: dict[str, str] = self.ready["test_payees"]
        self.mandates: list[str] = self.ready.get("mandates", [])

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "agent"):
            self.agent.close()
        # It stops when its input ends.
        self._stdin.close()
        try:
            self.process.wait(timeout=STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self._stdout.close()

    def stipend(self, *arguments: str) -> Any:
        """Runs `stipend` and returns the last line that it prints, which is JSON; the dev account that fits signs."""
        where = ["--relayer", self.relayer, "--rpc-url", self.rpc_url]
        issuer = {"STIPEND_ISSUER_URL": self.ready["issuer"], "STIPEND_ISSUER_API_KEY": self.ready["issuer_key"]}
        environment = {name: value for name, value in os.environ.items() if name != "STIPEND_PRIVATE_KEY"}
        done = subprocess.run(
            [self.binary, "--json", *where, *arguments],
            env={**environment, **issuer},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode:
            raise RuntimeError(f"stipend {' '.join(arguments)} failed: {done.stderr.strip()}")
        return json.loads(done.stdout.splitlines()[-1])

    def advance(self, by: str) -> None:
        """Moves the chain's time forward, such as by "31d" or "90s", and returns when the relayer judges by it."""
        self.stipend("dev", "clock", f"+{by}")
