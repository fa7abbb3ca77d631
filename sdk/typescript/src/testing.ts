/** The whole of Stipend on this machine, for tests: a chain, the contracts, a relayer and a card issuer. */

import { type ChildProcess, type ChildProcessByStdio, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import type { Socket } from "node:net";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { promisify } from "node:util";

/** Anvil's well-known account 2, which agents of `stipend dev` use. */
const AGENT_KEY = "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a";
const STOPS_WITHIN = 30_000;

export interface StackOptions {
  /** Opens a mandate over so much USDC each, for the agent. */
  mandates?: string[];
  /** Seconds between blocks: 1 if absent. */
  blockTime?: number;
  /** Keeps chain and ledger in this directory, and goes on where they were; absent: a temporary one. */
  data?: string;
  /** The relayer's port; absent: a free one. */
  port?: number;
  /** The program; absent: the environment's STIPEND_BIN, or `stipend` on PATH. */
  binary?: string;
}

export interface Stack extends AsyncDisposable {
  relayer: string;
  rpcUrl: string;
  chainId: number;
  escrow: `0x${string}`;
  token: `0x${string}`;
  agent: `0x${string}`;
  agentKey: `0x${string}`;
  operator: `0x${string}`;
  /** An address that can be paid. */
  payee: `0x${string}`;
  /** The mandates that were asked for, open. */
  mandates: string[];
  /** Runs the program against this stack, such as `stipend("mandate", "approve", id, "--yes")`; answers what it prints. */
  stipend(...args: string[]): Promise<unknown>;
  /** Stops everything. */
  stop(): Promise<void>;
}

/** Starts `stipend dev`; resolves when it can be used. */
export async function startStack(options: StackOptions = {}): Promise<Stack> {
  const binary = options.binary ?? process.env.STIPEND_BIN ?? "stipend";
  const args = ["--json", "dev", "--port", String(options.port ?? 0), "--anvil-port", "0", "--issuer-port", "0"];
  if (options.blockTime !== undefined) args.push("--block-time", String(options.blockTime));
  if (options.data !== undefined) args.push("--data", options.data);
  for (const amount of options.mandates ?? []) args.push("--mandate", amount);

  const child = spawn(binary, args, { stdio: ["ignore", "pipe", "pipe"] });
  const kill = () => void child.kill();
  process.once("exit", kill);
  child.once("exit", () => process.removeListener("exit", kill));
  const ready = await readiness(child, binary);
  // A test that forgets to stop it ends nevertheless, and takes it along.
  child.unref();
  for (const output of [child.stdout, child.stderr]) (output as Socket).unref();
  const where = ["--json", "--relayer", ready.relayer, "--rpc-url", ready.rpc_url];
  const env = { ...process.env, STIPEND_ISSUER_URL: ready.issuer, STIPEND_ISSUER_API_KEY: ready.issuer_key };
  const stop = () => end(child);
  return {
    relayer: ready.relayer,
    rpcUrl: ready.rpc_url,
    chainId: ready.chain_id,
    escrow: ready.escrow,
    token: ready.token,
    agent: ready.agent,
    agentKey: AGENT_KEY,
    operator: ready.operator,
    payee: ready.payee,
    mandates: ready.mandates ?? [],
    async stipend(...more) {
      const { stdout } = await promisify(execFile)(binary, [...where, ...more], { env });
      const lines = stdout
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line));
      return lines.length === 1 ? lines[0] : lines;
    },
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

interface Ready {
  relayer: string;
  rpc_url: string;
  chain_id: number;
  escrow: `0x${string}`;
  token: `0x${string}`;
  agent: `0x${string}`;
  operator: `0x${string}`;
  payee: `0x${string}`;
  issuer: string;
  issuer_key: string;
  mandates?: string[];
}

/** What it prints when it can be used; an error with its own words if it ends before. */
async function readiness(child: ChildProcessByStdio<null, Readable, Readable>, binary: string): Promise<Ready> {
  let said = "";
  child.stderr.on("data", (text) => {
    said = `${said}${text}`.slice(-4_096);
  });
  const line = await new Promise<string>((resolve, reject) => {
    createInterface(child.stdout).once("line", resolve);
    child.once("error", (cause) => reject(new Error(`can't start ${binary}: name it by STIPEND_BIN`, { cause })));
    child.once("close", () => reject(new Error(`${binary} dev has ended: ${said.trim()}`)));
  });
  return JSON.parse(line);
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.ref();
  const exited = once(child, "exit", { signal: AbortSignal.timeout(STOPS_WITHIN) });
  child.kill();
  await exited;
}
