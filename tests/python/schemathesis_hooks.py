"""What schemathesis needs to know beyond the document: how requests are signed, and what a real mandate is."""

import os
import time

import requests
import schemathesis
from eth_account import Account
from schemathesis.auths import RequestsAuth
from schemathesis.core.parameters import ParameterLocation

from stipend.signing import request_headers, sign_typed, typed_data

ACCOUNT = Account.from_key(os.environ["STIPEND_PRIVATE_KEY"])
RELAYER = os.environ["STIPEND_RELAYER_URL"]
MANDATE = os.environ["MANDATE"]
INFO = requests.get(f"{RELAYER}/v1/info", timeout=30).json()


class Erc8128(requests.auth.AuthBase):
    """Signs each request as it is sent."""

    def __call__(self, request):
        body = request.body.encode() if isinstance(request.body, str) else request.body
        request.headers.update(request_headers(ACCOUNT, INFO["chain_id"], request.method, request.url, body or None))
        return request


@schemathesis.auth(refresh_interval=None)
class Signed:
    """Signs what is not meant to come without a signature."""

    def get(self, case, context):
        return Erc8128()

    def set(self, case, data, context):
        if not (case.meta and case.meta.is_negative_at(ParameterLocation.HEADER)):
            RequestsAuth(data).set(case, data, context)


@schemathesis.hook
def before_call(context, case, kwargs):
    """Every other well-formed payment and card is made one of the real mandate, and signed, so that it gets in."""
    kinds = {"pay": "Spend", "create_card": "Hold"}
    kind = kinds.get(case.operation.definition.raw.get("operationId"))
    is_positive = case.meta is None or not case.meta.is_negative_at(ParameterLocation.BODY)
    if kind is None or not is_positive or not isinstance(case.body, dict) or case.body.get("nonce", 0) % 2:
        return
    now = int(time.time())
    nonce = int(case.body["nonce"]) % 1_000
    body = {**case.body, "mandate": MANDATE, "amount": "0.01", "nonce": nonce, "deadline": now + 600}
    message = {
        "mandate": MANDATE.replace("mand_", "0x"),
        "payee": INFO["cards"]["treasury"] if kind == "Hold" else body["payee"],
        "amount": 10_000,
        "nonce": nonce,
        "deadline": body["deadline"],
        "ref": body.get("ref") or "0x" + "00" * 32,
    }
    if kind == "Hold":
        body["capture_by"] = now + INFO["cards"]["ttl"] + INFO["cards"]["clearing_reserve"] + 600
        message["captureBy"] = body["capture_by"]
    body["signature"] = sign_typed(ACCOUNT, typed_data(kind, INFO["chain_id"], INFO["escrow"], message))
    case.body = body
