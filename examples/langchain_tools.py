"""A LangChain agent that pays within a mandate, with plain tools over the Python SDK: no MCP server.

pip install langchain langchain-openai ./sdk/python
"""

import hashlib
import os
import sys
from typing import Annotated

from langchain.agents import create_agent
from pydantic import Field
from stipend import Stipend, StipendError

TASK = "Pay 4.20 USDC to 0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc for invoice 17."
RULES = "Pay only within your budget. If a payment is refused, report the code; never work around it."
Address = Annotated[str, Field(pattern="^0x[0-9a-fA-F]{40}$")]
Usdc = Annotated[str, Field(pattern=r"^\d{1,9}(\.\d{1,6})?$")]
wallet = Stipend(os.environ.get("STIPEND_RELAYER_URL", "http://127.0.0.1:8420"), os.environ["STIPEND_PRIVATE_KEY"])


def budget() -> list[str]:
    """The open mandates, each with what is left of it in USDC."""
    return [f"{mandate.id}: {mandate.available} USDC" for mandate in wallet.mandates() if mandate.state == "open"]


def pay(mandate: str, payee: Address, amount: Usdc, reference: str) -> str:
    """Pays USDC from a mandate. `reference` says what for, such as an invoice; each reference is paid once."""
    ref = "0x" + hashlib.sha256(reference.encode()).hexdigest()
    try:
        payment = wallet.pay(mandate, payee, amount, ref=ref, idempotency_key=ref)
    except StipendError as error:
        return f"{error}. " + ("Unknown outcome: repeat it exactly." if error.money_may_have_moved else "Not paid.")
    return f"{payment.id} is {payment.state}: {payment.amount} USDC to {payment.payee}, {payment.tx_hash}"


agent = create_agent(os.environ.get("MODEL", "openai:gpt-5-mini"), [budget, pay], system_prompt=RULES)
for message in agent.invoke({"messages": [("user", " ".join(sys.argv[1:]) or TASK)]})["messages"]:
    message.pretty_print()
