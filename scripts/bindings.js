// Called by scripts/bindings, after a build.
"use strict";

const { existsSync, mkdirSync, readFileSync, writeFileSync } = require("node:fs");

const CONTRACTS = ["MandateEscrow", "MockUSDC", "MockUSDCProxy"];
const check = process.argv.includes("--check");

// One line per ABI entry: small, and a change shows as the line that changed.
function render({ abi, bytecode }) {
  const entries = abi.map((entry) => `    ${JSON.stringify(entry)}`).join(",\n");
  return `{\n  "abi": [\n${entries}\n  ],\n  "bytecode": "${bytecode.object}"\n}\n`;
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
