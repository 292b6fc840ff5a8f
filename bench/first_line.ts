// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** How long a program takes from its start to the first line of its log. */
import project from "../deno.json" with { type: "json" };

/** No program may take longer to its first line. */
const TIMEOUT_MS = 20_000;

export const programs = ["server", "agent", "passthrough"] as const;
export type Name = typeof programs[number];

/** Command and arguments. */
export type Command = readonly [string, ...string[]];

/** What it needs to start, where nothing answers. */
export function flagsOf(name: Name, dir: string): string[] {
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
export function interpreted(name: Name): Command {
  const words = project.tasks[name].split(" ");
  const args = words.slice(words.lastIndexOf("run"), words.indexOf(`${name}.ts`) + 1);
  return [Deno.execPath(), ...args];
}

/** Starts a program, waits for the first line of its log, and ends it. Returns the time that it took, in ms. */
export async function timeToFirstLine(
  [command, ...args]: Command,
  flags: readonly string[],
): Promise<number> {
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
