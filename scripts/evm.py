"""What scripts/gas.py needs of a chain: an anvil, the contract ABI, and contracts from their artifacts."""

import http.client
import json
import os
import re
import subprocess
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
GAS_LIMIT = 16_000_000


class Unexpected(Exception):
    """Something did not do what it was to do."""


class Chain:
    """An anvil of our own, whose time moves one second per block."""

    def __init__(self, chain_id, timestamp):
        command = [os.environ["ANVIL"], "--port", "0", "--hardfork", "osaka"]
        command += ["--chain-id", str(chain_id), "--timestamp", str(timestamp)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if listening := re.search(r"Listening on (\S+):(\d+)", line):
                break
        else:
            raise Unexpected(f"anvil ended with {self.process.wait()} before it listened")
        # It logs every request, and would wait for a reader once the pipe is full.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        self.connection = http.client.HTTPConnection(listening[1], int(listening[2]), timeout=60)
        self.rpc("anvil_setBlockTimestampInterval", 1)
        self.accounts = self.rpc("eth_accounts")

    def close(self):
        self.process.terminate()
        self.process.wait()

    def rpc(self, method, *params):
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        self.connection.request("POST", "/", json.dumps(request), {"Content-Type": "application/json"})
        answer = json.loads(self.connection.getresponse().read())
        if "error" in answer:
            raise Unexpected(f"{method}: {answer['error']}")
        return answer["result"]

    def send(self, sender, to, data):
        """The receipt of a transaction that succeeded."""
        transaction = {"from": sender, "data": "0x" + data.hex(), "gas": hex(GAS_LIMIT)}
        if to:
            transaction["to"] = to
        sent = self.rpc("eth_sendTransaction", transaction)
        while (receipt := self.rpc("eth_getTransactionReceipt", sent)) is None:
            time.sleep(0.001)
        if receipt["status"] != "0x1":
            raise Unexpected(f"a transaction from {sender} to {to} reverted: {data[:4].hex()}")
        return receipt

    def keccak(self, data):
        return bytes.fromhex(self.rpc("web3_sha3", "0x" + data.hex())[2:])


# ---------------------------------------------------------------- encoding

def word(value):
    """Of a number, 32 bytes, or an address as text."""
    if isinstance(value, str):
        value = int(value, 16)
    return value if isinstance(value, bytes) else int(value).to_bytes(32)


def is_dynamic(value):
    return isinstance(value, (list, bytearray)) or isinstance(value, tuple) and any(map(is_dynamic, value))


def encode(value):
    """By the contract ABI: a tuple is a struct, a list a dynamic array, a bytearray `bytes`, anything else a word."""
    if isinstance(value, bytearray):
        return word(len(value)) + bytes(value) + bytes(-len(value) % 32)
    if isinstance(value, list):
        return word(len(value)) + encode(tuple(value))
    if not isinstance(value, tuple):
        return word(value)
    parts = [encode(member) for member in value]
    size = sum(32 if is_dynamic(member) else len(part) for member, part in zip(value, parts))
    head, tail = b"", b""
    for member, part in zip(value, parts):
        if is_dynamic(member):
            head += word(size + len(tail))
            tail += part
        else:
            head += part
    return head + tail


class Contract:
    def __init__(self, chain, name, *arguments):
        with open(os.path.join(ROOT, "out", f"{name}.sol", f"{name}.json")) as file:
            artifact = json.load(file)
        self.chain, self.selectors = chain, artifact["methodIdentifiers"]
        creation = bytes.fromhex(artifact["bytecode"]["object"][2:]) + encode(arguments)
        self.address = chain.send(chain.accounts[0], None, creation)["contractAddress"]

    def call(self, sender, signature, *arguments, to=None):
        data = bytes.fromhex(self.selectors[signature]) + encode(arguments)
        return self.chain.send(sender, to or self.address, data)
