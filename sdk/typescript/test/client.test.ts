import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { inspect } from "node:util";
import { InvalidInput, type Mandate, Refused, Stipend, StipendError, Unreachable } from "stipend";
import { type Stack, startStack } from "stipend/testing";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";

let stack: Stack;
let stipend: Stipend;

before(async () => {
  stack = await startStack({ mandates: ["100.00", "50.00", "10.00"] });
  stipend = new Stipend(stack.relayer, privateKeyToAccount(stack.agentKey));
});
after(() => stack.stop());

/** The n-th mandate of the stack. */
const mandate = (n: number): string => stack.mandates[n] ?? assert.fail(`no mandate ${n}`);

async function refusal(call: Promise<unknown>): Promise<Refused> {
  const error = await call.then(
    () => assert.fail("it was not refused"),
    (error: unknown) => error,
  );
  assert.ok(error instanceof Refused, inspect(error));
  return error;
}

test("asked for, approved, paid, refused, explained", async () => {
  const asked = await stipend.requestMandate({
    amount: "40.00",
    intent: "Marketing ops",
    duration: "30d",
    per_payment: "25",
  });
  assert.equal((await stipend.mandateRequest(asked)).state, "pending");
  await assert.rejects(stipend.waitForMandate(asked, { timeout: 0 }), { name: "TimeoutError" });
  await stack.stipend("mandate", "approve", asked.id, "--yes");
  const opened: Mandate = await stipend.waitForMandate(asked);
  assert.deepEqual([opened.state, opened.available], ["open", "40.00"]);

  const paid = await stipend.pay(opened, stack.payee, "4.20");
  assert.ok(["mined", "settled"].includes(paid.state));
  const settled = await stipend.waitFor(paid);
  assert.deepEqual([settled.state, settled.amount, settled.payee], ["settled", "4.20", stack.payee]);

  const refused = await refusal(stipend.pay(opened, stack.payee, "30"));
  assert.deepEqual([refused.code, refused.status, refused.moneyMayHaveMoved], ["above_per_payment", 403, false]);
  assert.ok(refused.hint && refused.decision?.allow === false);
  const explained = await stipend.explain(opened, "30", stack.payee);
  assert.deepEqual([explained.decision.allow, explained.headroom], [false, "25.00"]);
  // A refused payment leaves no gap in the nonces.
  assert.equal((await stipend.pay(opened, stack.payee, explained.headroom, { wait: "settled" })).nonce, 1);
  assert.equal((await stipend.mandate(opened)).available, "10.80");

  const kinds = (await stipend.audit({ mandate: opened })).data.map((entry) => entry.type);
  assert.ok(kinds.includes("payment.denied") && kinds.includes("payment.settled"));
});

test("a number is refused as an amount, by the types and at run time", async () => {
  const known = (await stipend.mandate(mandate(0))).next_nonce;
  // @ts-expect-error: a float loses money.
  await assert.rejects(stipend.pay(mandate(0), stack.payee, 4.2), InvalidInput);
  // @ts-expect-error: base units are not USDC.
  await assert.rejects(stipend.createCard(mandate(0), 4n), InvalidInput);
  // @ts-expect-error: a float loses money.
  await assert.rejects(stipend.explain(mandate(0), 4.2, stack.payee), InvalidInput);
  // @ts-expect-error: a float loses money.
  await assert.rejects(stipend.requestMandate({ amount: 4.2, intent: "x", duration: "1d" }), InvalidInput);
  const asked = { amount: "5", intent: "x", duration: "1d", per_payment: 2.5 };
  // @ts-expect-error: a float loses money.
  await assert.rejects(stipend.requestMandate(asked), InvalidInput);
  await assert.rejects(stipend.pay(mandate(0), stack.payee, "4.2000001"), InvalidInput);
  assert.equal((await stipend.mandate(mandate(0))).next_nonce, known);
});

test("with a key, all calls are one payment", async () => {
  const options = { idempotencyKey: "invoice 17", wait: false as const, metadata: { invoice: "17" } };
  const first = await stipend.pay(mandate(0), stack.payee, "1.00", options);
  assert.deepEqual(first.metadata, { invoice: "17" });
  assert.equal((await stipend.pay(mandate(0), stack.payee, "1.00", options)).id, first.id);
  assert.equal((await refusal(stipend.pay(mandate(0), stack.payee, "2.00", options))).code, "idempotency_key_reused");
  // The replay has not used its nonce.
  assert.equal((await stipend.pay(mandate(0), stack.payee, "1.00", { wait: false })).nonce, first.nonce + 1);
});

test("lists come in pages", async () => {
  const made = [];
  for (let n = 0; n < 3; n++) {
    made.push((await stipend.pay(mandate(2), stack.payee, "0.01", { wait: false })).id);
  }
  const first = await stipend.payments({ mandate: mandate(2), limit: 2 });
  const second = await stipend.payments({ mandate: mandate(2), limit: 2, cursor: first.next_cursor ?? "" });
  const ids = [...first.data, ...second.data].map((payment) => payment.id);
  assert.deepEqual(ids, made.reverse());
  assert.equal(second.next_cursor, undefined);
  const mandates = (await stipend.mandates()).data.map(({ id }) => id);
  assert.ok(stack.mandates.every((id) => mandates.includes(id)));
});

test("a card is bought and charged", async () => {
  const options = { idempotencyKey: "licenses" };
  const card = await stipend.waitForCard(await stipend.createCard(mandate(1), "20.00", options));
  assert.equal(card.state, "active");
  const secrets = await stipend.cardSecrets(card);
  assert.match(secrets.number, /^\d{16}$/);
  assert.ok(secrets.number.endsWith(card.last_four ?? "none"));
  assert.match(`${secrets.cvv} ${secrets.expMonth} ${secrets.expYear}`, /^\d{3} \d{2} \d{4}$/);
  assert.ok(!`${inspect(secrets, { depth: 9, showHidden: true })}${JSON.stringify(secrets)}`.includes(secrets.number));
  assert.equal((await stipend.createCard(mandate(1), "20.00", options)).id, card.id);

  const shop = ["--mcc", "5734", "--descriptor", "ADS INC"];
  await stack.stipend("merchant", "charge", "--card", card.id, "--amount", "18.40", ...shop);
  const closed = await stipend.waitForCard(card, "closed");
  assert.deepEqual([closed.captured, closed.released], ["18.40", "1.60"]);

  const spare = await stipend.waitForCard(await stipend.createCard(mandate(1), "1.00"));
  assert.ok(["closing", "closed"].includes((await stipend.closeCard(spare)).state));
  assert.equal((await refusal(stipend.createCard(mandate(1), "0.001"))).code, "not_whole_cents");
  assert.equal((await refusal(stipend.createCard(mandate(1), "40.00"))).code, "insufficient_budget");
});

test("a card's number is asked for in private alone", async () => {
  const exposed = new Stipend("http://relayer.example", privateKeyToAccount(stack.agentKey));
  await assert.rejects(exposed.cardSecrets("card_x"), { name: "StipendError", message: /use https/ });
});

test("what is another's is not found", async () => {
  const stranger = new Stipend(stack.relayer, privateKeyToAccount(generatePrivateKey()));
  assert.equal((await refusal(stranger.mandate(mandate(0)))).code, "not_found");
  assert.equal((await refusal(stranger.pay(mandate(0), stack.payee, "1.00"))).code, "not_found");
});

test("any signer of EIP-712 will do", async () => {
  const account = privateKeyToAccount(stack.agentKey);
  const signer = {
    address: account.address,
    signMessage: ({ message }: { message: { raw: Uint8Array } }) => account.signMessage({ message }),
    signTypedData: (data: Parameters<typeof account.signTypedData>[0]) => account.signTypedData(data),
  };
  const paid = await new Stipend(stack.relayer, signer).pay(mandate(2), stack.payee, "0.50", { wait: false });
  assert.equal(paid.amount, "0.50");
});

test("a signal ends waits and calls", async () => {
  const asked = await stipend.requestMandate({ amount: "1", intent: "Never approved", duration: "1d" });
  const reason = new Error("enough");
  const controller = new AbortController();
  const waiting = stipend.waitForMandate(asked, { signal: controller.signal });
  controller.abort(reason);
  await assert.rejects(waiting, reason);
  const before = (await stipend.mandate(mandate(2))).next_nonce;
  await assert.rejects(stipend.pay(mandate(2), stack.payee, "0.10", { signal: AbortSignal.abort(reason) }), reason);
  assert.equal((await stipend.mandate(mandate(2))).next_nonce, before);
});

test("a relayer that is not there is unreachable, and nothing was done", async () => {
  const wallet = new Stipend("http://127.0.0.1:1024", privateKeyToAccount(stack.agentKey));
  await assert.rejects(wallet.pay(mandate(0), stack.payee, "1.00"), (error) => {
    assert.ok(error instanceof Unreachable && error instanceof StipendError);
    return error.moneyMayHaveMoved === false;
  });
  assert.throws(() => new Stipend("ftp://relayer.example", privateKeyToAccount(stack.agentKey)), InvalidInput);
});
