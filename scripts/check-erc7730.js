// Called by scripts/test-contracts: the ERC-7730 descriptors name functions, messages and fields that exist, each field
// once, and show each as something that its type can be.
"use strict";

const { deepStrictEqual, strictEqual, ok } = require("node:assert");
const { readFileSync } = require("node:fs");

const load = (path) => JSON.parse(readFileSync(path, "utf8"));
const { abi } = load("bindings/abi/MandateEscrow.json");
const { types, domains } = load("bindings/vectors/eip712.json");

const declare = ({ name, type, components }) => `${components ? `(${components.map(declare).join(", ")})` : type} ${name}`;
const leavesOf = ({ name, type, components }, above = "") =>
  components ? components.flatMap((part) => leavesOf(part, `${above}${name}.`)) : [[above + name, type]];

// What each key of `formats` may be, with the paths and types of its fields.
const calls = new Map(
  abi
    .filter(({ type }) => type === "function")
    .map(({ name, inputs }) => [`${name}(${inputs.map(declare).join(", ")})`, new Map(inputs.flatMap((input) => leavesOf(input)))]),
);
const messages = new Map(
  Object.values(types).map(({ type }) => [
    type,
    new Map(
      type
        .slice(type.indexOf("(") + 1, -1)
        .split(",")
        .map((field) => field.split(" ").reverse()),
    ),
  ]),
);

const SUITS = {
  addressName: /^address$/,
  date: /^uint\d+$/,
  duration: /^uint\d+$/,
  unit: /^uint\d+$/,
  raw: /^(uint\d+|bytes32|bool|bytes)$/,
};

function check(path, known, expected) {
  const { display } = load(path);
  for (const [key, { intent, interpolatedIntent = "", fields }] of Object.entries(display.formats)) {
    const leaves = known.get(key);
    ok(leaves, `${path}: nothing is declared as ${key}`);
    const paths = fields.map((field) => field.path);
    deepStrictEqual([...paths].sort(), [...leaves.keys()].sort(), `${path}: fields of ${key}`);
    for (const field of fields) {
      const type = leaves.get(field.path);
      ok(SUITS[field.format]?.test(type), `${path}: ${field.path} is ${type} and can't be shown as ${field.format}`);
      ok(field.label, `${path}: ${field.path} has no label`);
    }
    ok(intent, `${path}: ${key} has no intent`);
    const shown = new Set(fields.filter(({ visible }) => visible !== "never").map((field) => field.path));
    for (const [, named] of interpolatedIntent.matchAll(/\{(.*?)\}/g)) {
      ok(shown.has(named), `${path}: the intent of ${key} names ${named}, which is not shown`);
    }
  }
  const names = Object.keys(display.formats).map((key) => key.slice(0, key.indexOf("(")));
  for (const name of expected) ok(names.includes(name), `${path}: nothing about ${name}`);
}

check("docs/erc7730/calldata-MandateEscrow.json", calls, ["open", "openWithPermit", "refund", "revoke", "sweep", "sweepTo", "setSubmitter"]);
const path = "docs/erc7730/eip712-MandateEscrow.json";
check(path, messages, ["Terms", "Spend", "Hold", "Revoke", "Sweep"]);
const { domain } = load(path).context.eip712;
strictEqual(domain.name, domains[0].domain.name);
strictEqual(domain.version, domains[0].domain.version);
