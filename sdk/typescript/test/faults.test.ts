import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { type AuditEntry, type Payment, Refused, type Signed, Stipend, Unknown } from "stipend";
import { type Stack, startStack } from "stipend/testing";
import { privateKeyToAccount } from "viem/accounts";
import { type Fault, FaultProxy } from "./proxy.js";

let stack: Stack;
let stipend: Stipend;
let unused: string[];

before(async () => {
  stack = await startStack({ mandates: Array.from({ length: 15 }, () => "200.00") });
  stipend = wallet(stack.relayer);
  unused = [...stack.mandates];
});
after(() => stack.stop());

function wallet(relayer: string, timeout?: number): Stipend {
  return new Stipend(relayer, privateKeyToAccount(stack.agentKey), timeout === undefined ? {} : { timeout });
}

/** A mandate that no other test uses. */
const ownMandate = (): string => unused.pop() ?? assert.fail("too few mandates");

const payments = async (mandate: string): Promise<Payment[]> => (await stipend.payments({ mandate, limit: 100 })).data;

async function unknown(call: Promise<unknown>): Promise<Unknown> {
  const error = await call.then(
    () => assert.fail("the outcome was known"),
    (error: unknown) => error,
  );
  assert.ok(error instanceof Unknown, String(error));
  return error;
}

/** As it is after it was stored. */
const reread = (signed: Signed): Signed => JSON.parse(JSON.stringify(signed));

const isPayment = (call: string): boolean => call === "POST /v1/payments";

test("lost answers are asked for again, and paid once", async () => {
  const mandate = ownMandate();
  let losses = 2;
  await using proxy = await FaultProxy.before(stack.relayer, (call) =>
    isPayment(call) && losses-- > 0 ? "lose" : "pass",
  );
  const paid = await wallet(proxy.url).pay(mandate, stack.payee, "1.00", { wait: false });
  assert.deepEqual(proxy.calls.filter(isPayment).length, 3);
  assert.deepEqual(
    (await payments(mandate)).map(({ id }) => id),
    [paid.id],
  );
});

test("what is resent on the way is paid once", async () => {
  const mandate = ownMandate();
  await using proxy = await FaultProxy.before(stack.relayer, (call) =>
    isPayment(call) || call === "POST /v1/cards" ? "resend" : "pass",
  );
  const paid = await wallet(proxy.url).pay(mandate, stack.payee, "1.00", { wait: false, metadata: { invoice: "17" } });
  assert.equal(paid.metadata?.invoice, "17");
  assert.deepEqual(
    (await payments(mandate)).map(({ id }) => id),
    [paid.id],
  );
  await wallet(proxy.url).createCard(mandate, "1.00");
  assert.equal((await stipend.mandate(mandate)).available, "198.00");
});

test("when every answer is lost, what was signed comes with the error, and sending it finishes", async () => {
  const mandate = ownMandate();
  await using proxy = await FaultProxy.before(stack.relayer, (call) => (isPayment(call) ? "lose" : "pass"));
  const error = await unknown(wallet(proxy.url).pay(mandate, stack.payee, "2.00"));
  assert.ok(error.moneyMayHaveMoved && error.signed);
  const sent = await stipend.send(reread(error.signed));
  assert.ok("payee" in sent && sent.amount === "2.00");
  assert.deepEqual(
    (await payments(mandate)).map(({ id }) => id),
    [sent.id],
  );
});

test("what another server answers says nothing of the payment", async () => {
  for (const answer of [
    { status: 404, problem: { type: "about:blank", code: "not_found", detail: "another server's" } },
    { status: 502, problem: { error: "bad gateway" } },
    { status: 200, problem: { welcome: "to this network" } },
  ]) {
    const mandate = ownMandate();
    await using proxy = await FaultProxy.before(stack.relayer, (call) => (isPayment(call) ? answer : "pass"));
    const error = await unknown(wallet(proxy.url).pay(mandate, stack.payee, "2.00"));
    assert.ok(error.moneyMayHaveMoved && error.signed);
    await stipend.send(error.signed);
    assert.equal((await payments(mandate)).length, 1);
  }
});

test("what was never done is done by sending it", async () => {
  const mandate = ownMandate();
  const problem = { code: "unavailable", status: 503, detail: "lost", hint: "send the same again" };
  await using proxy = await FaultProxy.before(stack.relayer, (call) =>
    call === "POST /v1/cards" ? { status: 503, problem } : "pass",
  );
  const { signed } = await unknown(wallet(proxy.url).createCard(mandate, "3.00"));
  assert.equal((await stipend.mandate(mandate)).available, "200.00");
  const card = await stipend.send(signed ?? assert.fail("nothing was signed"));
  assert.deepEqual([card.id.slice(0, 5), card.amount], ["card_", "3.00"]);
});

test("what is sent again keeps its key, so that a later call with that key is no second payment", async () => {
  const mandate = ownMandate();
  const problem = { code: "unavailable", status: 503, detail: "lost", hint: "send the same again" };
  await using proxy = await FaultProxy.before(stack.relayer, (call) =>
    call.startsWith("POST /v1/") ? { status: 503, problem } : "pass",
  );
  const options = { idempotencyKey: "invoice 17", wait: false as const };
  const agent = wallet(proxy.url);
  const payment = (await unknown(agent.pay(mandate, stack.payee, "2.00", options))).signed;
  const card = (await unknown(agent.createCard(mandate, "3.00", { idempotencyKey: "ads" }))).signed;
  assert.ok(payment && card);
  assert.deepEqual([payment.idempotencyKey, card.idempotencyKey], ["invoice 17", "ads"]);
  // Nothing of it has come to the relayer; another process finishes both.
  const [paid, made] = [await stipend.send(reread(payment)), await stipend.send(reread(card))];
  assert.equal((await wallet(stack.relayer).pay(mandate, stack.payee, "2.00", options)).id, paid.id);
  assert.equal((await wallet(stack.relayer).createCard(mandate, "3.00", { idempotencyKey: "ads" })).id, made.id);
  assert.equal((await stipend.mandate(mandate)).available, "195.00");
});

test("a refusal after a lost answer counts only if the relayer has looked for the payment", async () => {
  const mandate = ownMandate();
  for (const [code, known] of [
    ["halted", false],
    ["not_found", false],
    ["idempotency_key_reused", true],
  ] as const) {
    let attempts = 0;
    const problem = { code, status: 503, detail: "without an effect", hint: "" };
    await using proxy = await FaultProxy.before(stack.relayer, (call) => {
      if (!isPayment(call)) return "pass";
      attempts += 1;
      return attempts === 1 ? "lose" : { status: 503, problem };
    });
    const error = await wallet(proxy.url)
      .pay(mandate, stack.payee, "1.00")
      .catch((error: unknown) => error);
    assert.ok(known ? error instanceof Refused : error instanceof Unknown, `${code}: ${error}`);
  }
});

test("an abort while a payment is under way leaves its outcome unknown, not failed", async () => {
  const mandate = ownMandate();
  const controller = new AbortController();
  await using proxy = await FaultProxy.before(stack.relayer, (call) => {
    if (!isPayment(call)) return "pass";
    controller.abort();
    return "hold";
  });
  const paying = wallet(proxy.url).pay(mandate, stack.payee, "1.00", { signal: controller.signal });
  const { signed } = await unknown(paying);
  const sent = await stipend.send(signed ?? assert.fail("nothing was signed"));
  assert.deepEqual(
    (await payments(mandate)).map(({ id }) => id),
    [sent.id],
  );
  // Once it is accepted, an abort ends the waiting and nothing else.
  const waiting = new AbortController();
  await using slow = await FaultProxy.before(stack.relayer, (call) => {
    if (!call.startsWith("GET /v1/payments/")) return "pass";
    waiting.abort();
    return "hold";
  });
  const paid = await wallet(slow.url).pay(mandate, stack.payee, "1.00", { signal: waiting.signal, wait: "settled" });
  assert.equal(paid.state, "reserved");
});

test("a relayer that does not answer in time is asked again", async () => {
  const mandate = ownMandate();
  let silent = 1;
  await using proxy = await FaultProxy.before(stack.relayer, (call) =>
    isPayment(call) && silent-- > 0 ? "hold" : "pass",
  );
  await wallet(proxy.url, 1_000).pay(mandate, stack.payee, "1.00", { wait: false });
  assert.equal((await payments(mandate)).length, 1);
});

test("two processes with one key pay at once: each nonce once, no payment lost", async () => {
  const mandate = ownMandate();
  const script = fileURLToPath(new URL("pay-many.js", import.meta.url));
  const run = () =>
    promisify(execFile)(process.execPath, [script, stack.relayer, stack.agentKey, mandate, stack.payee]);
  const ids = (await Promise.all([run(), run()])).flatMap(({ stdout }): string[] => JSON.parse(stdout));
  assert.equal(new Set(ids).size, 24);
  for (const payment of ids) assert.equal((await stipend.waitFor(payment)).state, "settled");
  const made = await payments(mandate);
  assert.deepEqual(made.map(({ id }) => id).sort(), ids.sort());
  assert.deepEqual(
    made.map(({ nonce }) => nonce).sort((one, other) => one - other),
    Array.from({ length: 24 }, (_, nonce) => nonce),
  );
  assert.equal((await stipend.mandate(mandate)).paid, "24.00");
});

test("more payments at once than the contract keeps nonces for are all made", async () => {
  const mandate = ownMandate();
  const [late, all] = [90, 95];
  // The low nonces are late, until a high one was refused.
  const refused = (async () => {
    for await (const { type } of stipend.events({ mandate, after: 0 })) if (type === "payment.denied") return;
  })();
  await using proxy = await FaultProxy.before(stack.relayer, async (call, body): Promise<Fault> => {
    if (isPayment(call) && JSON.parse(body).nonce < late) await refused;
    return "pass";
  });
  const agent = wallet(proxy.url);
  const pays = Array.from({ length: all }, () => agent.pay(mandate, stack.payee, "0.01", { wait: false }));
  const made = await Promise.all(pays);
  assert.equal(new Set(made.map(({ id }) => id)).size, all);
  assert.equal((await stipend.mandate(mandate)).available, "199.05");
});

test("events go on where they were after broken connections", async () => {
  const mandate = ownMandate();
  await using proxy = await FaultProxy.before(stack.relayer);
  const seen: AuditEntry[] = [];
  for await (const entry of wallet(proxy.url).events({ mandate, after: 0 })) {
    seen.push(entry);
    const reserved = seen.filter(({ type }) => type === "payment.reserved").length;
    const settled = seen.filter(({ type }) => type === "payment.settled").length;
    if (settled === 3) break;
    // Each time in the middle, with more to come that nobody listens to.
    if (entry.type === "mandate.opened" || entry.type === "payment.settled") {
      proxy.cut();
      if (reserved < 3) await stipend.pay(mandate, stack.payee, "1.00", { wait: false });
    }
  }
  assert.ok(proxy.calls.filter((call) => call === "GET /v1/events").length >= 3);
  const all = (await stipend.audit({ mandate })).data;
  assert.deepEqual(
    seen.map(({ seq }) => seq),
    all.slice(0, seen.length).map(({ seq }) => seq),
  );
});

test("events from now on begin at the end of the trail, and end with a signal", async () => {
  const mandate = ownMandate();
  const known = (await stipend.audit({ mandate })).data.at(-1)?.seq ?? assert.fail("no entry");
  const controller = new AbortController();
  await using proxy = await FaultProxy.before(stack.relayer, async (call): Promise<Fault> => {
    // Its place is fixed by now. What happens before the first connection is not missed.
    if (call === "GET /v1/events") await stipend.pay(mandate, stack.payee, "1.00", { wait: false });
    return "pass";
  });
  const events = wallet(proxy.url).events({ mandate, signal: controller.signal });
  const { value } = await events.next();
  assert.ok(value && value.seq > known);
  assert.equal(value.type, "payment.reserved");
  const next = (async () => {
    for await (const _ of events);
  })();
  controller.abort(new Error("enough"));
  await assert.rejects(next, /enough/);
  await assert.rejects(stipend.events({ mandate, after: -1 }).next(), Refused);
});

test("events go on after the relayer's restart", async () => {
  const data = await mkdtemp(join(tmpdir(), "stipend-test-"));
  try {
    let own = await startStack({ mandates: ["10.00"], data });
    const [mandate = ""] = own.mandates;
    const port = Number(new URL(own.relayer).port);
    const agent = wallet(own.relayer);
    const events = agent.events({ mandate });
    const first = events.next();
    await agent.pay(mandate, own.payee, "1.00", { wait: "settled" });
    const last = (await agent.audit({ mandate })).data.at(-1)?.seq ?? assert.fail("no entry");
    for (let entry = await first; entry.value && entry.value.seq < last; ) entry = await events.next();
    const next = events.next();
    await own.stop();
    own = await startStack({ data, port });
    await agent.pay(mandate, own.payee, "2.00", { wait: false });
    const { value } = await next;
    assert.equal(value?.type, "payment.reserved");
    await events.return();
    await own.stop();
  } finally {
    await rm(data, { recursive: true });
  }
});
