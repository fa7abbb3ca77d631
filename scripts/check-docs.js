// Called by scripts/test-contracts: every test that the documents name exists, in Solidity or in Rust, and so does
// every file and heading that they link to.
"use strict";

const { existsSync, readFileSync, readdirSync } = require("node:fs");
const { dirname, join } = require("node:path");

const read = (folder, ending) =>
  readdirSync(folder, { recursive: true })
    .filter((path) => path.endsWith(ending))
    .map((path) => [`${folder}/${path}`, readFileSync(`${folder}/${path}`, "utf8")]);

const tests = new Map(read("contracts/test", ".sol").map(([path, text]) => [path, new Set(text.match(/\b(test|invariant)_\w+(?=\()/g))]));
const everywhere = new Set([...tests.values()].flatMap((names) => [...names]));
const places = new Map([...tests].map(([path, names]) => [path.split("/").pop().replace(/\.sol$/, ""), names]));
places.set("messages", places.get("OperatorMessageTest"));
places.set("Invariants", places.get("Invariants.t"));

const missing = [];
for (const [path, text] of read("docs", ".md")) {
  // Its tests are those of whoever reads it.
  if (path === "docs/guides/testing.md") continue;
  for (const cell of text.split(/[|\n]/)) {
    // A name counts for the place that was named last: `open.t test_a`, `test_b`.
    let place = null;
    for (const [, named, name] of cell.matchAll(/(?:`|\b)([\w.]+\.t|messages|Invariants)?\s?((?:test|invariant)_\w+)/g)) {
      if (named) place = named;
      const known = place && places.has(place) ? places.get(place) : everywhere;
      if (!known.has(name)) missing.push(`${path}: ${place ?? ""} ${name}`);
    }
  }
}

// Rust: a place is a file, without what they all share: `e2e/restart`, `chain/rpc/send_outcome`, `core/amount`.
const rust = new Map(
  ["tests/tests", "relayer/src", "core/src", "client/src", "cli/src", "bindings/src", "http/src", "issuer/src"]
    .flatMap((folder) => read(folder, ".rs"))
    .map(([path, text]) => [
      path.replace(/^(tests\/tests|relayer\/src)\/|\.rs$/g, "").replace("/src/", "/"),
      new Set([...text.matchAll(/#\[(?:tokio::)?test\b.*\]\s+(?:async )?fn (\w+)/g)].map(([, name]) => name)),
    ]),
);
for (const row of readFileSync("docs/security/faults.md", "utf8").split("\n").filter((line) => /^\| \d/.test(line))) {
  // All that stands as code in the last column is a test, of the place that was named last.
  let place = null;
  for (const [, words] of row.split("|").at(-2).matchAll(/`([^`]*)`/g)) {
    const name = words.split(" ").pop();
    if (words !== name) place = words.slice(0, -name.length - 1);
    if (!rust.get(place)?.has(name)) missing.push(`docs/security/faults.md: ${place ?? ""} ${name}`);
  }
}
// Elsewhere a place may be named by its end or its beginning: `book/tests a_skip_…`, `e2e/cards a_card_…`.
const isAt = (path, place) => `/${path}/`.includes(`/${place}/`);
for (const [path, text] of read("docs", ".md")) {
  for (const [, place, name] of text.matchAll(/`([a-z0-9_/]+) ([a-z]+(?:_[a-z0-9]+){2,})`/g)) {
    if (![...rust].some(([file, names]) => isAt(file, place) && names.has(name))) missing.push(`${path}: ${place} ${name}`);
  }
}
const anchors = (text) =>
  new Set([...text.matchAll(/^#+ (.*)$/gm)].map(([, title]) => title.trim().toLowerCase().replace(/[^\w\- ]/g, "").replaceAll(" ", "-")));
const front = readdirSync(".").filter((path) => path.endsWith(".md")).map((path) => [path, readFileSync(path, "utf8")]);
for (const [path, text] of [...front, ...read("docs", ".md")]) {
  for (const [, link] of text.matchAll(/\]\((?![a-z]+:)([^)\s]+)\)/g)) {
    const [file, anchor] = link.split("#");
    const target = file ? join(dirname(path), file) : path;
    const found = existsSync(target) && (!anchor || anchors(readFileSync(target, "utf8")).has(anchor));
    if (!found) missing.push(`${path}: ${link}`);
  }
}
if (missing.length > 0) {
  console.error(`tests or links that do not exist:\n${missing.join("\n")}`);
  process.exit(1);
}
