import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { type Hex, hashTypedData, keccak256, stringToBytes } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { type Spending, type SpendingData, spendingData } from "../dist/signing.js";

interface Vector {
  name: string;
  chainId: string;
  digest: Hex;
  r: Hex;
  vs: Hex;
}

/** Those of the Solidity and Rust tests. */
const vectors = JSON.parse(await readFile(new URL("../../../bindings/vectors/eip712.json", import.meta.url), "utf8"));
const escrow: Hex = vectors.domains[0].domain.verifyingContract;

function data(chainId: string, message: Record<string, string>): SpendingData {
  const { mandate, payee, amount, nonce, deadline, captureBy, ref } = message;
  return spendingData(Number(chainId), escrow, {
    mandate,
    payee,
    amount: BigInt(amount ?? ""),
    nonce: Number(nonce),
    deadline: Number(deadline),
    ...(captureBy === undefined ? {} : { captureBy: Number(captureBy) }),
    ref,
  } as Spending);
}

for (const [kind, list, type] of [
  ["spend", vectors.spends, "Spend"],
  ["hold", vectors.holds, "Hold"],
] as const) {
  test(`digests and signatures of a ${kind} are those of the contract`, async () => {
    assert.ok(list.length > 0);
    const agent = privateKeyToAccount(vectors.agent.key);
    for (const vector of list as (Vector & Record<string, Record<string, string>>)[]) {
      const typed = data(vector.chainId, vector[kind] ?? {});
      assert.equal(typed.primaryType, type);
      assert.equal(hashTypedData(typed), vector.digest, vector.name);
      const signature = await agent.signTypedData(typed);
      // The contract takes r and vs (EIP-2098), the API r, s and v.
      const yParity = BigInt(vector.vs) >> 255n;
      const s = (BigInt(vector.vs) & (2n ** 255n - 1n)).toString(16).padStart(64, "0");
      assert.equal(signature, `${vector.r}${s}${(27n + yParity).toString(16)}`, vector.name);
    }
  });

  test(`the type of a ${kind} is the contract's`, () => {
    const typed = data("1", (list[0] as Record<string, Record<string, string>>)[kind] ?? {});
    const fields = typed.types[type]?.map((field) => `${field.type} ${field.name}`);
    assert.equal(`${type}(${fields})`, vectors.types[type].type);
    assert.equal(keccak256(stringToBytes(`${type}(${fields})`)), vectors.types[type].typeHash);
  });
}
