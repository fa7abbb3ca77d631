import assert from "node:assert/strict";
import { test } from "node:test";
import { fromUnits, InvalidInput, toUnits } from "stipend";
import { Nonces } from "../dist/nonces.js";
import { EventParser } from "../dist/transport.js";

test("amounts are exact both ways", () => {
  for (const [amount, units] of [
    ["0.00", 0n],
    ["0.000001", 1n],
    ["4.20", 4_200_000n],
    ["4.200001", 4_200_001n],
    ["100.00", 100_000_000n],
    ["18446744073709.551615", 2n ** 64n - 1n],
  ] as const) {
    assert.equal(toUnits(amount), units);
    assert.equal(fromUnits(units), amount);
  }
  assert.equal(toUnits("25"), 25_000_000n);
  assert.equal(fromUnits(4_230_000n), "4.23");
});

test("what is no amount is refused", () => {
  for (const wrong of ["", "1.", ".5", "01", "-1", "+1", "1e3", "1,000", " 1", "1.0000001", "18446744073709.551616"]) {
    assert.throws(() => toUnits(wrong), InvalidInput, wrong);
  }
  for (const wrong of [4.2, 4n, null, undefined, true]) {
    assert.throws(() => toUnits(wrong as unknown as string), InvalidInput);
  }
  assert.throws(() => fromUnits(4.2 as unknown as bigint), InvalidInput);
  assert.throws(() => fromUnits(-1n), InvalidInput);
});

test("released nonces are used again, lowest first", () => {
  const nonces = new Nonces();
  assert.deepEqual([nonces.take(4), nonces.take(4), nonces.take(6)], [4, 5, 6]);
  nonces.release(6);
  nonces.release(5);
  assert.deepEqual([nonces.take(4), nonces.take(4), nonces.take(4)], [5, 6, 7]);
  assert.equal(nonces.take(20), 20);
  nonces.release(7);
  nonces.forgetReleased();
  assert.equal(nonces.take(9), 21);
});

test("events are whole wherever the stream is cut", () => {
  const text = ': hello\n\nid: 7\nevent: payment.mined\ndata: {"seq":7}\n\nid: 8\r\ndata:{"seq":\r\ndata: 8}\r\n\r\n';
  for (let cut = 0; cut <= text.length; cut++) {
    const parser = new EventParser();
    const found = [...parser.push(text.slice(0, cut)), ...parser.push(text.slice(cut))];
    assert.deepEqual(found, ['{"seq":7}', '{"seq":\n8}'], `cut at ${cut}`);
  }
  assert.deepEqual([...new EventParser().push('data: {"seq":7}\n')], []);
});
