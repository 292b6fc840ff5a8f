// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- a command for the terminal, which logs nothing

/** `deno task bench-startup`: size of the compiled programs, and time to the first line of their logs, beside Deno's own. */
import { writeCerts } from "../certs/make.ts";
import { alignColumns } from "../tools/columns.ts";
import { programTasks } from "../tools/project_program.ts";
import { type Command, flagsOf, interpreted, timeToFirstLine } from "./first_line.ts";
import { spreadOf } from "./statistics.ts";

const RUNS = 15;

const dir = await Deno.makeTempDir();
try {
  await writeCerts(dir);
  const rows = [["", "size", "ms to the first line", "[min to max]"]];
  for (const name of programTasks) {
    const ways: Record<string, Command> = {
      [`dist/proxy-${name}`]: [`dist/proxy-${name}`],
      [`deno run ${name}.ts`]: interpreted(name),
    };
    const starts = new Map<string, number[]>(Object.keys(ways).map((way) => [way, []]));
    for (let run = 0; run < RUNS; run++) {
      // In turns, so that what else the machine does hits both.
      for (const [way, command] of Object.entries(ways)) {
        starts.get(way)!.push(await timeToFirstLine(command, flagsOf(name, dir)));
      }
    }
    for (const [way, runs] of starts) {
      const { median, min, max } = spreadOf(runs);
      const size = way.startsWith("dist/") ? (await Deno.stat(way)).size : undefined;
      rows.push([
        way,
        size === undefined ? "-" : `${(size / 1e6).toFixed(1)} MB`,
        median.toFixed(),
        `[${min.toFixed()} to ${max.toFixed()}]`,
      ]);
    }
  }
  console.log(alignColumns(rows));
} finally {
  await Deno.remove(dir, { recursive: true });
}
