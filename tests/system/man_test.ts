// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Manual pages as man shows them. */
import {
  assert,
  assertEquals,
  assertMatch,
  assertObjectMatch,
  assertStringIncludes,
} from "@std/assert";
import { envNameOf } from "../../lib/cli/environment.ts";
import type { Flag } from "../../lib/cli/flag.ts";
import { informingFlags } from "../../lib/cli/informing_flags.ts";
import { COMMAND_LINE_ONLY, flagLabel } from "../../lib/cli/help.ts";
import { programInfos } from "../../lib/cli/programs.ts";
import { version } from "../../lib/version.ts";
import { formatMan } from "../../release/man.ts";
import { textsOf } from "../support/flag_texts.ts";
import { runCommand } from "../support/system_command.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";

/** Pages by program, as man shows them in lines that are never broken. */
const pages = new Map<string, string>();

Deno.test("formatMan() makes pages that groff and man find nothing wrong with", async () => {
  await using temporary = await temporaryFolder();
  const dir = temporary.path;
  for (const program of programInfos) {
    const path = `${dir}/${program.name}.1`;
    await Deno.writeTextFile(path, formatMan(program));
    const checked = await runCommand("groff", ["-ww", "-man", "-z", path]);
    assertObjectMatch(checked, { code: 0, stdout: "", stderr: "" });
    const shown = await runCommand("man", ["--warnings", "-l", path], {
      env: {
        MANWIDTH: "1000",
        MANROFFOPT: "-rHY=0",
        LC_ALL: "C.UTF-8",
      },
    });
    assertEquals([shown.code, shown.stderr], [0, ""]);
    pages.set(program.name, shown.stdout);
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

Deno.test("every flag is in the manual page of its program, with all that is known of it", () => {
  for (const program of programInfos) {
    const page = pages.get(program.name)!.replaceAll(/\s+/g, " ");
    for (const flag of Object.values<Flag<unknown>>(program.flags)) {
      const sentence = flag.help.slice(0, 1).toUpperCase() + flag.help.slice(1);
      assertStringIncludes(page, ` ${flagLabel(flag).replace(" ", "=")} ${sentence}. `);
      for (const text of textsOf(flag)) assertStringIncludes(page, ` ${text} `);
      assertStringIncludes(
        page,
        flag.commandLineOnly ? ` ${COMMAND_LINE_ONLY} ` : ` environment: ${envNameOf(flag.name)} `,
      );
    }
    for (const { name } of Object.values(informingFlags)) {
      assertMatch(page, new RegExp(` --${name}\\b`));
    }
  }
});
