// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The programs of this project, as their tasks in `deno.json` start them. */
import project from "../deno.json" with { type: "json" };

export const programTasks = ["server", "agent", "passthrough"] as const;
export type ProgramTask = typeof programTasks[number];

/** What a program is told on its command line, without the dashes. */
export type Flags = Readonly<Record<string, string | number>>;

/** The words of a command line. */
export function flagArguments(flags: Flags): string[] {
  return Object.entries(flags).map(([name, value]) => `--${name}=${value}`);
}

/**
 * The arguments for Deno, in the root of the project, that start a program with the permissions of its task.
 *
 * @param tasks those of another revision of the project, for its root
 */
export function programArguments(
  task: ProgramTask,
  flags: Flags = {},
  tasks: Readonly<Record<ProgramTask, string>> = project.tasks,
): string[] {
  const words = tasks[task].split("&&").at(-1)!.trim().split(/\s+/);
  const program = words.findIndex((word) => word.endsWith(".ts"));
  return [...words.slice(words.indexOf("run"), program + 1), ...flagArguments(flags)];
}

/** Has a server listen where nobody else does. */
export const anyPort = { "listen-tcp": "127.0.0.1:0", "listen-quic": "127.0.0.1:0" };

/** Flags of a server whose certificates are in a folder, by default those that `makeCerts()` has made. */
export function serverFlags(dir: string, name = "server", ca = "ca") {
  return {
    "cert-file": `${dir}/${name}.pem`,
    "cert-key": `${dir}/${name}.key`,
    "client-ca-file": `${dir}/${ca}.pem`,
  };
}

/** The same of an agent. */
export function agentFlags(dir: string, name = "client", ca = "ca") {
  return {
    "cert-file": `${dir}/${name}.pem`,
    "cert-key": `${dir}/${name}.key`,
    "ca-file": `${dir}/${ca}.pem`,
  };
}
