/**
 * What goes over the wire, as the API's document says. Amounts are decimal strings of USDC, times are seconds since 1970.
 */

import type { components } from "./openapi.js";

type Schemas = components["schemas"];

/** The API takes amounts as numbers too, by their digits. JavaScript has lost digits by then. */
type WithoutNumbers<T, Amounts extends keyof T> = { [K in keyof T]: K extends Amounts ? Exclude<T[K], number> : T[K] };

export type AuditEntry = Schemas["AuditEntry"];
export type Card = Schemas["Card"];
export type CardState = Schemas["CardState"];
export type Code = Schemas["Code"];
export type Decision = Schemas["Decision"];
export type Explanation = Schemas["Explanation"];
export type Info = Schemas["Info"];
export type Intent = Schemas["Intent"];
export type Mandate = Schemas["Mandate"];
export type MandateRequest = Schemas["MandateRequest"];
export type MandateState = Schemas["MandateState"];
export type NewCard = WithoutNumbers<Schemas["NewCard"], "amount">;
export type NewMandateRequest = WithoutNumbers<Schemas["NewMandateRequest"], "amount" | "per_payment" | "window_cap">;
export type NewPayment = WithoutNumbers<Schemas["NewPayment"], "amount">;
export type Payment = Schemas["Payment"];
export type PaymentState = Schemas["PaymentState"];
export type Problem = Schemas["Problem"];
export type Terms = Schemas["Terms"];
export type Verdict = Schemas["Verdict"];

/** A page of a list. */
export interface Page<T> {
  data: T[];
  /** Give it as `cursor` for the next page (in the trail as `after`); absent: this is the last one. */
  next_cursor?: string;
}
