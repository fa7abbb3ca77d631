/** Why a call failed. The kinds differ in what is known about its effect. */

import type { Code, Decision, NewCard, NewPayment, Problem } from "./types.js";

/**
 * What carries the agent's own signature: the same bytes are never done twice. With the key that it was sent with: without
 * it, another payment with that key would be a second one. Plain data, to be stored as JSON.
 */
export type Signed = SignedPayment | SignedCard;

export interface SignedPayment {
  payment: NewPayment;
  idempotencyKey?: string | undefined;
}

export interface SignedCard {
  card: NewCard;
  idempotencyKey?: string | undefined;
}

/** Any failure of a call. `moneyMayHaveMoved` is what to look at first: if it is false, nothing was paid. */
export class StipendError extends Error {
  override readonly name: string = "StipendError";
  readonly moneyMayHaveMoved: boolean = false;
}

/** An argument is malformed: nothing was sent. */
export class InvalidInput extends StipendError {
  override readonly name = "InvalidInput";
  /** Which one, such as "payee". */
  readonly argument: string;

  constructor(argument: string, detail: string, options?: ErrorOptions) {
    super(`${argument}: ${detail}`, options);
    this.argument = argument;
  }
}

/** The relayer refused, and nothing was done. */
export class Refused extends StipendError {
  override readonly name = "Refused";
  /** Stable; see the API's list of codes. */
  readonly code: Code;
  /** The HTTP status. */
  readonly status: number;
  readonly detail: string;
  /** What to do. */
  readonly hint: string;
  /** Seconds after which to try again. */
  readonly retryAfter: number | undefined;
  /** Every rule's verdict, where the policy refused. */
  readonly decision: Decision | undefined;

  constructor(problem: Pick<Problem, "code" | "status" | "detail" | "hint"> & Partial<Problem>) {
    super(`${problem.code}: ${problem.detail}`);
    this.code = problem.code;
    this.status = problem.status;
    this.detail = problem.detail;
    this.hint = problem.hint;
    this.retryAfter = problem.retry_after ?? undefined;
    this.decision = problem.decision ?? undefined;
  }
}

/** No relayer answers there, and nothing was done. */
export class Unreachable extends StipendError {
  override readonly name = "Unreachable";
}

/** No answer said whether it was done. */
export class Unknown extends StipendError {
  override readonly name = "Unknown";
  /** What was sent, if it carries a signature of its own: `send` it again, and never sign it anew. */
  readonly signed: Signed | undefined;
  override readonly moneyMayHaveMoved: boolean;

  constructor(message: string, signed: Signed | undefined, options?: ErrorOptions) {
    super(message, options);
    this.signed = signed;
    this.moneyMayHaveMoved = signed !== undefined;
  }
}
