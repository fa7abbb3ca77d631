"""Signatures: of requests (ERC-8128, RFC 9421 and 9530), and of payments and holds (EIP-712)."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from typing import Any
from urllib.parse import urlsplit

from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

# How long a request's signature is valid, in seconds.
VALIDITY = 60
# Of USDC.
DECIMALS = 6

SPEND = [
    {"name": "mandate", "type": "bytes32"},
    {"name": "payee", "type": "address"},
    {"name": "amount", "type": "uint64"},
    {"name": "nonce", "type": "uint32"},
    {"name": "deadline", "type": "uint40"},
]
REF = {"name": "ref", "type": "bytes32"}
TYPES = {
    "Spend": [*SPEND, REF],
    "Hold": [*SPEND, {"name": "captureBy", "type": "uint40"}, REF],
    "Receipt": [
        {"name": "payment", "type": "bytes32"},
        {"name": "state", "type": "string"},
        {"name": "deadline", "type": "uint40"},
        {"name": "time", "type": "uint40"},
    ],
}


def request_headers(account: LocalAccount, chain_id: int, method: str, url: str, body: bytes | None) -> dict[str, str]:
    """The headers that sign a request, for here and now, once."""
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    host = (parts.hostname or "").lower()
    authority = f"[{host}]" if ":" in host else host
    if parts.port not in (None, default):
        authority += f":{parts.port}"
    lines = [("@authority", authority), ("@method", method), ("@path", parts.path or "/")]
    if parts.query:
        lines.append(("@query", f"?{parts.query}"))
    headers = {}
    if body is not None:
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        headers["content-digest"] = f"sha-256=:{digest}:"
        lines.append(("content-digest", headers["content-digest"]))
    created = int(time.time())
    covered = " ".join(f'"{name}"' for name, _ in lines)
    parameters = (
        f"({covered});created={created};expires={created + VALIDITY};"
        f'nonce="{secrets.token_urlsafe(16)}";keyid="erc8128:{chain_id}:{account.address.lower()}"'
    )
    base = "\n".join([*(f'"{name}": {value}' for name, value in lines), f'"@signature-params": {parameters}'])
    signature = account.sign_message(encode_defunct(text=base)).signature
    headers["signature-input"] = f"eth={parameters}"
    headers["signature"] = f"eth=:{base64.b64encode(signature).decode()}:"
    return headers


def typed_data(
    kind: str, chain_id: int, escrow: str, message: dict[str, Any], domain: str = "MandateEscrow"
) -> dict[str, Any]:
    """A payment (`Spend`), a card's hold (`Hold`) or a `Receipt` as EIP-712 has it."""
    return {
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "version", "type": "string"},
                {"name": "chainId", "type": "uint256"},
                {"name": "verifyingContract", "type": "address"},
            ],
            kind: TYPES[kind],
        },
        "primaryType": kind,
        "domain": {"name": domain, "version": "1", "chainId": chain_id, "verifyingContract": escrow},
        "message": message,
    }


def body_data(kind: str, info: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    """What is signed of the body of a payment or a card, as `/v1/info` says where it is valid."""
    whole, _, fraction = body["amount"].partition(".")
    message = {
        "mandate": bytes.fromhex(body["mandate"].removeprefix("mand_")),
        "payee": body["payee"] if kind == "Spend" else info["cards"]["treasury"],
        "amount": int(whole + fraction.ljust(DECIMALS, "0")),
        "nonce": body["nonce"],
        "deadline": body["deadline"],
        "ref": bytes.fromhex(body["ref"].removeprefix("0x")),
    }
    if kind == "Hold":
        message["captureBy"] = body["capture_by"]
    return typed_data(kind, info["chain_id"], info["escrow"], message)


def sign_body(account: LocalAccount, kind: str, info: dict[str, Any], body: dict[str, Any]) -> str:
    """The signature of the body of a payment or a card."""
    return sign_typed(account, body_data(kind, info, body))


def payment_digest(info: dict[str, Any], body: dict[str, Any]) -> str:
    """The EIP-712 digest of a payment's body, which its agent has signed, as 0x and hex."""
    message = encode_typed_data(full_message=body_data("Spend", info, body))
    return "0x" + keccak(b"\x19" + message.version + message.header + message.body).hex()


def receipt_signer(info: dict[str, Any], receipt: dict[str, Any]) -> str:
    """The address that has signed a receipt, checksummed."""
    message = {
        "payment": bytes.fromhex(receipt["payment"].removeprefix("0x")),
        "state": receipt["state"],
        "deadline": receipt["deadline"],
        "time": receipt["time"],
    }
    data = typed_data("Receipt", info["chain_id"], info["escrow"], message, "StipendRelayer")
    signer: str = Account.recover_message(encode_typed_data(full_message=data), signature=receipt["signature"])
    return signer


def sign_typed(account: LocalAccount, data: dict[str, Any]) -> str:
    """The signature, `r ‖ s ‖ v`, as 0x and hex."""
    return "0x" + bytes(account.sign_message(encode_typed_data(full_message=data)).signature).hex()
