import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

/** Below the package, so that "stipend" is what was built here. */
const here = new URL("examples/", import.meta.url);
const run = promisify(execFile);

for (const [name, document] of [
  ["readme", "../README.md"],
  ["guide", "../../../docs/guides/testing.md"],
] as const) {
  test(`what ${document} shows of startStack can be compiled, and passes`, { timeout: 120_000 }, async () => {
    const text = await readFile(new URL(document, import.meta.url), "utf8");
    const shown = [...text.matchAll(/^```ts\n(.*?)^```$/gms)].map(([, code = ""]) => code);
    const examples = shown.filter((code) => code.includes("startStack("));
    assert.equal(examples.length, 1);
    await mkdir(here, { recursive: true });
    const file = fileURLToPath(new URL(`${name}.ts`, here));
    await writeFile(file, examples[0] ?? "");
    const tsc = fileURLToPath(new URL("../node_modules/typescript/bin/tsc", import.meta.url));
    const options = ["--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,esnext.disposable,dom"];
    await run(process.execPath, [tsc, ...options, "--types", "node", "--skipLibCheck", file]).catch(({ stdout }) =>
      assert.fail(stdout),
    );
    // Its tests run under no other runner.
    const { NODE_TEST_CONTEXT: _, ...env } = process.env;
    await run(process.execPath, [file.replace(/ts$/, "js")], { env }).catch(({ stdout, stderr }) =>
      assert.fail(`${stdout}${stderr}`),
    );
  });
}
