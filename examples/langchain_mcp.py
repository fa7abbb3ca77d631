"""A LangChain agent that pays within a mandate, with the tools of `stipend mcp`.

pip install langchain langchain-openai langchain-mcp-adapters
"""

import asyncio
import os
import sys

from langchain.agents import create_agent
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools

MODEL = os.environ.get("MODEL", "openai:gpt-5-mini")
TASK = "Pay 4.20 USDC to 0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc for invoice 17."
RULES = "Pay only within your budget. If a payment is refused, report the code; never work around it."
WALLET = {
    "transport": "stdio",
    "command": "stipend",
    "args": ["mcp", "--reveal-to", "none"],
    # MCP clients pass on little of the environment: here where the relayer is, and the agent's key.
    "env": {name: value for name, value in os.environ.items() if name.startswith("STIPEND_")},
}


async def main(task: str) -> None:
    async with MultiServerMCPClient({"stipend": WALLET}).session("stipend") as session:
        agent = create_agent(MODEL, await load_mcp_tools(session), system_prompt=RULES)
        result = await agent.ainvoke({"messages": [{"role": "user", "content": task}]})
    for message in result["messages"]:
        message.pretty_print()


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or TASK))
