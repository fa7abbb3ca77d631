#!/usr/bin/env node
// The compiler as forge expects it: `--version`, or standard JSON from stdin to stdout.
// A native solc of the same version on PATH does the same ten times faster, so it is preferred.
"use strict";

const { execFileSync, spawnSync } = require("node:child_process");
const { readFileSync, writeSync } = require("node:fs");
const { version } = require("solc/package.json");

function nativeVersion() {
  try {
    return execFileSync("solc", ["--version"], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
  } catch {
    return "";
  }
}

function write(text) {
  let bytes = Buffer.from(text);
  while (bytes.length > 0) {
    try {
      bytes = bytes.subarray(writeSync(1, bytes));
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
    }
  }
}

const args = process.argv.slice(2);
if (nativeVersion().includes(`Version: ${version}+`)) {
  process.exit(spawnSync("solc", args, { stdio: "inherit" }).status ?? 1);
}

const solc = require("solc");
if (args.includes("--version")) {
  write(`solc, the solidity compiler commandline interface\nVersion: ${solc.version().replace(".Emscripten.clang", "")}\n`);
} else {
  write(solc.compile(readFileSync(0, "utf8")));
}
