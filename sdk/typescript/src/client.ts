/** The relayer, as an agent uses it. */

import { checkedAmount, toUnits } from "./amounts.js";
import {
  InvalidInput,
  Refused,
  type Signed,
  type SignedCard,
  type SignedPayment,
  StipendError,
  Unknown,
  Unreachable,
} from "./errors.js";
import { checkedBody, checkedKey, checkedMetadata, checkedPayee, checkedRef, checkedTimeout, id } from "./input.js";
import { Nonces } from "./nonces.js";
import type {
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
import { CardSecrets } from "./secrets.js";
import { type Hex, type Signer, signedHeaders, spendingData } from "./signing.js";
import { type Answer, Broken, type Call, pause, type Query, randomKey, Transport } from "./transport.js";
import type {
  AuditEntry,
  Card,
  CardState,
  Code,
  Explanation,
  Info,
  Mandate,
  MandateRequest,
  NewCard,
  NewMandateRequest,
  NewPayment,
  Page,
  Payment,
  PaymentState,
} from "./types.js";

/** How long signatures of payments and holds live, in seconds, and by how much they differ: two processes that sign at
 * once must not sign the very same message. */
const PAYMENT_LIFETIME = 3_600;
const HOLD_LIFETIME = 600;
const SPREAD = 60;
/** How far a deadline keeps from the relayer's limits, in seconds. */
const DEADLINE_MARGIN = 30;
/** How much longer than asked a hold lasts, in seconds: the relayer counts from when it is asked. */
const CAPTURE_MARGIN = 300;
/** In the metadata of what has no idempotency key: which call it is of. Browsers and proxies resend by themselves, so that
 * a call's first answer may say that it is known already; but so it may if another caller has signed the very same. */
const CALL = "stipend.call";
/** How often a payment is signed anew because another one took its nonce. */
const RENEWALS = 200;
/** Refusals that prove that the nonce is another's. */
const NONCE_GONE = new Set<Code>(["nonce_taken", "nonce_retired", "nonce_used"]);
/** Refusals of what was signed for a time that has passed on chain: its clock is ahead of what was known of it. */
const LATE = new Set<Code>(["deadline_passed", "deadline_too_soon", "capture_by_too_soon"]);
/** How often a relayer that takes no signature is asked for events. */
const EVENT_ATTEMPTS = 6;
/** How long the relayer waits with an answer, in milliseconds. */
const LONG_POLL = 25_000;
const EVENT_PAUSE = { min: 100, max: 10_000 };
const REACHED = {
  mined: new Set<PaymentState>(["mined", "settled", "failed"]),
  settled: new Set<PaymentState>(["settled", "failed"]),
};
const ZERO = `0x${"00".repeat(32)}`;

type Unsigned = Omit<NewPayment, "signature"> | Omit<NewCard, "signature">;
/** What is to be signed, by what the relayer says of itself and of the mandate. */
type Content = (info: Info, mandate: Mandate, nonce: number) => { body: Unsigned; payee: string };

/** A relayer, and the agent that uses it. All calls throw `StipendError`s, and the reason of an aborted signal. */
export class Stipend {
  readonly #transport: Transport;
  readonly #signer: Signer;
  readonly #nonces = new Map<string, Nonces>();
  #identity: Info | undefined;

  /** `timeout` is how long one answer may take, in milliseconds: more than the 25 s that the relayer waits at most. */
  constructor(relayer: string | URL, signer: Signer, { timeout = 35_000 }: { timeout?: number } = {}) {
    this.#transport = new Transport(relayer, checkedTimeout(timeout));
    const signs = [signer?.signMessage, signer?.signTypedData].every((sign) => typeof sign === "function");
    if (!signs || typeof signer.address !== "string") {
      throw new InvalidInput("signer", "it has an address, signMessage and signTypedData, as an account of viem has");
    }
    this.#signer = signer;
  }

  /** The address that signs. */
  get address(): Hex {
    return this.#signer.address;
  }

  /** What the relayer serves: chain, contract, limits. */
  async info({ signal }: CallOptions = {}): Promise<Info> {
    return (await this.#transport.ask<Info>({ method: "GET", path: "/v1/info", signal })).body;
  }

  /** Asks an operator for a mandate. With one key, all calls are one request. */
  async requestMandate(
    asked: NewMandateRequest,
    { idempotencyKey, signal }: CallOptions & { idempotencyKey?: string } = {},
  ): Promise<MandateRequest> {
    for (const name of ["amount", "per_payment", "window_cap"] as const) {
      const amount = asked?.[name];
      if (amount !== undefined && amount !== null) checkedAmount(amount, name);
    }
    const body = checkedBody("asked", asked);
    return this.#change("/v1/mandate-requests", { body, idempotencyKey: checkedKey(idempotencyKey), signal });
  }

  async mandateRequest(request: Id, options: CallOptions = {}): Promise<MandateRequest> {
    return this.#get(`/v1/mandate-requests/${id("request", request)}`, {}, options);
  }

  /** The mandate, once an operator has approved the request and it is open; a `TimeoutError` after `timeout`. */
  async waitForMandate(request: Id, { timeout = 600_000, signal }: WaitOptions = {}): Promise<Mandate> {
    const end = Date.now() + timeout;
    while (true) {
      const asked = await this.mandateRequest(request, { signal });
      if (asked.mandate) {
        const mandate = await this.mandate(asked.mandate, { signal });
        if (mandate.state === "open") return mandate;
      }
      if (Date.now() >= end) {
        const approve = `stipend mandate approve ${asked.id}`;
        throw new DOMException(`no operator has approved ${asked.id}: ${approve}`, "TimeoutError");
      }
      await pause(1_000, signal);
    }
  }

  /** A page of mandates, newest first. */
  async mandates({ signal, limit = 100, cursor }: PageOptions = {}): Promise<Page<Mandate>> {
    return this.#get("/v1/mandates", { limit, cursor }, { signal });
  }

  async mandate(mandate: Id, options: CallOptions = {}): Promise<Mandate> {
    return this.#get(`/v1/mandates/${id("mandate", mandate)}`, {}, options);
  }

  /**
   * Pays. Once it is accepted it no longer fails: after `timeout`, or when the signal ends it, the payment is returned as
   * it is then. Throws `Refused`, or `Unknown` with what was signed if nobody says what became of it.
   */
  async pay(mandate: Id, payee: string, amount: string, options: PayOptions = {}): Promise<Payment> {
    const { wait = "mined", timeout = 60_000, signal } = options;
    if (wait !== false) checkedState("wait", wait);
    const content = { ...spendContent(mandate, amount, options), payee: checkedPayee(payee) };
    const payment = await this.#spend<Payment>(content.mandate, options, (info, known, nonce) => {
      return { body: { ...content, nonce, deadline: deadline(PAYMENT_LIFETIME, info, known) }, payee };
    });
    if (wait === false) return payment;
    try {
      return await this.#reached(payment, wait, timeout, signal);
    } catch {
      return payment;
    }
  }

  /** Sends what was signed before, as it is and with its idempotency key: it is never done twice. */
  async send(signed: SignedPayment, options?: CallOptions): Promise<Payment>;
  async send(signed: SignedCard, options?: CallOptions): Promise<Card>;
  async send(signed: Signed, options?: CallOptions): Promise<Payment | Card>;
  async send(signed: Signed, { signal }: CallOptions = {}): Promise<Payment | Card> {
    checkedBody("signed", signed);
    checkedBody("signed", "card" in signed ? signed.card : signed.payment);
    checkedKey(signed.idempotencyKey);
    return (await this.#sendSigned<Payment | Card>(signed, signal)).body;
  }

  async payment(payment: Id, options: CallOptions = {}): Promise<Payment> {
    return this.#get(`/v1/payments/${id("payment", payment)}`, {}, options);
  }

  /** A page of payments, newest first. */
  async payments({ signal, mandate, ...query }: PaymentsOptions = {}): Promise<Page<Payment>> {
    return this.#get("/v1/payments", { ...filter(mandate), ...query }, { signal });
  }

  /** The payment, once it is mined or settled, or can't be any more; or as it is after `timeout`. */
  async waitFor(
    payment: Id,
    state: "mined" | "settled" = "settled",
    { timeout = 600_000, signal }: WaitOptions = {},
  ): Promise<Payment> {
    checkedState("state", state);
    return this.#reached(await this.payment(payment, { signal }), state, timeout, signal);
  }

  /** What would become of a payment now, or of a card if there is no payee. Nothing is reserved. */
  async explain(mandate: Id, amount: string, payee?: string, { signal }: CallOptions = {}): Promise<Explanation> {
    const content = { mandate: id("mandate", mandate), amount: checkedAmount(amount) };
    const body = payee === undefined ? content : { ...content, payee: checkedPayee(payee) };
    return (await this.#ask<Explanation>({ method: "POST", path: "/v1/explain", body, signal })).body;
  }

  /** Asks for a card over `amount`, in whole cents. */
  async createCard(mandate: Id, amount: string, options: SpendOptions = {}): Promise<Card> {
    const content = spendContent(mandate, amount, options);
    const { cards } = await this.#known(options.signal);
    if (!cards) {
      const detail = "this relayer has no card issuer";
      throw new Refused({ code: "cards_not_offered", status: 501, detail, hint: "pay on chain instead" });
    }
    return this.#spend<Card>(content.mandate, options, (info, known, nonce) => {
      const lasts = cards.ttl + cards.clearing_reserve + CAPTURE_MARGIN + below(SPREAD);
      const capture_by = Math.min(now(info) + lasts, known.terms.capture_end);
      const body = { ...content, nonce, deadline: deadline(HOLD_LIFETIME, info, known), capture_by };
      return { body, payee: cards.treasury };
    });
  }

  async card(card: Id, options: CallOptions = {}): Promise<Card> {
    return this.#get(`/v1/cards/${id("card", card)}`, {}, options);
  }

  /** The card, once it is in this state or closed or failed; or as it is after `timeout`. */
  async waitForCard(
    card: Id,
    state: CardState = "active",
    { timeout = 120_000, signal }: WaitOptions = {},
  ): Promise<Card> {
    const end = Date.now() + timeout;
    while (true) {
      const seen = await this.card(card, { signal });
      if ([state, "closed", "failed"].includes(seen.state) || Date.now() >= end) return seen;
      await pause(500, signal);
    }
  }

  /** The number, for a merchant's form. Each look is in the trail. Only over https, or on this machine. */
  async cardSecrets(card: Id, options: CallOptions = {}): Promise<CardSecrets> {
    if (!this.#transport.isPrivate) {
      throw new StipendError("a card's number is not sent in the clear: use https");
    }
    return new CardSecrets(await this.#get(`/v1/cards/${id("card", card)}/secrets`, {}, options));
  }

  /** Ends a card that was not charged. */
  async closeCard(card: Id, { signal }: CallOptions = {}): Promise<Card> {
    return this.#change(`/v1/cards/${id("card", card)}/close`, { signal });
  }

  /** A page of the trail, oldest first. */
  async audit({ signal, mandate, after = 0, limit = 100 }: AuditOptions = {}): Promise<Page<AuditEntry>> {
    return this.#get("/v1/audit", { ...filter(mandate), after, limit }, { signal });
  }

  /**
   * The trail as it grows, until its consumer ends it. A broken connection, or a relayer that does not answer now, goes on
   * where it was.
   */
  async *events({ mandate, after, signal }: EventsOptions = {}): AsyncGenerator<AuditEntry, void, undefined> {
    const ours = filter(mandate);
    // From a fixed place on, so that nothing is missed if the first connection breaks.
    let place = after ?? (await this.#lastEntry(ours, signal));
    let delay = EVENT_PAUSE.min;
    let refusals = 0;
    while (true) {
      try {
        const query = { ...ours, after: place };
        const sign = await this.#signature(signal);
        for await (const data of this.#transport.stream({ method: "GET", path: "/v1/events", query, sign, signal })) {
          const entry: AuditEntry = JSON.parse(data);
          place = entry.seq;
          delay = EVENT_PAUSE.min;
          refusals = 0;
          yield entry;
        }
      } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof Refused) {
          refusals += 1;
          // A relayer that has just started takes no signature older than itself.
          const isTransient = error.status >= 500 || error.status === 429 || error.status === 408;
          if (!isTransient && (error.status !== 401 || refusals >= EVENT_ATTEMPTS)) throw error;
        } else if (!(error instanceof Broken || error instanceof Unreachable)) {
          throw error;
        }
      }
      await pause(delay, signal);
      delay = Math.min(EVENT_PAUSE.max, delay * 2);
    }
  }

  async #lastEntry(ours: Query, signal: AbortSignal | undefined): Promise<number> {
    const query = { ...ours, latest: "true", limit: 1 };
    const { data } = await this.#get<Page<AuditEntry>>("/v1/audit", query, { signal });
    return data.at(-1)?.seq ?? 0;
  }

  async #reached(
    payment: Payment,
    state: "mined" | "settled",
    timeout: number,
    signal: AbortSignal | undefined,
  ): Promise<Payment> {
    const end = Date.now() + timeout;
    let seen = payment;
    while (!REACHED[state].has(seen.state) && Date.now() < end) {
      const wait = end - Date.now() > LONG_POLL ? state : undefined;
      seen = await this.#get(`/v1/payments/${seen.id}`, { wait }, { signal });
      if (!REACHED[state].has(seen.state)) await pause(200, signal);
    }
    return seen;
  }

  /** Signs with the next free nonce, and sends. What another caller took, or was signed too late, is signed anew. */
  async #spend<Made extends Payment | Card>(
    mandate: string,
    { idempotencyKey, signal }: SpendOptions,
    content: Content,
  ): Promise<Made> {
    const nonces = this.#nonces.get(mandate) ?? new Nonces();
    this.#nonces.set(mandate, nonces);
    let info = await this.#known(signal);
    let hasAskedTime = false;
    let last: Refused | undefined;
    for (let renewal = 0; renewal < RENEWALS; renewal++) {
      const known = await this.mandate(mandate, { signal });
      const nonce = nonces.take(known.next_nonce);
      try {
        const { body, payee } = content(info, known, nonce);
        const signed = await this.#sign(info, body, payee, idempotencyKey);
        const { body: made, replayed } = await this.#sendSigned<Made>(signed, signal);
        if (made.nonce !== nonce) nonces.release(nonce);
        if (idempotencyKey !== undefined || !replayed || made.metadata?.[CALL] === body.metadata?.[CALL]) return made;
      } catch (error) {
        // Whatever else failed, nothing of it was done, so the next one uses its nonce.
        if (error instanceof Unknown) throw error;
        if (!(error instanceof Refused)) {
          nonces.release(nonce);
          throw error;
        }
        last = error;
        if (NONCE_GONE.has(error.code)) {
          nonces.forgetReleased();
          continue;
        }
        nonces.release(nonce);
        if (LATE.has(error.code) && !hasAskedTime) {
          hasAskedTime = true;
          info = await this.info({ signal });
          this.#identity = info;
          continue;
        }
        if (error.code !== "nonce_too_high") throw error;
        // Too many of ours are under way at once.
        await pause(200, signal);
      }
    }
    throw last ?? new StipendError("others take every nonce: try again later");
  }

  async #sign(info: Info, body: Unsigned, payee: string, idempotencyKey: string | undefined): Promise<Signed> {
    const data = spendingData(info.chain_id, info.escrow as Hex, {
      mandate: body.mandate.replace(/^mand_/, "0x") as Hex,
      // In one case, which every signer takes.
      payee: payee.toLowerCase() as Hex,
      amount: toUnits(body.amount),
      nonce: body.nonce,
      deadline: body.deadline,
      ...("capture_by" in body ? { captureBy: body.capture_by } : {}),
      ref: (body.ref ?? ZERO) as Hex,
    });
    const signature = await this.#signer.signTypedData(data);
    const key = idempotencyKey === undefined ? {} : { idempotencyKey };
    return "capture_by" in body
      ? { card: { ...body, signature }, ...key }
      : { payment: { ...body, signature }, ...key };
  }

  async #sendSigned<T>(signed: Signed, signal: AbortSignal | undefined): Promise<Answer<T>> {
    const [path, body] = "card" in signed ? ["/v1/cards", signed.card] : ["/v1/payments", signed.payment];
    const { idempotencyKey } = signed;
    return this.#transport.ask({ method: "POST", path, body, signed, idempotencyKey, changes: true, signal });
  }

  async #get<T>(path: string, query: Query, { signal }: CallOptions): Promise<T> {
    return (await this.#ask<T>({ method: "GET", path, query, signal })).body;
  }

  async #change<T>(path: string, call: Partial<Call>): Promise<T> {
    return (await this.#ask<T>({ ...call, method: "POST", path, changes: true })).body;
  }

  async #ask<T>(call: Call): Promise<Answer<T>> {
    return this.#transport.ask({ ...call, sign: await this.#signature(call.signal) });
  }

  async #signature(signal: AbortSignal | undefined): Promise<NonNullable<Call["sign"]>> {
    const { chain_id } = await this.#known(signal);
    return (url, request) => signedHeaders(this.#signer, chain_id, url, request);
  }

  /** What never changes while a relayer runs. */
  async #known(signal?: AbortSignal): Promise<Info> {
    this.#identity ??= await this.info({ signal });
    return this.#identity;
  }
}

/** What payments and holds have in common. */
function spendContent(mandate: Id, amount: string, { ref = ZERO, metadata = {}, idempotencyKey }: SpendOptions) {
  const call = checkedKey(idempotencyKey) === undefined ? { [CALL]: randomKey() } : {};
  return {
    mandate: id("mandate", mandate),
    amount: checkedAmount(amount),
    ref: checkedRef(ref),
    metadata: checkedMetadata(metadata, call),
  };
}

function filter(mandate: Id | undefined): Query {
  return mandate === undefined ? {} : { mandate: id("mandate", mandate) };
}

function checkedState(argument: string, state: "mined" | "settled"): void {
  if (state !== "mined" && state !== "settled") throw new InvalidInput(argument, 'it is "mined" or "settled"');
}

/** After `lifetime`, but within the host's limits and not past the expiry. */
function deadline(lifetime: number, info: Info, { terms }: Mandate): number {
  const longest = Math.min(lifetime - below(SPREAD), info.deadline_max);
  return Math.min(now(info) + Math.max(longest, info.deadline_min + DEADLINE_MARGIN), terms.expiry);
}

/** What deadlines are measured against, as far as it is known: the later of the chain's time and this machine's. */
function now({ head }: Info): number {
  return Math.max(Math.floor(Date.now() / 1_000), head.time);
}

function below(bound: number): number {
  return Math.floor(Math.random() * bound);
}
