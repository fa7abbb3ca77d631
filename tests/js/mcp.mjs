// Uses the wallet with the reference TypeScript client of the Model Context Protocol: lists and calls every tool that
// needs no mandate, and pays. Arguments: the program, the relayer, the node, a payee. Prints what came back as JSON.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";

const [command, relayer, node, payee] = process.argv.slice(2);
const env = { STIPEND_PRIVATE_KEY: process.env.STIPEND_PRIVATE_KEY };
const transport = new StdioClientTransport({ command, args: ["--relayer", relayer, "--rpc-url", node, "mcp"], env });
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
const results = {
  wallet_balance: await call("wallet_balance"),
  mandate_list: await call("mandate_list"),
  audit_recent: await call("audit_recent"),
  paid: await call("payment_execute", { payee, amount: 4.2, reference: "invoice 17", wait: "settled" }),
  again: await call("payment_execute", { payee, amount: "4.20", reference: "invoice 17" }),
  explained: await call("payment_explain", { payee, amount: "1000" }),
  refused: await call("payment_execute", { payee, amount: "1000", reference: "too much" }),
};
results.payment_status = await call("payment_status", { payment: results.paid.payment });
await client.close();
console.log(JSON.stringify({ tools: tools.map((tool) => tool.name), heard, results }));
