// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Neither the help nor docs/flags.md says less of the flags than their table. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { envNameOf } from "../../lib/cli/environment.ts";
import type { Flag } from "../../lib/cli/flag.ts";
import { informingFlags } from "../../lib/cli/informing_flags.ts";
import { COMMAND_LINE_ONLY, flagLabel, formatHelp } from "../../lib/cli/help.ts";
import { programInfos } from "../../lib/cli/programs.ts";
import { textsOf } from "../support/flag_texts.ts";

const flagsPage = await Deno.readTextFile(new URL("../../docs/flags.md", import.meta.url));

Deno.test("every flag is in the help of its program, with all that is known of it", () => {
  for (const program of programInfos) {
    const help = formatHelp(program, program.flags).replaceAll(/\s+/g, " ");
    for (const flag of Object.values<Flag<unknown>>(program.flags)) {
      assertStringIncludes(help, ` ${flagLabel(flag)} ${flag.help}`);
      for (const text of textsOf(flag)) assertStringIncludes(help, `[${text}]`);
      assertStringIncludes(
        help,
        flag.commandLineOnly ? `[${COMMAND_LINE_ONLY}]` : `[env: ${envNameOf(flag.name)}]`,
      );
    }
    for (const { name, help: text } of Object.values(informingFlags)) {
      assertMatch(help, new RegExp(` --${name}\\b.* ${text} `));
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
  for (const { name, required: always, requiredUnless, defaultText } of flags) {
    const required = always || requiredUnless !== undefined;
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
