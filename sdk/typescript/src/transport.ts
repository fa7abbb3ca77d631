/** One request: signed, sent, and sent again while its outcome is unknown. */

import { InvalidInput, Refused, type Signed, StipendError, Unknown, Unreachable } from "./errors.js";
import type { Code, Problem } from "./types.js";

/** How often the same is sent while its outcome is unknown, or while the relayer asks to wait. */
const ATTEMPTS = 6;
const MAX_PAUSE = 10_000;
/** After these the outcome is unknown. */
const UNKNOWN = new Set<Code>(["unavailable", "timeout", "internal"]);
/** After these the same may pass a little later. A relayer that has just started takes no signature older than itself. */
const WAIT = new Set<Code>(["overloaded", "cannot_send", "rate_limited", "unauthenticated"]);
/** Refusals by a relayer that has looked for an earlier attempt and found none. */
const LOOKED = new Set<Code>(["nonce_taken", "idempotency_key_reused"]);
/** Errors of a connection that was never made, by Node's names. Browsers do not tell. */
const NOT_CONNECTED = new Set([
  "ECONNREFUSED",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "UND_ERR_CONNECT_TIMEOUT",
]);

export type Query = Record<string, string | number | undefined>;

export interface Call {
  method: "GET" | "POST";
  path: string;
  query?: Query;
  /** What is sent. */
  body?: object;
  /** What that is, if it carries a signature of its own. */
  signed?: Signed;
  idempotencyKey?: string | undefined;
  /** Signs each attempt; absent: it is not signed. */
  sign?: SignRequest;
  /** Whether it changes something. */
  changes?: boolean;
  signal?: AbortSignal | undefined;
}

export type SignRequest = (
  url: string,
  request: { method: string; headers: Record<string, string>; body?: string },
) => Promise<Headers>;

export interface Answer<T> {
  body: T;
  /** Whether it had been done before: by another call, or an earlier attempt of this one. */
  replayed: boolean;
}

type Outcome =
  | { is: "done"; status: number; body: unknown }
  | { is: "refused"; error: Refused }
  | { is: "unreachable"; error: Unreachable }
  | { is: "unknown"; why: unknown };

export class Transport {
  readonly #base: string;
  readonly #timeout: number;

  constructor(relayer: string | URL, timeout: number) {
    const url = address(relayer);
    this.#base = `${url.origin}${url.pathname.replace(/\/+$/, "")}`;
    this.#timeout = timeout;
  }

  /** Whether nobody on the way can read what it answers. */
  get isPrivate(): boolean {
    const { protocol, hostname } = new URL(this.#base);
    return protocol === "https:" || hostname === "localhost" || hostname === "[::1]" || /^127\.[\d.]+$/.test(hostname);
  }

  /** Sends until there is an answer that settles it: the same bytes each time, a request's own signature anew. */
  async ask<T>(call: Call): Promise<Answer<T>> {
    const { signed } = call;
    const body = call.body === undefined ? undefined : JSON.stringify(call.body);
    // One key for all attempts of what carries no signature of its own.
    const key = call.idempotencyKey ?? (call.changes && !signed ? randomKey() : undefined);
    let last: StipendError | undefined;
    let unknown = false;
    const undecided = (cause: unknown) =>
      new Unknown(`${call.path} has not said whether it was done: send the same again`, signed, { cause });
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      try {
        if (attempt > 0) await pause(delay(attempt, last), call.signal);
        call.signal?.throwIfAborted();
      } catch (aborted) {
        throw unknown && call.changes ? undecided(aborted) : aborted;
      }
      const outcome = await this.#attempt(call, body, key);
      if (outcome.is === "done") {
        return { body: outcome.body as T, replayed: outcome.status === 200 };
      }
      if (outcome.is === "unknown") {
        unknown = true;
        last = new Unreachable(`no relayer answers at ${this.#base}: ${message(outcome.why)}`, { cause: outcome.why });
        if (call.signal?.aborted) throw call.changes ? undecided(call.signal.reason) : call.signal.reason;
        continue;
      }
      last = outcome.error;
      if (outcome.is === "unreachable") continue;
      if (UNKNOWN.has(outcome.error.code)) {
        unknown = true;
      } else if (!WAIT.has(outcome.error.code)) {
        const looked = outcome.error.decision !== undefined || LOOKED.has(outcome.error.code);
        throw unknown && call.changes && !looked ? undecided(last) : last;
      }
    }
    throw unknown && call.changes ? undecided(last) : last;
  }

  async #attempt(call: Call, body: string | undefined, key: string | undefined): Promise<Outcome> {
    const request = await this.#signed(call, body, key);
    const limit = timeLimit(this.#timeout, call.signal);
    try {
      const response = await fetch(request.url, { ...request.init, signal: limit.signal });
      const text = await response.text();
      const parsed = parse(text);
      if (response.ok && isAnswer(call, parsed)) return { is: "done", status: response.status, body: parsed };
      const problem = response.ok ? undefined : asProblem(parsed);
      if (problem) return { is: "refused", error: new Refused(problem) };
      return { is: "unknown", why: new Error(`HTTP ${response.status}`) };
    } catch (error) {
      if (!NOT_CONNECTED.has(causeCode(error) ?? "")) return { is: "unknown", why: error };
      const unreachable = `no relayer answers at ${this.#base}: ${message(error)}`;
      return { is: "unreachable", error: new Unreachable(unreachable, { cause: error }) };
    } finally {
      limit.clear();
    }
  }

  /** One attempt's request. What its signer throws is thrown: nothing was sent. */
  async #signed(call: Call, body?: string, key?: string, accept = "application/json") {
    const url = `${this.#base}${call.path}${encode(call.query)}`;
    const headers: Record<string, string> = { accept };
    if (body !== undefined) headers["content-type"] = "application/json";
    if (key !== undefined) headers["idempotency-key"] = key;
    const request = { method: call.method, headers, ...(body === undefined ? {} : { body }) };
    const signed = await call.sign?.(url, request);
    // A signature is for one authority and path: it is not carried elsewhere.
    return { url, init: { ...request, headers: signed ?? headers, redirect: "manual" } satisfies RequestInit };
  }

  /** The data of server-sent events, until the connection ends, breaks or is silent: then a `Broken`. */
  async *stream(call: Call): AsyncGenerator<string, void, undefined> {
    const request = await this.#signed(call, undefined, undefined, "text/event-stream");
    const limit = timeLimit(this.#timeout, call.signal);
    try {
      const response = await fetch(request.url, { ...request.init, signal: limit.signal });
      if (!response.ok || !response.body) {
        const problem = asProblem(parse(await response.text()));
        throw problem ? new Refused(problem) : new Broken(`HTTP ${response.status}`);
      }
      const reader = response.body.getReader();
      const decoder = new TextDecoder();
      const events = new EventParser();
      while (true) {
        limit.restart();
        const { done, value } = await reader.read();
        if (done) throw new Broken("the stream has ended");
        yield* events.push(decoder.decode(value, { stream: true }));
      }
    } catch (error) {
      if (error instanceof Refused || error instanceof Broken) throw error;
      throw new Broken("the connection is broken", { cause: error });
    } finally {
      limit.abort();
    }
  }
}

function address(relayer: string | URL): URL {
  try {
    const url = new URL(relayer);
    if (url.protocol === "http:" || url.protocol === "https:") return url;
  } catch {
    // It is no address at all.
  }
  throw new InvalidInput("relayer", "it is an http or https address");
}

/** The connection is gone, which says nothing about the relayer. */
export class Broken extends StipendError {}

/** The data of events, from text that is cut anywhere. An event that has not ended does not count. */
export class EventParser {
  #rest = "";
  #data: string[] = [];

  *push(text: string): Generator<string, void, undefined> {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    for (const line of lines.map((line) => line.replace(/\r$/, ""))) {
      if (line.startsWith("data:")) {
        this.#data.push(line.slice("data:".length).replace(/^ /, ""));
      } else if (line === "" && this.#data.length > 0) {
        yield this.#data.splice(0).join("\n");
      }
    }
  }
}

/** Waits, unless the signal ends it: then its reason is thrown. */
export function pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", abort, { once: true });
    if (signal?.aborted) abort();
  });
}

/** Ends with the caller's signal, or after a time. */
function timeLimit(milliseconds: number, signal?: AbortSignal) {
  const controller = new AbortController();
  const abort = () => controller.abort(signal?.reason);
  const expire = () => controller.abort(new DOMException(`no answer within ${milliseconds} ms`, "TimeoutError"));
  let timer = setTimeout(expire, milliseconds);
  const clear = () => {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  };
  if (signal?.aborted) abort();
  signal?.addEventListener("abort", abort, { once: true });
  return {
    signal: controller.signal,
    clear,
    restart() {
      clearTimeout(timer);
      timer = setTimeout(expire, milliseconds);
    },
    abort() {
      clear();
      controller.abort();
    },
  };
}

function delay(attempt: number, last: StipendError | undefined): number {
  const asked = last instanceof Refused ? (last.retryAfter ?? 0) * 1_000 : 0;
  return Math.min(MAX_PAUSE, Math.max(asked, 100 * 2 ** attempt));
}

function encode(query: Query = {}): string {
  const given = Object.entries(query).flatMap(([name, value]) => (value === undefined ? [] : [[name, String(value)]]));
  return given.length === 0 ? "" : `?${new URLSearchParams(given)}`;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Whether a success is the relayer's word: what is on the way answers for it, too. What was signed comes back as an object. */
function isAnswer({ signed }: Call, body: unknown): boolean {
  if (!signed) return body !== undefined;
  return typeof body === "object" && body !== null && "id" in body && "state" in body;
}

/** A problem of the relayer's: other servers have codes, too, and know nothing of what was done. */
function asProblem(body: unknown): Problem | undefined {
  const isProblem = typeof body === "object" && body !== null && "code" in body && "type" in body;
  return isProblem && body.type === `urn:stipend:problem:${body.code}` ? (body as Problem) : undefined;
}

function causeCode(error: unknown): string | undefined {
  const cause: unknown = error instanceof Error ? error.cause : undefined;
  return cause instanceof Error && "code" in cause ? String(cause.code) : undefined;
}

function message(error: unknown): string {
  const cause: unknown = error instanceof Error ? (error.cause ?? error) : error;
  return cause instanceof Error ? cause.message : String(cause);
}

/** Told from all others. */
export function randomKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
