import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { request } from "node:http";
import { after, before, test } from "node:test";
import { Stipend } from "stipend";
import { type Stack, startStack } from "stipend/testing";
import type { Hex } from "viem";
import { generatePrivateKey, type PrivateKeyAccount, privateKeyToAccount } from "viem/accounts";
import { signedHeaders } from "../dist/signing.js";

const CHAIN = 31_337;
const ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n;
const BODY = JSON.stringify({ amount: "1.00", intent: "Marketing ops", duration: "1d" });

/** A request, header by header as it goes over the wire. */
interface Wire {
  method: string;
  path: string;
  headers: [name: string, value: string][];
  body: string;
}

let stack: Stack;
let agent: PrivateKeyAccount;
let host: string;

before(async () => {
  stack = await startStack();
  agent = privateKeyToAccount(stack.agentKey);
  host = new URL(stack.relayer).host;
  // Until a relayer takes signatures, which are not older than itself.
  await new Stipend(stack.relayer, agent).mandates();
});
after(() => stack.stop());

/** As the SDK signs it. */
async function bySdk(method: string, path: string, body = ""): Promise<Wire> {
  const content = body === "" ? {} : { body };
  const json: Record<string, string> = body === "" ? {} : { "content-type": "application/json" };
  const headers = await signedHeaders(agent, CHAIN, `${stack.relayer}${path}`, { method, headers: json, ...content });
  return { method, path, headers: [["host", host], ...headers], body };
}

const post = () => bySdk("POST", "/v1/mandate-requests", BODY);
const get = () => bySdk("GET", "/v1/payments?limit=1&cursor=9");

interface Parts {
  signer: PrivateKeyAccount;
  components: string[];
  created: number;
  expires: number;
  nonce: string | undefined;
  keyid: string;
}

/** Signed by hand, with a right signature over whatever parts. */
async function byHand(change: (parts: Parts) => Partial<Parts>, method = "POST"): Promise<Wire> {
  const now = Math.floor(Date.now() / 1_000);
  const [path, query, body] = method === "POST" ? ["/v1/mandate-requests", "", BODY] : ["/v1/mandates", "?limit=1", ""];
  const usual: Parts = {
    signer: agent,
    components: ["@authority", "@method", "@path", ...(query ? ["@query"] : []), ...(body ? ["content-digest"] : [])],
    created: now,
    expires: now + 60,
    nonce: randomBytes(16).toString("base64url"),
    keyid: `erc8128:${CHAIN}:${agent.address.toLowerCase()}`,
  };
  const { signer, components, created, expires, nonce, keyid } = { ...usual, ...change(usual) };
  const values: Record<string, string> = {
    "@authority": host,
    "@method": method,
    "@path": path,
    "@query": query || "?",
    "content-digest": digest(body),
  };
  const covered = `(${components.map((name) => `"${name}"`).join(" ")})`;
  const parameters = `${covered};created=${created};expires=${expires}${nonce === undefined ? "" : `;nonce="${nonce}"`};keyid="${keyid}"`;
  const lines = [...components.map((name) => `"${name}": ${values[name]}`), `"@signature-params": ${parameters}`];
  const signature = await signer.signMessage({ message: lines.join("\n") });
  const headers: Wire["headers"] = [
    ["host", host],
    ["signature-input", `eth=${parameters}`],
    ["signature", encoded(bytes(signature))],
  ];
  if (body) headers.push(["content-type", "application/json"], ["content-digest", digest(body)]);
  return { method, path: path + query, headers, body };
}

const bytes = (signature: Hex) => Buffer.from(signature.slice(2), "hex");
const encoded = (signature: Uint8Array) => `eth=:${Buffer.from(signature).toString("base64")}:`;
const digest = (body: string) => `sha-256=:${createHash("sha256").update(body).digest("base64")}:`;

function send({ method, path, headers, body }: Wire): Promise<{ status: number; code: string | undefined }> {
  const { hostname, port } = new URL(stack.relayer);
  const wire = [...headers, ["content-length", String(Buffer.byteLength(body))]].flat() as string[];
  return new Promise((resolve, reject) => {
    const call = request({ hostname, port, method, path, headers: wire, setHost: false }, async (answer) => {
      let text = "";
      for await (const chunk of answer) text += chunk;
      resolve({ status: answer.statusCode ?? 0, code: JSON.parse(text).code });
    });
    call.once("error", reject);
    call.end(body);
  });
}

/** With a header's value changed, which has to be a change. */
function header(wire: Wire, name: string, change: (value: string) => string): Wire {
  const at = wire.headers.findIndex(([other]) => other === name);
  const [, value] = wire.headers[at] ?? assert.fail(`there is no ${name}`);
  assert.notEqual(change(value), value);
  return { ...wire, headers: wire.headers.with(at, [name, change(value)]) };
}

const replace = (name: string, old: string | RegExp, by: string) => async () =>
  header(await post(), name, (value) => value.replace(old, by));
const without = (name: string) => async () => {
  const wire = await post();
  const headers = wire.headers.filter(([other]) => other !== name);
  assert.equal(headers.length, wire.headers.length - 1);
  return { ...wire, headers };
};
const bits = (change: (signature: Buffer) => Uint8Array) => async () =>
  header(await post(), "signature", (value) => encoded(change(Buffer.from(value.slice(5, -1), "base64"))));
const flip = (at: number) =>
  bits((signature) => {
    signature[at] = (signature[at] ?? 0) ^ 1;
    return signature;
  });
const lacking = (component: string, method?: string) => () =>
  byHand(({ components }) => ({ components: components.filter((name) => name !== component) }), method);

/** What is done to a request that was right. Each has a nonce of its own. */
const tamperings: Record<string, () => Promise<Wire>> = {
  // The request is not the one that was signed.
  "another method": async () => ({ ...(await bySdk("GET", "/v1/mandate-requests")), method: "POST" }),
  "another path": async () => ({ ...(await bySdk("GET", "/v1/mandates")), path: "/v1/payments" }),
  "another id in the path": async () => ({ ...(await bySdk("GET", "/v1/cards/card_1")), path: "/v1/cards/card_2" }),
  "a query added": async () => ({ ...(await bySdk("GET", "/v1/mandates")), path: "/v1/mandates?limit=1" }),
  "a query removed": async () => ({ ...(await get()), path: "/v1/payments" }),
  "a query changed": async () => ({ ...(await get()), path: "/v1/payments?limit=2&cursor=9" }),
  "a query in another order": async () => ({ ...(await get()), path: "/v1/payments?cursor=9&limit=1" }),
  "another host": replace("host", /.*/, "relayer.example"),
  "another port": replace("host", /:\d+/, ":1"),
  "a host without its port": replace("host", /:\d+/, ""),
  "another body": async () => ({ ...(await post()), body: BODY.replace("1.00", "9.00") }),
  "another body, with its digest": async () => {
    const body = BODY.replace("1.00", "9.00");
    return { ...header(await post(), "content-digest", () => digest(body)), body };
  },
  "no body": async () => ({ ...(await post()), body: "" }),
  "a body where there was none": async () => ({ ...(await bySdk("POST", "/v1/cards/card_1/close")), body: "{}" }),
  "no digest": without("content-digest"),
  "a digest of another name": replace("content-digest", "sha-256", "sha-1"),
  "a digest that is none": replace("content-digest", /.*/, "sha-256=:AA==:"),
  "a wrong digest beside the right one": replace("content-digest", /$/, ", sha-512=:AA==:"),
  // The signature is not the one that was made.
  "no signature": without("signature"),
  "no signature input": without("signature-input"),
  "a bit of r": flip(7),
  "a bit of s": flip(40),
  "another v": bits((signature) => signature.with(64, (signature[64] ?? 0) ^ 7)),
  "the other s, and v": bits((signature) => {
    const s = ORDER - BigInt(`0x${signature.subarray(32, 64).toString("hex")}`);
    const v = Buffer.from([signature[64] === 27 ? 28 : 27]);
    return Buffer.concat([signature.subarray(0, 32), Buffer.from(s.toString(16).padStart(64, "0"), "hex"), v]);
  }),
  "a signature cut short": bits((signature) => signature.subarray(0, 64)),
  "a signature with a byte more": bits((signature) => Buffer.concat([signature, Buffer.from([0])])),
  "a signature of zeros": bits(() => new Uint8Array(65)),
  "a signature that is not base64": replace("signature", /:.*:/, ":%%%%:"),
  "a signature under another label": replace("signature", "eth=", "other="),
  "an input under another label": replace("signature-input", "eth=", "other="),
  "a later created": replace("signature-input", /created=(\d+)/, "created=1"),
  "a later expires": replace("signature-input", /expires=\d+/, "expires=4000000000"),
  "another nonce": replace("signature-input", 'nonce="', 'nonce="x'),
  "no nonce any more": replace("signature-input", /;nonce="[^"]*"/, ""),
  "another key": replace("signature-input", /0x[0-9a-f]{40}/, `0x${"11".repeat(20)}`),
  "another chain": replace("signature-input", "erc8128:31337", "erc8128:1"),
  "the same chain, written otherwise": replace("signature-input", "erc8128:31337", "erc8128:031337"),
  "a key of another scheme": replace("signature-input", "erc8128:", "eip155:"),
  "covered components in another order": replace("signature-input", '"@authority" "@method"', '"@method" "@authority"'),
  "a component less": replace("signature-input", ' "content-digest"', ""),
  "an unknown parameter more": replace("signature-input", /$/, ';alg="none"'),
  // The signature is right, and not good enough.
  "signed by another key": () => byHand(() => ({ signer: privateKeyToAccount(generatePrivateKey()) })),
  "signed for another chain": () => byHand(({ keyid }) => ({ keyid: keyid.replace(String(CHAIN), "1") })),
  "signed for a chain with a leading zero": () => byHand(({ keyid }) => ({ keyid: keyid.replace(":", ":0") })),
  "signed too long ago": () => byHand(({ created }) => ({ created: created - 120, expires: created - 60 })),
  "signed in the future": () => byHand(({ created }) => ({ created: created + 60, expires: created + 120 })),
  "signed for too long": () => byHand(({ created }) => ({ expires: created + 301 })),
  "signed for no time": () => byHand(({ created }) => ({ expires: created })),
  "signed before the relayer started": () => byHand(({ created }) => ({ created: created - 200 })),
  "signed without a nonce": () => byHand(() => ({ nonce: undefined })),
  "signed without the authority": lacking("@authority"),
  "signed without the method": lacking("@method"),
  "signed without the path": lacking("@path"),
  "signed without the query": lacking("@query", "GET"),
  "signed without the digest": lacking("content-digest"),
  "signed with a component twice": () => byHand(({ components }) => ({ components: [...components, "@path"] })),
  // What was used already.
  "the same again": async () => {
    const wire = await post();
    await accepted(wire);
    return wire;
  },
  "a nonce used before": async () => {
    const nonce = randomBytes(16).toString("base64url");
    await accepted(await byHand(() => ({ nonce })));
    return byHand(() => ({ nonce }), "GET");
  },
};

/** These are not even requests by HTTP's rules. */
const malformed: Record<string, () => Promise<Wire>> = {
  "two hosts": async () => {
    const wire = await post();
    return { ...wire, headers: [["host", "relayer.example"], ...wire.headers] };
  },
  "no host": without("host"),
  "a host with a path": replace("host", /$/, "/v1"),
  "a host with a user": replace("host", /^/, "user@"),
};

async function accepted(wire: Wire): Promise<void> {
  const { status, code } = await send(wire);
  assert.ok(status === 200 || status === 201, `${status} ${code}`);
}

test("what was not tampered with is taken", async () => {
  await accepted(await post());
  await accepted(await get());
  await accepted(await byHand(() => ({})));
  await accepted(await byHand(() => ({}), "GET"));
  await accepted(await byHand(({ created }) => ({ expires: created + 300 })));
});

for (const [name, tamper] of Object.entries(tamperings)) {
  test(`tampered with: ${name}`, async () => {
    assert.deepEqual(await send(await tamper()), { status: 401, code: "unauthenticated" });
  });
}

for (const [name, tamper] of Object.entries(malformed)) {
  test(`malformed: ${name}`, async () => {
    assert.deepEqual(await send(await tamper()), { status: 400, code: "invalid_request" });
  });
}
