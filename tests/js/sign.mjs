// Sends signed requests to the relayer whose address is the only argument, with the reference client of ERC-8128, and
// prints what came back as one line of JSON.
import { createSignerClient } from "@slicekit/erc8128";
import { privateKeyToAccount } from "viem/accounts";

const [base] = process.argv.slice(2);
const { chain_id: chainId } = await (await fetch(`${base}/v1/info`)).json();

// Account 2 of anvil's well-known mnemonic.
const account = privateKeyToAccount("0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a");
const client = createSignerClient({
  chainId,
  address: account.address,
  signMessage: (message) => account.signMessage({ message: { raw: message } }),
});

const results = {};
async function send(name, response) {
  const answer = await response;
  results[name] = { status: answer.status, body: await answer.json() };
  return results[name].body;
}

const json = { "content-type": "application/json" };
const body = JSON.stringify({ amount: "12.34", intent: "asked for from JavaScript", duration: "7d" });
const request = await send("post", client.fetch(`${base}/v1/mandate-requests`, { method: "POST", headers: json, body }));
await send("get", client.fetch(`${base}/v1/mandate-requests/${request.id}`));
await send("query", client.fetch(`${base}/v1/mandate-requests?limit=1`));

const signed = await client.signRequest(`${base}/v1/mandate-requests`);
await send("first", fetch(signed.clone()));
await send("again", fetch(signed));

console.log(JSON.stringify({ agent: account.address, results }));
