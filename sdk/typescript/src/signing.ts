/** Signatures: of requests (ERC-8128, RFC 9421 and 9530), and of payments and holds (EIP-712). */

import { signRequest } from "@slicekit/erc8128";

export type Hex = `0x${string}`;

/** Signs with the agent's key. An account of viem is one; any other signer of EIP-712 is easily made one. */
export interface Signer {
  readonly address: Hex;
  /** EIP-191: the signature over these bytes. */
  signMessage(args: { message: { raw: Uint8Array } }): Promise<Hex>;
  /** EIP-712: the signature, `r ‖ s ‖ v`. */
  signTypedData(data: SpendingData): Promise<Hex>;
}

const SPENDING = [
  { name: "mandate", type: "bytes32" },
  { name: "payee", type: "address" },
  { name: "amount", type: "uint64" },
  { name: "nonce", type: "uint32" },
  { name: "deadline", type: "uint40" },
] as const;
const REF = { name: "ref", type: "bytes32" } as const;
const TYPES = {
  Spend: [...SPENDING, REF],
  Hold: [...SPENDING, { name: "captureBy", type: "uint40" }, REF],
} as const;

/** A payment (`Spend`) or a card's hold (`Hold`), which has a `captureBy`. `amount` is in base units. */
export interface Spending {
  mandate: Hex;
  payee: Hex;
  amount: bigint;
  nonce: number;
  deadline: number;
  captureBy?: number;
  ref: Hex;
}

/** The message, its types and its domain. Amounts are bigints. */
export interface SpendingData {
  types: Record<string, { name: string; type: string }[]>;
  primaryType: string;
  domain: { name: string; version: string; chainId: number; verifyingContract: Hex };
  message: Record<string, unknown>;
}

/** A payment or a hold as EIP-712 has it. */
export function spendingData(chainId: number, escrow: Hex, message: Spending): SpendingData {
  const primaryType = message.captureBy === undefined ? "Spend" : "Hold";
  return {
    types: { [primaryType]: [...TYPES[primaryType]] },
    primaryType,
    domain: { name: "MandateEscrow", version: "1", chainId, verifyingContract: escrow },
    message: { ...message },
  };
}

/** These headers and those that sign a request, for here and now, once. */
export async function signedHeaders(
  signer: Signer,
  chainId: number,
  url: string,
  request: { method: string; headers: Record<string, string>; body?: string },
): Promise<Headers> {
  const { address } = signer;
  const signMessage = (raw: Uint8Array) => signer.signMessage({ message: { raw } });
  // Named, since not every browser lets the library see that there is a body.
  const options = request.body === undefined ? {} : { components: ["content-digest"] };
  return (await signRequest(url, request, { address, chainId, signMessage }, options)).headers;
}
