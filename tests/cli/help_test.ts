// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { durationFlag } from "../../lib/cli/duration.ts";
import { envNameOf } from "../../lib/cli/environment.ts";
import type { FlagTable } from "../../lib/cli/flag.ts";
import { stringFlag } from "../../lib/cli/flag_kinds.ts";
import { formatHelp } from "../../lib/cli/help.ts";
import { agentFlags, passthroughFlags, serverFlags } from "../../lib/cli/program_flags.ts";
import { flags } from "../support/flag_table.ts";
import { pureTest as test } from "../support/pure_test.ts";

test("formatHelp() shows every flag with its default, bounds and variable in 100 columns", () => {
  const summary = "Accepts TCP connections and carries each of them over QUIC. ".repeat(4).trim();
  for (const table of [flags, serverFlags, agentFlags, passthroughFlags] as FlagTable[]) {
    const help = formatHelp({ name: "program", summary }, table);
    assertStringIncludes(help, "\nUsage: program [flags]\n");
    for (const line of help.split("\n")) {
      assert(line.length <= 100, line);
      assertEquals(line, line.trimEnd());
    }
    for (const flag of Object.values(table)) {
      assertStringIncludes(help, `\n  --${flag.name}`);
      const env = `[env: ${envNameOf(flag.name)}]`;
      assertEquals(help.includes(env), !flag.commandLineOnly, env);
      if (flag.required && !flag.requiredUnless) assertStringIncludes(help, "[required]");
      if (flag.defaultText !== undefined) {
        assertStringIncludes(help, `[default: ${flag.defaultText}]`);
      }
    }
  }
});

test("formatHelp() aligns the texts and puts that of a long label below it", () => {
  const help = formatHelp({ name: "p", summary: "Does it.", usage: "p [flags] now" }, {
    waitMs: durationFlag("wait", {
      default: "2s",
      minMs: 1,
      maxMs: 60_000,
      help: `how long ${"to wait ".repeat(8).trim()}`,
    }),
    rules: stringFlag("a-rule-with-quite-a-long-name", { multiple: true, help: "a rule" }),
  });
  assertEquals(
    help,
    `\
Does it.

Usage: p [flags] now

Flags:
  --wait duration     how long to wait to wait to wait to wait to wait to wait to wait to wait
                      [1ms to 1m] [default: 2s] [env: QRHT_WAIT]
  --a-rule-with-quite-a-long-name string
                      a rule [may be repeated] [env: QRHT_A_RULE_WITH_QUITE_A_LONG_NAME]
  --help, -h          print this help
  --version           print the version
  --completion shell  print a completion script for bash, zsh or fish

Flags are written --x=y, --x y, -x=y or -x y, and take precedence over environment variables.
A duration is a number with a unit (ns, us, ms, s, m, h): 300ms, 2s, 1m30s.`,
  );
});

test("formatHelp() shows lists as they are written", () => {
  const help = formatHelp({ name: "p", summary: "Does it." }, flags);
  assertStringIncludes(help, "--allow cidrs");
  assertStringIncludes(help, "[comma-separated] [default: 10.0.0.0/8,::1]");
  assertStringIncludes(help, "[comma-separated, may be repeated]");
  assertStringIncludes(help, "[none or some of client, listener, id, comma-separated]");
  assertStringIncludes(help, "[default: none]");
});
