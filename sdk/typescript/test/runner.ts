// Starts a stack, prints where it is, and never stops.
import { startStack } from "stipend/testing";

const { relayer, rpcUrl } = await startStack();
console.log(JSON.stringify([relayer, rpcUrl]));
setInterval(() => {}, 60_000);
