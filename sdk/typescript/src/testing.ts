/** The whole of Stipend on this machine, for tests: a chain, the contracts, a relayer and a card issuer. */

import { type ChildProcessByStdio, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import type { Socket } from "node:net";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { promisify } from "node:util";

/** Anvil's well-known account 2, which agents of `stipend dev` use. */
const AGENT_KEY = "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a";
/** Longer than the program gives its parts to stop, in milliseconds. */
const STOPS_WITHIN = 40_000;

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
  /** Addresses whose payments are denied, are skipped on chain, stall, or are reorganized. */
  testPayees: TestPayees;
  /** The mandates that were asked for, open. */
  mandates: string[];
  /**
   * Runs the program against this stack, such as `stipend("mandate", "approve", id, "--yes")`; answers the last line that it
   * prints, which is JSON. The dev account that fits signs.
   */
  stipend(...args: string[]): Promise<unknown>;
  /** Moves the chain's time forward, such as by "31d" or "90s"; resolves when the relayer judges by it. */
  advance(duration: string): Promise<void>;
  /** Stops everything. */
  stop(): Promise<void>;
}

export interface TestPayees {
  denied: `0x${string}`;
  skip: `0x${string}`;
  stall: `0x${string}`;
  reorg: `0x${string}`;
}

type Process = ChildProcessByStdio<Writable, Readable, Readable>;

/** Starts `stipend dev`; resolves when it can be used. It stops when this process ends, however that ends. */
export async function startStack(options: StackOptions = {}): Promise<Stack> {
  const binary = options.binary ?? process.env.STIPEND_BIN ?? "stipend";
  const ports = ["--port", String(options.port ?? 0), "--anvil-port", "0", "--issuer-port", "0"];
  const args = ["--json", "dev", ...ports, "--until-eof"];
  if (options.blockTime !== undefined) args.push("--block-time", String(options.blockTime));
  if (options.data !== undefined) args.push("--data", options.data);
  for (const amount of options.mandates ?? []) args.push("--mandate", amount);

  const child = spawn(binary, args, { stdio: ["pipe", "pipe", "pipe"] });
  const ready = await readiness(child, binary);
  // A test that forgets to stop it ends nevertheless, and takes it along.
  child.unref();
  for (const pipe of [child.stdin, child.stdout, child.stderr]) (pipe as Socket).unref();
  const where = ["--json", "--relayer", ready.relayer, "--rpc-url", ready.rpc_url];
  const { STIPEND_PRIVATE_KEY: _, ...inherited } = process.env;
  const env = { ...inherited, STIPEND_ISSUER_URL: ready.issuer, STIPEND_ISSUER_API_KEY: ready.issuer_key };
  const stipend = async (...more: string[]): Promise<unknown> => {
    const running = promisify(execFile)(binary, [...where, ...more], { env });
    running.child.stdin?.end();
    const { stdout } = await running;
    return JSON.parse(stdout.trim().split("\n").at(-1) ?? "");
  };
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
    testPayees: ready.test_payees,
    mandates: ready.mandates ?? [],
    stipend,
    async advance(duration) {
      await stipend("dev", "clock", `+${duration}`);
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
  test_payees: TestPayees;
  issuer: string;
  issuer_key: string;
  mandates?: string[];
}

/** What it prints when it can be used; an error with its own words if it ends before. */
async function readiness(child: Process, binary: string): Promise<Ready> {
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

async function end(child: Process): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.ref();
  const exited = once(child, "exit");
  // It stops when its input ends.
  child.stdin.end();
  const killer = setTimeout(() => child.kill("SIGKILL"), STOPS_WITHIN);
  const [, signal] = await exited;
  clearTimeout(killer);
  if (signal === "SIGKILL") throw new Error("stipend dev did not stop, and was killed");
}
