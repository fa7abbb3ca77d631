// Called by scripts/standard-json, after a build. `forge verify-contract --show-standard-json-input` gives the same kind
// of file, but needs the network.
"use strict";

const { readFileSync, writeFileSync } = require("node:fs");

const NAME = "MandateEscrow";
const read = (path) => readFileSync(path, "utf8");

// What the compiler says it has read: the settings of this contract's own profile, and its sources alone.
const { compiler, language, settings, sources } = JSON.parse(read(`out/${NAME}.sol/${NAME}.json`)).metadata;
const { compilationTarget, ...rest } = settings;
const input = {
  language,
  sources: Object.fromEntries(Object.keys(sources).map((path) => [path, { content: read(path) }])),
  settings: { ...rest, outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } } },
};
const [target] = Object.keys(compilationTarget);

if (process.argv[2] === "--check") {
  const { contracts, errors = [] } = JSON.parse(require("solc").compile(JSON.stringify(input)));
  const wrong = errors.filter(({ severity }) => severity === "error");
  if (wrong.length > 0) throw new Error(wrong.map(({ formattedMessage }) => formattedMessage).join("\n"));
  const { evm } = contracts[target][NAME];
  const bindings = JSON.parse(read(`bindings/abi/${NAME}.json`));
  for (const kind of ["bytecode", "deployedBytecode"]) {
    if (`0x${evm[kind].object}` === bindings[kind]) continue;
    console.error(`the standard JSON input compiles to another ${kind} than bindings/abi/${NAME}.json has`);
    process.exit(1);
  }
} else {
  writeFileSync(process.argv[2], `${JSON.stringify(input, null, 2)}\n`);
  console.log(`${process.argv[2]}: ${target}:${NAME}, compiler v${compiler.version}`);
}
