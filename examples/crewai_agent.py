"""A CrewAI agent that pays within a mandate, with the tools of `stipend mcp`.

pip install crewai
"""

import os
import sys

from crewai import Agent, Crew, Task
from crewai.mcp import MCPServerStdio

MODEL = os.environ.get("MODEL", "openai/gpt-5-mini")
TASK = "Pay 4.20 USDC to 0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc for invoice 17."
RULES = "Pay only within your budget. If a payment is refused, report the code; never work around it."
WALLET = MCPServerStdio(
    command="stipend",
    args=["mcp", "--reveal-to", "none"],
    # MCP clients pass on little of the environment: here where the relayer is, and the agent's key.
    env={name: value for name, value in os.environ.items() if name.startswith("STIPEND_")},
)


def main(task: str) -> None:
    payer = Agent(role="Payer", goal="Pay what is asked for, once", backstory=RULES, llm=MODEL, mcps=[WALLET])
    payment = Task(description=task, expected_output="what was paid, or the code of the refusal", agent=payer)
    print(Crew(agents=[payer], tasks=[payment]).kickoff())


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or TASK)
