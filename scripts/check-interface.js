// Functions, events and errors of the escrow, and what is signed for it, are frozen: contracts/interface.txt has them all.
// Wallets, indexers and signatures that are out there depend on each.
"use strict";

const { readFileSync } = require("node:fs");

const FROZEN = "contracts/interface.txt";
const DIGESTS = "contracts/src/libraries/Digests.sol";

const typeOf = ({ type, components }) =>
  components ? type.replace("tuple", `(${components.map(typeOf).join(",")})`) : type;
const named = (parameter) => [typeOf(parameter), parameter.indexed && "indexed", parameter.name].filter(Boolean).join(" ");

function line({ type: kind, name = "", inputs = [], outputs = [], stateMutability }) {
  const head = `${kind} ${name}(${inputs.map(named).join(", ")})`;
  if (kind !== "function") return head;
  const returns = outputs.length > 0 ? ` returns (${outputs.map(named).join(", ")})` : "";
  return `${head} ${stateMutability}${returns}`;
}

const { abi } = JSON.parse(readFileSync("bindings/abi/MandateEscrow.json", "utf8"));
const signed = [...readFileSync(DIGESTS, "utf8").matchAll(/keccak256\(\s*"([^"]+)"\s*\)/g)].map(([, text]) => `signed ${text}`);
const now = [...abi.map(line), ...signed].sort();
const frozen = readFileSync(FROZEN, "utf8").trimEnd().split("\n");

const gone = frozen.filter((entry) => !now.includes(entry)).map((entry) => `- ${entry}`);
const added = now.filter((entry) => !frozen.includes(entry)).map((entry) => `+ ${entry}`);
if (gone.length + added.length > 0) {
  console.error([`the escrow is not what ${FROZEN} says, which is frozen:`, ...gone, ...added].join("\n"));
  process.exit(1);
}
