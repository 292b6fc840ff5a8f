// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { version } from "../../lib/version.ts";
import { sectionOf } from "../../release/changelog.ts";
import { commandOutput } from "../../tools/command_output.ts";
import { read, root } from "../support/repository.ts";

const EXAMPLE = `# Changelog

## [Unreleased]

## [1.1.0] - 2026-02-01

The second
release.

### Fixed

- One thing, in
  two lines.
- Another -
  but short.

## [1.0.0] - 2026-01-01

- The first release.

[1.0.0]: https://example.com/1.0.0
`;

Deno.test("sectionOf() gives what is below a version's heading, a line for each item", () => {
  assertEquals(
    sectionOf(EXAMPLE, "1.1.0"),
    "The second release.\n\n### Fixed\n\n- One thing, in two lines.\n- Another - but short.",
  );
});

Deno.test("sectionOf() leaves out the link targets at the end", () => {
  assertEquals(sectionOf(EXAMPLE, "1.0.0"), "- The first release.");
});

Deno.test("sectionOf() throws if there is no such section, or an empty one", () => {
  assertThrows(() => sectionOf(EXAMPLE, "1.1"), Error, "CHANGELOG.md has no section [1.1]");
  assertThrows(() => sectionOf(EXAMPLE, "2.0.0"), Error, "CHANGELOG.md has no section [2.0.0]");
  assertThrows(() => sectionOf(EXAMPLE, "Unreleased"), Error, "has nothing about Unreleased");
});

async function run(...args: string[]) {
  const { code, stdout, stderr } = await commandOutput(
    Deno.execPath(),
    ["run", "--no-prompt", "--allow-read=CHANGELOG.md", "release/changelog.ts", ...args],
    { cwd: root, env: { NO_COLOR: "1" } },
  );
  return { code, stdout, stderr };
}

Deno.test("changelog.ts prints the section of the version in deno.json, which has a date", async () => {
  const changelog = read("CHANGELOG.md");
  assertMatch(changelog, new RegExp(`^## \\[${version}\\] - \\d{4}-\\d\\d-\\d\\d$`, "m"));
  assertMatch(changelog, /^## \[Unreleased\]$/m);
  const { code, stdout, stderr } = await run(version);
  assertEquals({ code, stderr }, { code: 0, stderr: "" });
  assertEquals(stdout, `${sectionOf(changelog, version)}\n`);
});

Deno.test("changelog.ts fails with one line for a version that is not there", async () => {
  assertEquals(await run("9.9.9"), {
    code: 1,
    stdout: "",
    stderr: "CHANGELOG.md has no section [9.9.9]\n",
  });
  assertEquals((await run()).code, 2);
});
