/** Amounts: decimal strings of USDC, such as "4.20", with at most six decimals. */

import { InvalidInput } from "./errors.js";

const DECIMALS = 6;
const AMOUNT = /^(0|[1-9]\d*)(?:\.(\d{1,6}))?$/;
const MAX_UNITS = 2n ** 64n - 1n;

/** "4.20" as 4200000n base units. A number is refused, since floats lose money. */
export function toUnits(amount: string): bigint {
  return units("amount", amount);
}

/** The same of the argument of this name. */
function units(argument: string, amount: string): bigint {
  if (typeof amount !== "string") {
    throw new InvalidInput(argument, `an amount is a string, such as "4.20", and never a ${typeof amount}`);
  }
  const [, whole, fraction = ""] = AMOUNT.exec(amount) ?? [];
  const found = whole === undefined ? undefined : BigInt(whole + fraction.padEnd(DECIMALS, "0"));
  if (found === undefined || found > MAX_UNITS) {
    const detail = `${JSON.stringify(amount)} is not an amount, such as "4.20", with at most six decimals`;
    throw new InvalidInput(argument, detail);
  }
  return found;
}

/** 4200000n base units as "4.20". */
export function fromUnits(units: bigint): string {
  if (typeof units !== "bigint") {
    throw new InvalidInput("units", `base units are a bigint, such as 4200000n, and never a ${typeof units}`);
  }
  if (units < 0n || units > MAX_UNITS) {
    throw new InvalidInput("units", `${units} base units are not an amount`);
  }
  const digits = units.toString().padStart(DECIMALS + 1, "0");
  const fraction = digits.slice(-DECIMALS).replace(/0{1,4}$/, "");
  return `${digits.slice(0, -DECIMALS)}.${fraction}`;
}

/** The amount itself, if it is one. */
export function checkedAmount(amount: string, argument = "amount"): string {
  units(argument, amount);
  return amount;
}
