"""An AutoGen agent that pays within a mandate, with the tools of `stipend mcp`.

pip install autogen-agentchat "autogen-ext[mcp,openai]" "mcp<2"
"""

import asyncio
import os
import sys

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.ui import Console
from autogen_ext.models.openai import OpenAIChatCompletionClient
from autogen_ext.tools.mcp import McpWorkbench, StdioServerParams

MODEL = os.environ.get("MODEL", "gpt-5-mini")
TASK = "Pay 4.20 USDC to 0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc for invoice 17."
RULES = "Pay only within your budget. If a payment is refused, report the code; never work around it."
WALLET = StdioServerParams(
    command="stipend",
    args=["mcp", "--reveal-to", "none"],
    # MCP clients pass on little of the environment: here where the relayer is, and the agent's key.
    env={name: value for name, value in os.environ.items() if name.startswith("STIPEND_")},
    # A payment waits for its block, for up to a minute.
    read_timeout_seconds=90,
)


async def main(task: str) -> None:
    client = OpenAIChatCompletionClient(model=MODEL)
    async with McpWorkbench(WALLET) as wallet:
        agent = AssistantAgent("payer", client, workbench=wallet, system_message=RULES, max_tool_iterations=10)
        await Console(agent.run_stream(task=task))
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or TASK))
