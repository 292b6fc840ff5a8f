// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** `deno task test` needs nothing but Node and npm: what runs other programs is in folders with tasks of their own. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import project from "../../deno.json" with { type: "json" };
import { filesBelow, read } from "../support/repository.ts";
import { SYSTEM_TESTS, type SystemTests } from "../support/required_programs.ts";
import { runCommand } from "../support/system_command.ts";

/** What every system has that runs Deno; `git` is asked, but not needed. */
const EVERYWHERE = ["git", "mkfifo", "npm", "sh"];
/** Packages that Debian itself consists of. */
const ESSENTIAL = ["apt", "bash", "bsdutils", "coreutils", "dpkg", "util-linux", "tar"];

const systemTests = Object.entries<SystemTests>(SYSTEM_TESTS);

/** The programs that a source file runs, as far as it names them where it does. */
function programsIn(path: string): string[] {
  const calls = /\b(?:Command|commandOutput|runCommand|ChildProgram|run)\(\s*"([\w-]+)",\s*\[/g;
  return Array.from(read(path).matchAll(calls), ([, name]) => name!);
}

Deno.test("tests run programs of the system in the folders that are for them", () => {
  const folders = systemTests.map(([name]) => `tests/${name}/`);
  const known = systemTests.flatMap(([, { programs }]) => Object.keys(programs))
    .filter((program) => !EVERYWHERE.includes(program));
  const elsewhere = filesBelow("tests/", ".ts")
    .filter((path) => !folders.some((folder) => path.startsWith(folder)))
    .flatMap((path) => programsIn(path).map((program) => `${path}: ${program}`))
    .filter((found) => known.some((program) => found.endsWith(`: ${program}`)));
  assertEquals(elsewhere, []);
});

Deno.test("the programs that tests of the system run are known, so that missing ones are named", () => {
  for (const [name, { programs }] of systemTests) {
    const used = filesBelow(`tests/${name}/`, ".ts").flatMap(programsIn);
    const unknown = used.filter((program) => !(program in programs));
    assertEquals(unknown.filter((program) => !EVERYWHERE.includes(program)), [], name);
  }
  assert(programsIn("tests/system/man_test.ts").includes("groff"), "the test finds programs");
});

Deno.test(".ci/run installs the programs and runs the tasks of tests of the system", () => {
  const script = read(".ci/run");
  const lists = script.matchAll(/\bpackages\+?=\(([^)]*)\)/g);
  const installed = Array.from(lists, ([, list]) => list!.trim().split(/\s+/)).flat();
  for (const [name, { task, programs }] of systemTests) {
    const missing = Object.values(programs).filter((name) => !ESSENTIAL.includes(name))
      .filter((name) => !installed.includes(name));
    assertEquals(missing, [], name);
    assert(script.includes(` task ${task} `), `.ci/run runs ${task}`);
    const command: string = project.tasks[task as keyof typeof project.tasks];
    assert(command.includes(` tests/check_programs.ts ${name} && `), `${task} checks first`);
  }
});

Deno.test("runCommand() names a command that is missing", async () => {
  await assertRejects(
    () => runCommand("no-such-command", []),
    Error,
    "no-such-command is missing",
  );
});
