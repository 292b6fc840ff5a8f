// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Manual pages, and that nothing says less of the flags than their table. */
import {
  assert,
  assertEquals,
  assertMatch,
  assertObjectMatch,
  assertStringIncludes,
} from "@std/assert";
import { envNameOf, type Flag, informingFlags } from "../../lib/cli/flags.ts";
import { COMMAND_LINE_ONLY, flagLabel, formatHelp } from "../../lib/cli/help.ts";
import { programInfos } from "../../lib/cli/programs.ts";
import { version } from "../../lib/version.ts";
import { formatMan } from "../../release/man.ts";
import { runCommand } from "../support/command.ts";

const flagsPage = await Deno.readTextFile(new URL("../../docs/flags.md", import.meta.url));

/** Pages by program, as man shows them in lines that are never broken. */
const pages = new Map<string, string>();

Deno.test("formatMan() makes pages that groff and man find nothing wrong with", async () => {
  const dir = await Deno.makeTempDir();
  try {
    for (const program of programInfos) {
      const path = `${dir}/${program.name}.1`;
      await Deno.writeTextFile(path, formatMan(program));
      const checked = await runCommand("groff-base", "groff", ["-ww", "-man", "-z", path]);
      assertObjectMatch(checked, { code: 0, stdout: "", stderr: "" });
      const shown = await runCommand("man-db", "man", ["--warnings", "-l", path], {
        env: {
          MANWIDTH: "1000",
          MANROFFOPT: "-rHY=0",
          LC_ALL: "C.UTF-8",
        },
      });
      assertEquals([shown.code, shown.stderr], [0, ""]);
      pages.set(program.name, shown.stdout);
    }
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("manual pages have all sections, and what belongs there", () => {
  assertEquals(pages.size, programInfos.length);
  for (const { name, summary, examples = [] } of programInfos) {
    const page = pages.get(name)!.replaceAll(/ +/g, " ");
    const sections = page.split("\n").filter((line) => /^[A-Z ]+$/.test(line) && line !== "");
    assertEquals(sections, [
      "NAME",
      "SYNOPSIS",
      "DESCRIPTION",
      "OPTIONS",
      "SIGNALS",
      "EXIT STATUS",
      "EXAMPLES",
      "SEE ALSO",
    ]);
    assertStringIncludes(page, `\n ${name} - ${summary.slice(0, -1)}\n`);
    assertStringIncludes(page, `quic-reverse-http-tunnel ${version}`);
    assert(examples.length > 0);
    // What a shell makes of the lines is the command.
    const joined = page.replaceAll(/ \\\n */g, " ");
    for (const { command } of examples) assertStringIncludes(joined, ` ${command}\n`);
    for (const other of programInfos) {
      if (other.name !== name) assertStringIncludes(page, `${other.name}(1)`);
    }
  }
});

function textsOf(flag: Flag<unknown>): string[] {
  return [
    ...flag.notes,
    ...(flag.required ? ["required"] : []),
    ...(flag.defaultText === undefined ? [] : [`default: ${flag.defaultText}`]),
  ];
}

Deno.test("every flag is in the help and the manual page of its program, with all that is known of it", () => {
  for (const program of programInfos) {
    const help = formatHelp(program, program.flags).replaceAll(/\s+/g, " ");
    const page = pages.get(program.name)!.replaceAll(/\s+/g, " ");
    for (const flag of Object.values<Flag<unknown>>(program.flags)) {
      const label = flagLabel(flag);
      assertStringIncludes(help, ` ${label} ${flag.help}`);
      const sentence = flag.help.slice(0, 1).toUpperCase() + flag.help.slice(1);
      assertStringIncludes(page, ` ${label.replace(" ", "=")} ${sentence}. `);
      for (const text of textsOf(flag)) {
        assertStringIncludes(help, `[${text}]`);
        assertStringIncludes(page, ` ${text} `);
      }
      const env = envNameOf(flag.name);
      assertStringIncludes(
        help,
        flag.commandLineOnly ? `[${COMMAND_LINE_ONLY}]` : `[env: ${env}]`,
      );
      assertStringIncludes(
        page,
        flag.commandLineOnly ? ` ${COMMAND_LINE_ONLY} ` : ` environment: ${env} `,
      );
    }
    for (const { name, help: text } of Object.values(informingFlags)) {
      assertMatch(help, new RegExp(` --${name}\\b.* ${text} `));
      assertMatch(page, new RegExp(` --${name}\\b`));
    }
    for (const { command } of program.examples ?? []) {
      assertStringIncludes(help.replaceAll(" \\ ", " "), command);
    }
  }
});

/** The rows of the tables of docs/flags.md: name, default, meaning. */
const rows = [...flagsPage.matchAll(/^\| `--([a-z-]+)` +\| (.*?) +\| (.*?) +\|$/gm)]
  .map(([, name, value, text]) => ({ name: name!, value: value!, text: text! }));

Deno.test("every flag is in a table of docs/flags.md, with its default, and no others", () => {
  const flags = programInfos.flatMap((program) => Object.values<Flag<unknown>>(program.flags));
  for (const { name, required, defaultText } of flags) {
    const found = rows.filter((row) => row.name === name);
    // Files of certificates have a row in the table of the server, and in that of the agents.
    assert(found.length === 1 || (found.length === 2 && required), `--${name}`);
    for (const { value } of found) {
      if (required) assertEquals(value, "required", name);
      else if (defaultText !== undefined) assertEquals(value, `\`${defaultText}\``, name);
      else assertMatch(value, /^[a-z ]+$/, name);
    }
  }
  const names = flags.map(({ name }) => name);
  assertEquals(rows.filter(({ name }) => !names.includes(name)), []);
});
