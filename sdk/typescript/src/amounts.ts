/** Amounts: decimal strings of USDC, such as "4.20", with at most six decimals. */

const DECIMALS = 6;
const AMOUNT = /^(0|[1-9]\d*)(?:\.(\d{1,6}))?$/;
const MAX_UNITS = 2n ** 64n - 1n;

/** "4.20" as 4200000n base units. A number is a TypeError, since floats lose money. */
export function toUnits(amount: string): bigint {
  if (typeof amount !== "string") {
    throw new TypeError(`an amount is a string, such as "4.20", and never a ${typeof amount}`);
  }
  const [, whole, fraction = ""] = AMOUNT.exec(amount) ?? [];
  const units = whole === undefined ? undefined : BigInt(whole + fraction.padEnd(DECIMALS, "0"));
  if (units === undefined || units > MAX_UNITS) {
    throw new RangeError(`${JSON.stringify(amount)} is not an amount, such as "4.20", with at most six decimals`);
  }
  return units;
}

/** 4200000n base units as "4.20". */
export function fromUnits(units: bigint): string {
  if (typeof units !== "bigint") {
    throw new TypeError(`base units are a bigint, such as 4200000n, and never a ${typeof units}`);
  }
  if (units < 0n || units > MAX_UNITS) {
    throw new RangeError(`${units} base units are not an amount`);
  }
  const digits = units.toString().padStart(DECIMALS + 1, "0");
  const fraction = digits.slice(-DECIMALS).replace(/0{1,4}$/, "");
  return `${digits.slice(0, -DECIMALS)}.${fraction}`;
}

/** The amount itself, if it is one. */
export function checked(amount: string): string {
  toUnits(amount);
  return amount;
}
