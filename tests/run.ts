// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- its results go to stdout

/**
 * Runs the test files, those that need nothing but Deno or those that the arguments name, as many at a time as there
 * are cores. An argument is a file, or a folder of them.
 *
 * Each has a process of its own: `deno test --parallel` would load the native binding into several isolates of one
 * process, which ends in a segmentation fault now and then when one of them goes away.
 */
import { SYSTEM_TESTS } from "./support/required_programs.ts";

const FILE_TIMEOUT_S = 600;

/** Takes longer than any other, and so begins first. */
const LONGEST = "tests/programs/programs_test.ts";

/** Run once more without the calls of Linux for many datagrams, as on other systems. */
const PORTABLE = [
  "quic/hostile_network",
  "quic/connection",
  "quic/stream",
  "quic/uni",
  "qrht/tunnel",
  "quic/udp",
]
  .map((name) => `tests/${name}_test.ts`);
const PROGRAMS = ["server.ts", "agent.ts", "passthrough.ts"];
/** Have tasks of their own, or no tests. */
const OTHER_FOLDERS = [...Object.keys(SYSTEM_TESTS), "chaos", "support"];
const WITHOUT_LIBC = "--deny-ffi=libc.so.6";

/** The examples in the documentation of lib/. */
const EXAMPLES: Run = { file: "lib/", flags: ["--doc"] };

const folder = new URL("./", import.meta.url);
const permissions = ["net", "read", "write", "run", "ffi", "env", "sys"];
const flags = [
  "--config=tests/deno.json",
  "--no-prompt",
  "--no-check",
  ...permissions.map((name) => `--allow-${name}`),
];

interface Run {
  readonly file: string;
  readonly flags: readonly string[];
}

interface Outcome {
  readonly ok: boolean;
  readonly passed: number;
  readonly failed: number;
  /** The names of those that are not run on this machine. */
  readonly ignored: readonly string[];
}

function runs(): Run[] {
  const files = filesToRun().flatMap((file) => {
    const flagSets = PORTABLE.includes(file) ? [[], [WITHOUT_LIBC]] : [[]];
    return flagSets.map((flags) => ({ file, flags }));
  });
  return Deno.args.length > 0 ? files : [...files, EXAMPLES];
}

function filesToRun(): string[] {
  if (Deno.args.length > 0) {
    return Deno.args.flatMap((path) => path.endsWith(".ts") ? [path] : testsBelow(path));
  }
  return testsBelow("tests")
    .sort((a, b) => Number(b === LONGEST) - Number(a === LONGEST) || a.localeCompare(b));
}

function testsBelow(path: string): string[] {
  return Array.from(Deno.readDirSync(new URL(`../${path}`, folder))).flatMap((entry) => {
    const below = `${path}/${entry.name}`;
    if (entry.isDirectory) return OTHER_FOLDERS.includes(entry.name) ? [] : testsBelow(below);
    return entry.name.endsWith("_test.ts") ? [below] : [];
  });
}

async function run({ file, flags: more }: Run): Promise<Outcome> {
  const began = performance.now();
  const { success, code, signal, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["test", ...flags, ...more, file],
    cwd: new URL("../", folder),
    env: { NO_COLOR: "1" },
    signal: AbortSignal.timeout(FILE_TIMEOUT_S * 1_000),
  }).output();
  const text = new TextDecoder().decode(stdout);
  const summary = text.split("\n").findLast((line) => / \d+ passed/.test(line)) ?? "";
  const count = (what: string) => Number(new RegExp(`(\\d+) ${what}`).exec(summary)?.[1] ?? 0);
  const outcome = {
    ok: success && summary !== "",
    passed: count("passed"),
    failed: count("failed"),
    ignored: Array.from(text.matchAll(/^(.*) \.\.\. ignored/gm), ([, name]) => `${file}: ${name}`),
  };
  const seconds = ((performance.now() - began) / 1_000).toFixed(1);
  const { ok, passed, failed } = outcome;
  console.log(
    `${ok ? "ok    " : "FAILED"} ${
      [file, ...more].join(" ")
    }: ${passed} passed, ${failed} failed, ${seconds} s`,
  );
  if (!ok) {
    console.log(`${text}${new TextDecoder().decode(stderr)}\nexit code ${code}, signal ${signal}`);
  }
  return outcome;
}

/**
 * Downloads the packages of test files and programs. A process that downloads some itself loads Deno's own CAs for that, which agents on
 * Deno's QUIC refuse.
 */
async function download(files: readonly string[]): Promise<void> {
  await new Deno.Command(Deno.execPath(), {
    args: ["cache", "--quiet", "--config=tests/deno.json", ...PROGRAMS, ...files],
    cwd: new URL("../", folder),
    env: { NO_COLOR: "1" },
    signal: AbortSignal.timeout(FILE_TIMEOUT_S * 1_000),
  }).output();
}

const began = performance.now();
const outcomes: Outcome[] = [];
await download(filesToRun());
const files = runs();
await Promise.all(Array.from({ length: navigator.hardwareConcurrency }, async () => {
  for (let file; (file = files.shift()) !== undefined;) outcomes.push(await run(file));
}));

const sum = (of: "passed" | "failed") =>
  outcomes.reduce((total, outcome) => total + outcome[of], 0);
// A file that did not get to its summary counts as one failure.
const failed = sum("failed") + outcomes.filter(({ ok, failed }) => !ok && failed === 0).length;
const seconds = Math.round((performance.now() - began) / 1_000);
const ignored = outcomes.flatMap((outcome) => outcome.ignored);
console.log(
  `${failed ? "FAILED" : "ok"} | ${sum("passed")} passed | ${failed} failed | ` +
    `${ignored.length} ignored (${outcomes.length} files, ${seconds}s)`,
);
for (const test of ignored) console.log(`not run on this machine: ${test}`);
if (Deno.args.length === 0) {
  for (const [name, { task, programs }] of Object.entries(SYSTEM_TESTS)) {
    const count = testsBelow(`tests/${name}`).length;
    const files = count === 1 ? "1 file" : `${count} files`;
    const needs = Object.keys(programs).join(", ");
    console.log(`not run: tests/${name}/ (${files}), which needs ${needs}: deno task ${task}`);
  }
}
Deno.exit(failed ? 1 : 0);
