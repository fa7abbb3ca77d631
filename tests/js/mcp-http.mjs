// Uses the relayer's /mcp with the reference TypeScript client of the Model Context Protocol, over requests that the
// reference client of ERC-8128 signs: lists the tools, calls every one that needs no card, and pays. Arguments: the
// relayer, a mandate, a payee. Prints what came back as JSON.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { createSignerClient } from "@slicekit/erc8128";
import { keccak256, toHex } from "viem";
import { privateKeyToAccount } from "viem/accounts";

const [relayer, mandate, payee] = process.argv.slice(2);
const { chain_id: chainId, escrow } = await (await fetch(new URL("/v1/info", relayer))).json();
const account = privateKeyToAccount(process.env.STIPEND_PRIVATE_KEY);
const signer = createSignerClient({
  chainId,
  address: account.address,
  signMessage: (message) => account.signMessage({ message: { raw: message } }),
});
const transport = new StreamableHTTPClientTransport(new URL("/mcp", relayer), {
  fetch: (url, init) => signer.fetch(url, init),
});
const client = new Client({ name: "host", version: "1" });
await client.connect(transport);

// It checks each structured answer against the tool's output schema.
const { tools } = await client.listTools();
const heard = [];
const call = async (name, args = {}) => {
  const result = await client.callTool({ name, arguments: args }, undefined, {
    onprogress: ({ message }) => heard.push(message),
  });
  return { failed: Boolean(result.isError), ...JSON.parse(result.content[0].text) };
};

const address = (name) => ({ name, type: "address" });
const uint = (name, bits) => ({ name, type: `uint${bits}` });
const types = {
  Spend: [
    { name: "mandate", type: "bytes32" },
    address("payee"),
    uint("amount", 64),
    uint("nonce", 32),
    uint("deadline", 40),
    { name: "ref", type: "bytes32" },
  ],
};
const payment = async (amount, units, nonce, reference) => {
  const deadline = Math.floor(Date.now() / 1000) + 600;
  const ref = keccak256(toHex(reference));
  const message = { mandate: `0x${mandate.slice(5)}`, payee, amount: units, nonce, deadline, ref };
  const domain = { name: "MandateEscrow", version: "1", chainId, verifyingContract: escrow };
  const signature = await account.signTypedData({ domain, types, primaryType: "Spend", message });
  return { mandate, payee, amount, nonce, deadline, reference, signature, wait: "settled" };
};

const results = {
  wallet_balance: await call("wallet_balance"),
  mandate_list: await call("mandate_list"),
  mandate_show: await call("mandate_show", { mandate }),
  payment_request: await call("payment_request", { amount: 5.0, intent: "More", duration: "7d" }),
  paid: await call("payment_execute", await payment("4.20", 4_200_000n, 0, "invoice 17")),
  again: await call("payment_execute", await payment("4.20", 4_200_000n, 1, "invoice 17")),
  refused: await call("payment_execute", await payment("1000", 1_000_000_000n, 1, "too much")),
  explained: await call("payment_explain", { mandate, payee, amount: "1000" }),
  audit_recent: await call("audit_recent"),
};
results.payment_status = await call("payment_status", { payment: results.paid.answer.id });
await client.close();
console.log(JSON.stringify({ tools: tools.map((tool) => tool.name), heard, results }));
