"""An agent of the OpenAI Agents SDK that pays within a mandate, with the tools of `stipend mcp`.

pip install openai-agents
"""

import asyncio
import os
import sys

from agents import Agent, Runner
from agents.mcp import MCPServerStdio

MODEL = os.environ.get("MODEL", "gpt-5-mini")
TASK = "Pay 4.20 USDC to 0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc for invoice 17."
RULES = "Pay only within your budget. If a payment is refused, report the code; never work around it."
WALLET = {
    "command": "stipend",
    "args": ["mcp", "--reveal-to", "none"],
    # MCP clients pass on little of the environment: here where the relayer is, and the agent's key.
    "env": {name: value for name, value in os.environ.items() if name.startswith("STIPEND_")},
}


async def main(task: str) -> None:
    # A payment waits for its block, for up to a minute.
    async with MCPServerStdio(WALLET, client_session_timeout_seconds=90) as wallet:
        agent = Agent(name="Payer", instructions=RULES, model=MODEL, mcp_servers=[wallet])
        result = await Runner.run(agent, task)
    print(result.final_output)


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or TASK))
