// Pays 12 times at once, and prints the ids. Arguments: relayer, key, mandate, payee.
import { Stipend } from "stipend";
import type { Hex } from "viem";
import { privateKeyToAccount } from "viem/accounts";

// Deadlines do not differ then, and two of these sign the very same messages.
Math.random = () => 0;
const [relayer = "", key, mandate = "", payee = ""] = process.argv.slice(2);
const stipend = new Stipend(relayer, privateKeyToAccount(key as Hex));
const pays = Array.from({ length: 12 }, () => stipend.pay(mandate, payee, "1.00", { wait: false }));
console.log(JSON.stringify((await Promise.all(pays)).map(({ id }) => id)));
