import assert from "node:assert/strict";
import { test } from "node:test";
import { Stipend, Unreachable } from "stipend";
import { startStack } from "stipend/testing";
import { privateKeyToAccount } from "viem/accounts";

test("a stack is there in one line, and gone with its block", async () => {
  const account = (key: `0x${string}`) => privateKeyToAccount(key);
  let agent: Stipend;
  {
    await using stack = await startStack({ mandates: ["100.00"] });
    agent = new Stipend(stack.relayer, account(stack.agentKey));
    assert.equal(agent.address, stack.agent);
    const { chain_id, escrow, token } = await agent.info();
    assert.deepEqual([chain_id, escrow, token], [stack.chainId, stack.escrow, stack.token]);
    const [mandate] = (await agent.mandates()).data;
    assert.deepEqual([mandate?.id, mandate?.state, mandate?.available], [stack.mandates[0], "open", "100.00"]);
    assert.equal(mandate?.terms.operator, stack.operator);
    const head = await fetch(stack.rpcUrl, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "eth_chainId", params: [] }),
    });
    assert.equal(Number((await head.json()).result), stack.chainId);
    // Twice is once.
    await stack.stop();
  }
  await assert.rejects(agent.info(), Unreachable);
});

test("a stack that can't start says why", async () => {
  await assert.rejects(
    startStack({ binary: "/nowhere/stipend" }),
    /can't start \/nowhere\/stipend: name it by STIPEND_BIN/,
  );
  await using stack = await startStack();
  const port = Number(new URL(stack.relayer).port);
  await assert.rejects(startStack({ port }), /choose another --port/);
});
