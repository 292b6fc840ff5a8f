// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- a command for the terminal, which logs nothing

/** `deno task bench-startup`: size of the compiled programs, and time to the first line of their logs, beside Deno's own. */
import project from "../deno.json" with { type: "json" };
import { alignColumns, spreadOf } from "./report.ts";
import { makeCertificates } from "./tunnels.ts";

const RUNS = 15;
/** No program may take longer to its first line. */
const TIMEOUT_MS = 20_000;

const programs = ["server", "agent", "passthrough"] as const;
type Name = typeof programs[number];

/** Command and arguments. */
type Command = readonly [string, ...string[]];

function flagsOf(name: Name, dir: string): string[] {
  const own = name === "server" ? "server" : "client";
  const files = [`--cert-file=${dir}/${own}.pem`, `--cert-key=${dir}/${own}.key`];
  if (name !== "server") {
    const upstream = name === "passthrough" ? ["--upstream=127.0.0.1:1"] : [];
    return [...files, `--ca-file=${dir}/ca.pem`, "--server=127.0.0.1:1", ...upstream];
  }
  const listen = ["--listen-tcp=127.0.0.1:0", "--listen-quic=127.0.0.1:0"];
  return [...files, `--client-ca-file=${dir}/ca.pem`, ...listen];
}

/** The command of a program's task, without the flags that follow. */
function interpreted(name: Name): Command {
  const words = project.tasks[name].split(" ");
  const args = words.slice(words.lastIndexOf("run"), words.indexOf(`${name}.ts`) + 1);
  return [Deno.execPath(), ...args];
}

/** Starts a program, waits for the first line of its log, and ends it. Returns the time that it took, in ms. */
async function start([command, ...args]: Command, flags: readonly string[]): Promise<number> {
  const began = performance.now();
  const child = new Deno.Command(command, {
    args: [...args, ...flags],
    stdin: "null",
    stdout: "null",
    stderr: "piped",
    signal: AbortSignal.timeout(TIMEOUT_MS),
  }).spawn();
  const errors = child.stderr.getReader();
  const { value } = await errors.read();
  const ms = performance.now() - began;
  const line = new TextDecoder().decode(value);
  child.kill("SIGKILL");
  while (!(await errors.read()).done);
  await child.status;
  if (!/^\S+ INF /.test(line)) throw new Error(`${command} did not start: ${line}`);
  return ms;
}

const dir = await Deno.makeTempDir();
try {
  await makeCertificates(dir);
  const rows = [["", "size", "ms to the first line", "[min to max]"]];
  for (const name of programs) {
    const ways: Record<string, Command> = {
      [`dist/proxy-${name}`]: [`dist/proxy-${name}`],
      [`deno run ${name}.ts`]: interpreted(name),
    };
    const starts = new Map<string, number[]>(Object.keys(ways).map((way) => [way, []]));
    for (let run = 0; run < RUNS; run++) {
      // In turns, so that what else the machine does hits both.
      for (const [way, command] of Object.entries(ways)) {
        starts.get(way)!.push(await start(command, flagsOf(name, dir)));
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
