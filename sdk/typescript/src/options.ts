/** What calls take beside what they are about. */

import type { PaymentState } from "./types.js";

/** An id, or what has it. */
export type Id = string | { readonly id: string };

export interface CallOptions {
  /** Ends the call; what it throws is the signal's reason, or `Unknown` if something may have been done. */
  signal?: AbortSignal | undefined;
}

export interface WaitOptions extends CallOptions {
  /** How long to wait, in milliseconds. */
  timeout?: number | undefined;
}

export interface SpendOptions extends CallOptions {
  /** 32 bytes, as 0x and hex, that commit to what is paid for. */
  ref?: string | undefined;
  /** All calls with one key are one payment. 1 to 255 printable ASCII characters, with no space at either end. */
  idempotencyKey?: string | undefined;
  /** At most 15 pairs of your own: names of 1 to 40 bytes, values up to 500. */
  metadata?: Record<string, string> | undefined;
}

export interface PayOptions extends SpendOptions {
  /** What to wait for; false: for nothing. Mined if absent. */
  wait?: "mined" | "settled" | false | undefined;
  /** How long to wait, in milliseconds: 60,000 if absent. */
  timeout?: number | undefined;
}

export interface PageOptions extends CallOptions {
  /** 1 to 100. */
  limit?: number | undefined;
  /** The `next_cursor` of the page before. */
  cursor?: string | undefined;
}

export interface PaymentsOptions extends PageOptions {
  mandate?: Id | undefined;
  state?: PaymentState | undefined;
  ref?: string | undefined;
}

export interface AuditOptions extends CallOptions {
  mandate?: Id | undefined;
  /** From behind this entry on. */
  after?: number | undefined;
  /** 1 to 100. */
  limit?: number | undefined;
}

export interface EventsOptions extends CallOptions {
  mandate?: Id | undefined;
  /** From behind this entry on; 0: from the beginning; absent: from now on. */
  after?: number | undefined;
}
