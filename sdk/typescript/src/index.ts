/** Let an agent spend USDC within a mandate that a person approved. */

export { fromUnits, toUnits } from "./amounts.js";
export { Stipend } from "./client.js";
export {
  InvalidInput,
  Refused,
  type Signed,
  type SignedCard,
  type SignedPayment,
  StipendError,
  Unknown,
  Unreachable,
} from "./errors.js";
export type {
  AuditOptions,
  CallOptions,
  EventsOptions,
  Id,
  PageOptions,
  PaymentsOptions,
  PayOptions,
  SpendOptions,
  WaitOptions,
} from "./options.js";
export { CardSecrets } from "./secrets.js";
export type { Hex, Signer, SpendingData } from "./signing.js";
export type * from "./types.js";
