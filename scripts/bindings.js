// Called by scripts/bindings, after a build.
"use strict";

const { existsSync, mkdirSync, readFileSync, writeFileSync } = require("node:fs");

const CONTRACTS = ["MandateEscrow", "MockUSDC", "MockUSDCProxy"];
const check = process.argv.includes("--check");

// One line per ABI entry: small, and a change shows as the line that changed. `immutables` are the places, 32 bytes
// each, that a constructor fills in: a list per immutable, since all its places get the same word.
function render({ abi, bytecode, deployedBytecode }) {
  const entries = abi.map((entry) => `    ${JSON.stringify(entry)}`).join(",\n");
  const byImmutable = Object.values(deployedBytecode.immutableReferences ?? {});
  const immutables = byImmutable.map((places) => places.map(({ start }) => start).sort((a, b) => a - b));
  immutables.sort(([a], [b]) => a - b);
  return `{
  "abi": [
${entries}
  ],
  "bytecode": "${bytecode.object}",
  "deployedBytecode": "${deployedBytecode.object}",
  "immutables": ${JSON.stringify(immutables)}
}
`;
}

const stale = [];
mkdirSync("bindings/abi", { recursive: true });
for (const name of CONTRACTS) {
  const path = `bindings/abi/${name}.json`;
  const text = render(JSON.parse(readFileSync(`out/${name}.sol/${name}.json`, "utf8")));
  if (existsSync(path) && readFileSync(path, "utf8") === text) continue;
  if (check) stale.push(path);
  else writeFileSync(path, text);
}
if (stale.length > 0) {
  console.error(`out of date: ${stale.join(", ")}\nrun scripts/bindings and commit what it writes`);
  process.exit(1);
}
