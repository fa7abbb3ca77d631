import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { InvalidInput, Stipend, StipendError } from "stipend";
import { type Stack, startStack } from "stipend/testing";
import { privateKeyToAccount } from "viem/accounts";
import { FaultProxy } from "./proxy.js";

let stack: Stack;
let proxy: FaultProxy;
let stipend: Stipend;
let mandate: string;

before(async () => {
  stack = await startStack({ mandates: ["100.00"] });
  proxy = await FaultProxy.before(stack.relayer);
  stipend = new Stipend(proxy.url, privateKeyToAccount(stack.agentKey));
  mandate = stack.mandates[0] ?? assert.fail("no mandate");
});
after(async () => {
  await proxy[Symbol.asyncDispose]();
  await stack.stop();
});

/** What JavaScript lets through. */
type Any = never;
type Case = [argument: string, call: () => Promise<unknown>];
const NO_ADDRESSES = [
  undefined,
  7,
  "",
  "0x12",
  "0x9965507D1a55bcC2695C58ba16FB37d819B0A4d",
  "0X9965507d1a55bcc2695c58ba16fb37d819b0a4dc",
  "0x9965507d1a55bcC2695C58ba16FB37d819B0A4dc",
  "0x9965507D1a55bcC2695C58ba16FB37d819B0A4dd",
  `0x${"0".repeat(40)}`,
  "merchant.eth",
];
const NO_KEYS = ["", " ", " a", "a ", "k".repeat(256), "Zahlung für März", "a\nb", "a\u007f", "🧾", 17, null];
const NO_REFS = ["", "0x12", `0x${"1".repeat(65)}`, "1".repeat(64), `0x${"g".repeat(64)}`, 17, null];
const NO_METADATA = [
  null,
  "invoice",
  ["invoice"],
  { invoice: 17 },
  { invoice: 17n },
  { invoice: undefined },
  { "": "17" },
  { ["é".repeat(21)]: "17" },
  { invoice: "é".repeat(251) },
  Object.fromEntries(Array.from({ length: 16 }, (_, n) => [n, "pair"])),
];
const NO_IDS = [undefined, null, 7, {}, "", "mand_x", "../payments", `mand_${"A".repeat(64)}`];

/** Calls with one malformed argument each, by the argument. */
function malformed(): Case[] {
  const pay = (payee: unknown, amount: unknown, options: object = {}) =>
    stipend.pay(mandate, payee as Any, amount as Any, options);
  const { payee } = stack;
  const options = (argument: string, values: unknown[]): Case[] =>
    values.flatMap((value) => [
      [argument, () => pay(payee, "1.00", { [argument]: value })],
      [argument, () => stipend.createCard(mandate, "1.00", { [argument]: value })],
    ]);
  const asked = { amount: "5", intent: "x", duration: "1d" };
  return [
    ...NO_ADDRESSES.map((wrong): Case => ["payee", () => pay(wrong, "1.00")]),
    ...["", "1,00", "-1", "1e3", " 1", "0.0000001", 4.2, 4n, null, undefined].flatMap((wrong): Case[] => [
      ["amount", () => pay(payee, wrong)],
      ["amount", () => stipend.createCard(mandate, wrong as Any)],
      ["amount", () => stipend.explain(mandate, wrong as Any)],
      ["amount", () => stipend.requestMandate({ ...asked, amount: wrong ?? 0 } as Any)],
    ]),
    ...options("idempotencyKey", NO_KEYS),
    ...options("ref", NO_REFS),
    ...options("metadata", NO_METADATA),
    ...NO_IDS.flatMap((wrong): Case[] => [
      ["mandate", () => stipend.pay(wrong as Any, payee, "1.00")],
      ["mandate", () => stipend.createCard(wrong as Any, "1.00")],
      ["mandate", () => stipend.mandate(wrong as Any)],
      ["request", () => stipend.mandateRequest(wrong as Any)],
      ["payment", () => stipend.waitFor(wrong as Any)],
      ["card", () => stipend.closeCard(wrong as Any)],
    ]),
    ["mandate", () => stipend.mandate(`pay_${"0".repeat(32)}`)],
    ["mandate", () => stipend.payments({ mandate: "" })],
    ["mandate", () => stipend.audit({ mandate: "" })],
    ["mandate", () => stipend.events({ mandate: "" }).next()],
    ["payee", () => stipend.explain(mandate, "1.00", "merchant.eth")],
    ["wait", () => pay(payee, "1.00", { wait: "paid" })],
    ["state", () => stipend.waitFor(`pay_${"0".repeat(32)}`, "paid" as Any)],
    ["per_payment", () => stipend.requestMandate({ ...asked, per_payment: "1," })],
    ["window_cap", () => stipend.requestMandate({ ...asked, window_cap: "1," })],
    ["asked", () => stipend.requestMandate({ ...asked, metadata: { invoice: 17n } } as Any)],
    ["asked", () => stipend.requestMandate(undefined as Any)],
    ...NO_KEYS.map(
      (idempotencyKey): Case => ["idempotencyKey", () => stipend.requestMandate(asked, { idempotencyKey } as Any)],
    ),
    ["signed", () => stipend.send(undefined as Any)],
    ["signed", () => stipend.send({} as Any)],
    ["signed", () => stipend.send({ payment: { nonce: 1n } } as Any)],
    ["idempotencyKey", () => stipend.send({ payment: {}, idempotencyKey: "" } as Any)],
  ];
}

test("what is malformed is refused by the argument's name; nothing is sent, and no nonce is used", async () => {
  const calls = malformed();
  assert.ok(calls.length > 100);
  for (const [argument, call] of calls) {
    await assert.rejects(call, (error) => {
      assert.ok(error instanceof InvalidInput && error instanceof StipendError, `${argument}: ${error}`);
      assert.deepEqual([error.name, error.argument, error.moneyMayHaveMoved], ["InvalidInput", argument, false]);
      return error.message.startsWith(`${argument}: `);
    });
  }
  assert.deepEqual(proxy.calls, []);
  const [one, other] = await Promise.all(
    ["1.00", "2.00"].map((amount) => stipend.pay(mandate, stack.payee, amount, { wait: "settled" })),
  );
  assert.deepEqual([one?.nonce, other?.nonce].sort(), [0, 1]);
  assert.deepEqual([one?.state, other?.state], ["settled", "settled"]);
});

test("what only the relayer or the signer refuses uses no nonce either", async () => {
  const known = (await stipend.mandate(mandate)).next_nonce;
  const account = privateKeyToAccount(stack.agentKey);
  let refusals = 100;
  const signTypedData: typeof account.signTypedData = async (data) => {
    if (refusals-- > 0) throw new Error("the user has declined");
    return account.signTypedData(data);
  };
  const careful = new Stipend(stack.relayer, { ...account, signTypedData });
  for (let n = 0; n < 100; n++)
    await assert.rejects(careful.pay(mandate, stack.payee, "1.00"), /the user has declined/);
  for (let n = 0; n < 100; n++) {
    await assert.rejects(careful.pay(mandate, stack.token, "1.00"), { code: "bad_payee" });
  }
  assert.equal((await careful.pay(mandate, stack.payee, "1.00")).nonce, known);
});

test("what is within the rules is taken", async () => {
  const { payee } = stack;
  const pay = (to: string, options: object) => stipend.pay(mandate, to, "0.01", { wait: false, ...options });
  for (const to of [payee.toLowerCase(), `0x${payee.slice(2).toUpperCase()}`])
    assert.equal((await pay(to, {})).payee, payee);
  for (const idempotencyKey of ["k", "k".repeat(255), "a b", "~!\"'\\"]) {
    const first = await pay(payee, { idempotencyKey });
    assert.equal((await pay(payee, { idempotencyKey })).id, first.id);
  }
  const ref = `0x${"aB".repeat(32)}`;
  assert.equal((await pay(payee, { ref })).ref, ref.toLowerCase());
  const pairs = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, n) => [n, "é".repeat(250)]));
  const own = await pay(payee, { metadata: pairs(15) });
  // With the mark of the call that it is copied from.
  assert.notEqual((await pay(payee, { metadata: own.metadata })).id, own.id);
  assert.deepEqual((await pay(payee, { metadata: pairs(16), idempotencyKey: "pairs" })).metadata, pairs(16));
});

test("a client takes an address, a signer and a time that a timer has", () => {
  const account = privateKeyToAccount(stack.agentKey);
  for (const relayer of ["", "relayer", "ftp://relayer.example", undefined]) {
    assert.throws(() => new Stipend(relayer as Any, account), { name: "InvalidInput", argument: "relayer" });
  }
  for (const timeout of [0, -1, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 31, "9"]) {
    assert.throws(() => new Stipend(stack.relayer, account, { timeout } as Any), { argument: "timeout" });
  }
  for (const signer of [undefined, {}, stack.agentKey, { address: stack.agent }]) {
    assert.throws(
      () => new Stipend(stack.relayer, signer as Any),
      (error) => {
        assert.ok(error instanceof InvalidInput && error.argument === "signer");
        return !error.message.includes(stack.agentKey);
      },
    );
  }
});
