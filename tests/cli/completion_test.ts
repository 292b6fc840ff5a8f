// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What completion scripts have in them; `tests/system/completion_test.ts` runs them in shells. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { formatCompletion } from "../../lib/cli/completion.ts";
import { programInfos } from "../../lib/cli/programs.ts";

Deno.test({
  name: "formatCompletion() has every flag of every program, for every shell",
  permissions: "none",
  fn() {
    for (const { name, flags } of programInfos) {
      const [bash, zsh, fish] = (["bash", "zsh", "fish"] as const).map((shell) =>
        formatCompletion(shell, name, flags).split("\n")
      ) as [string[], string[], string[]];
      assertEquals(bash.at(-1), `complete -F _${name.replaceAll("-", "_")} ${name}`);
      assertEquals(zsh[0], `#compdef ${name}`);
      const names = [
        ...Object.values(flags).map((flag) => flag.name),
        "help",
        "version",
        "completion",
      ];
      for (const flag of names) {
        assertStringIncludes(bash.find((line) => line.includes('-W "--'))!, `--${flag}`);
        assertEquals(
          zsh.filter((line) => new RegExp(`^ +'\\*?--${flag}[=[]`).test(line)).length,
          1,
        );
        assertEquals(fish.filter((line) => line.includes(` -l ${flag} `)).length, 1, flag);
      }
      for (const { name: flag, choices = [] } of Object.values(flags)) {
        for (const choice of choices) {
          for (const script of [bash, zsh, fish]) {
            assert(script.some((line) => line.includes(choice)), `${flag} ${choice}`);
          }
        }
      }
    }
  },
});
