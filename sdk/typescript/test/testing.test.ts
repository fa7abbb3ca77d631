import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createConnection } from "node:net";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Refused, Stipend, Unreachable } from "stipend";
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

test("payments to the test payees end as documented", async () => {
  await using stack = await startStack({ mandates: ["10.00"] });
  const [mandate = ""] = stack.mandates;
  const agent = new Stipend(stack.relayer, privateKeyToAccount(stack.agentKey));
  assert.deepEqual(stack.testPayees, {
    denied: "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512",
    skip: "0xeFfEC70000000000000000000000000000000001",
    stall: "0xEffec70000000000000000000000000000000002",
    reorg: "0xeFfEc70000000000000000000000000000000003",
  });
  await assert.rejects(agent.pay(mandate, stack.testPayees.denied, "1.00"), { code: "bad_payee" });
  const skipped = await agent.pay(mandate, stack.testPayees.skip, "1.00", { wait: "settled" });
  assert.deepEqual([skipped.state, skipped.reason], ["failed", "transfer_failed"]);
});

test("advance moves the chain's time, and says so if it can't", async () => {
  await using stack = await startStack({ mandates: ["10.00"] });
  const [mandate = ""] = stack.mandates;
  const agent = new Stipend(stack.relayer, privateKeyToAccount(stack.agentKey));
  const { terms } = await agent.mandate(mandate);
  await assert.rejects(stack.advance("a day"), /a day/);
  const before = (await agent.info()).head.time;
  await stack.advance(`${terms.expiry - before}s`);
  assert.ok((await agent.info()).head.time >= terms.expiry);
  await assert.rejects(agent.pay(mandate, stack.payee, "1.00"), Refused);
});

test("a stack ends with the process that started it, also when that is killed", { timeout: 60_000 }, async () => {
  const runner = spawn(process.execPath, [fileURLToPath(new URL("runner.js", import.meta.url))], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [line] = await once(createInterface(runner.stdout), "line");
  const urls: string[] = JSON.parse(line);
  assert.equal(urls.length, 2);
  for (const url of urls) assert.ok(await isOpen(url), url);
  runner.kill("SIGKILL");
  await once(runner, "exit");
  for (const url of urls) while (await isOpen(url)) await setTimeout(50);
});

/** Whether somebody listens there. */
function isOpen(url: string): Promise<boolean> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve) => {
    const socket = createConnection(Number(port), hostname);
    socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
    socket.once("connect", () => socket.destroy());
  });
}
