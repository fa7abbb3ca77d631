import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Refused, Stipend } from "stipend";
import { type Stack, startStack } from "stipend/testing";
import { privateKeyToAccount } from "viem/accounts";
import { FaultProxy } from "./proxy.js";

let stack: Stack;
let stipend: Stipend;

before(async () => {
  stack = await startStack({ mandates: ["100.00", "100.00"] });
  stipend = wallet(stack.relayer);
});
after(() => stack.stop());

const wallet = (relayer: string) => new Stipend(relayer, privateKeyToAccount(stack.agentKey));

/** The codes of what was denied of a mandate, oldest first. */
async function denials(mandate: string): Promise<unknown[]> {
  const { data } = await stipend.audit({ mandate });
  return data.filter(({ type }) => type.endsWith(".denied")).map((entry) => (entry.data as { code?: string }).code);
}

test("after the chain's time has moved, payments and cards are signed once more, by the later time", async () => {
  const [mandate = ""] = stack.mandates;
  const [shy, careless] = [wallet(stack.relayer), wallet(stack.relayer)];
  assert.equal((await shy.pay(mandate, stack.payee, "1.00")).nonce, 0);
  await careless.waitForCard(await careless.createCard(mandate, "1.00"));
  await stack.advance("1d");
  const { head } = await stipend.info();
  assert.ok(head.time > Date.now() / 1_000 + 86_000);

  const paid = await shy.pay(mandate, stack.payee, "2.00", { wait: "settled" });
  // What was refused has not used its nonce.
  assert.deepEqual([paid.state, paid.nonce, paid.deadline > head.time], ["settled", 2, true]);
  assert.deepEqual(await denials(mandate), ["deadline_passed"]);
  // It knows the time now.
  assert.equal((await shy.pay(mandate, stack.payee, "1.00", { wait: false })).nonce, 3);
  assert.equal((await denials(mandate)).length, 1);

  const card = await careless.createCard(mandate, "1.00");
  assert.equal((await careless.waitForCard(card)).state, "active");
  assert.deepEqual(await denials(mandate), ["deadline_passed", "deadline_passed"]);
  // Its deadline is still ahead, and its capture end is too soon.
  await stack.advance("400s");
  await careless.createCard(mandate, "1.00");
  assert.deepEqual((await denials(mandate)).at(-1), "capture_by_too_soon");
});

test("payments that are late at once are all made, each nonce once", async () => {
  const [, mandate = ""] = stack.mandates;
  await stipend.pay(mandate, stack.payee, "1.00", { wait: "settled" });
  await stack.advance("1d");
  const pays = Array.from({ length: 8 }, () => stipend.pay(mandate, stack.payee, "1.00", { wait: "settled" }));
  const made = await Promise.all(pays);
  assert.deepEqual(made.map(({ nonce }) => nonce).sort(), [1, 2, 3, 4, 5, 6, 7, 8]);
  assert.ok(made.every(({ state }) => state === "settled"));
  assert.equal((await stipend.mandate(mandate)).paid, "9.00");
});

test("what is late again is refused", async () => {
  const [mandate = ""] = stack.mandates;
  const problem = { code: "deadline_too_soon", status: 403, detail: "without an effect", hint: "" };
  await using proxy = await FaultProxy.before(stack.relayer, (call) =>
    call === "POST /v1/payments" ? { status: 403, problem } : "pass",
  );
  await assert.rejects(wallet(proxy.url).pay(mandate, stack.payee, "1.00"), (error) => {
    return error instanceof Refused && error.code === "deadline_too_soon";
  });
  assert.equal(proxy.calls.filter((call) => call === "POST /v1/payments").length, 2);
});
