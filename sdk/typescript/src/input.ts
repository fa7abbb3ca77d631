/** Arguments, checked before anything is sent or a nonce is taken. What they are is not shown: one may be a key. */

import { keccak_256 } from "@noble/hashes/sha3.js";
import { bytesToHex, utf8ToBytes } from "@noble/hashes/utils.js";
import { InvalidInput } from "./errors.js";
import type { Id } from "./options.js";

const IDS = {
  mandate: { form: /^mand_[0-9a-f]{64}$/, looks: "mand_ and 64 hex digits" },
  request: { form: /^req_[0-9a-f]{32}$/, looks: "req_ and 32 hex digits" },
  payment: { form: /^pay_[0-9a-f]{32}$/, looks: "pay_ and 32 hex digits" },
  card: { form: /^card_[0-9a-f]{32}$/, looks: "card_ and 32 hex digits" },
};
const ADDRESS = /^0x(?:[0-9a-f]{40}|[0-9A-F]{40})$/;
const CHECKSUMMED = /^0x[0-9a-fA-F]{40}$/;
const HASH = /^0x[0-9a-fA-F]{64}$/;
/** HTTP drops spaces at the ends, which would make two keys one. */
const KEY = /^[!-~](?:[ -~]{0,253}[!-~])?$/;
const METADATA = { pairs: 16, name: 40, value: 500 };
/** The longest that a timer takes, in milliseconds. */
const LONGEST_TIMER = 2 ** 31 - 1;

/** The id of a mandate, a request, a payment or a card. */
export function id(argument: keyof typeof IDS, thing: Id): string {
  const text: unknown = typeof thing === "object" && thing !== null ? thing.id : thing;
  const { form, looks } = IDS[argument];
  if (typeof text !== "string" || !form.test(text)) {
    throw new InvalidInput(argument, `it takes an id, which is ${looks} in lower case, or what has one`);
  }
  return text;
}

/** An address: in one case, or with the right checksum (EIP-55); never zero. */
export function checkedPayee(payee: string): string {
  const isText = typeof payee === "string";
  if (!isText || !CHECKSUMMED.test(payee)) throw new InvalidInput("payee", "an address is 0x and 40 hex digits");
  if (!ADDRESS.test(payee) && payee !== checksummed(payee)) {
    throw new InvalidInput("payee", "the address has a wrong checksum: a digit or a letter's case is off");
  }
  if (/^0x0+$/.test(payee)) throw new InvalidInput("payee", "the zero address can't be paid");
  return payee;
}

function checksummed(address: string): string {
  const digits = address.slice(2).toLowerCase();
  const hash = bytesToHex(keccak_256(utf8ToBytes(digits)));
  return `0x${digits.replace(/[a-f]/g, (letter, at: number) => ((hash[at] ?? "0") >= "8" ? letter.toUpperCase() : letter))}`;
}

/** 32 bytes. */
export function checkedRef(ref: string): string {
  if (typeof ref !== "string" || !HASH.test(ref)) throw new InvalidInput("ref", "32 bytes are 0x and 64 hex digits");
  return ref;
}

/** What a call is told from others by, if it is given. */
export function checkedKey(key: string | undefined): string | undefined {
  if (key !== undefined && (typeof key !== "string" || !KEY.test(key))) {
    const detail = "a key is 1 to 255 printable ASCII characters, with no space at either end";
    throw new InvalidInput("idempotencyKey", detail);
  }
  return key;
}

/** A copy, with some pairs of our own. */
export function checkedMetadata(
  metadata: Record<string, string>,
  own: Record<string, string> = {},
): Record<string, string> {
  if (typeof metadata !== "object" || metadata === null || Array.isArray(metadata)) {
    throw new InvalidInput("metadata", "it is an object of strings");
  }
  const all = { ...metadata, ...own };
  const room = METADATA.pairs - Object.keys(own).length;
  if (Object.keys(all).length > METADATA.pairs)
    throw new InvalidInput("metadata", `it takes at most ${room} pairs here`);
  for (const [name, value] of Object.entries(all)) {
    if (typeof value !== "string") throw new InvalidInput("metadata", "its values are strings");
    if (name === "" || length(name) > METADATA.name || length(value) > METADATA.value) {
      const detail = `its names have 1 to ${METADATA.name} bytes, its values at most ${METADATA.value}`;
      throw new InvalidInput("metadata", detail);
    }
  }
  return all;
}

function length(text: string): number {
  return utf8ToBytes(text).length;
}

/** What is sent as it is: an object that JSON can hold. */
export function checkedBody<T extends object>(argument: string, body: T): T {
  if (typeof body !== "object" || body === null) throw new InvalidInput(argument, "it is an object");
  try {
    JSON.stringify(body);
  } catch (cause) {
    throw new InvalidInput(argument, "it can't be written as JSON", { cause });
  }
  return body;
}

/** A time that a timer takes, in milliseconds. */
export function checkedTimeout(timeout: number): number {
  if (!(typeof timeout === "number" && timeout > 0 && timeout <= LONGEST_TIMER)) {
    throw new InvalidInput("timeout", `it is a number of milliseconds, more than 0 and at most ${LONGEST_TIMER}`);
  }
  return timeout;
}
