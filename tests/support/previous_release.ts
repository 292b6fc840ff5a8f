// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The programs of the last release, from git history. */

import { type CommandOutput, commandOutput } from "../../tools/command_output.ts";
import type { ProgramTask } from "../../tools/project_program.ts";
import { root } from "./repository.ts";
import { temporaryFolder } from "./temporary_folder.ts";

/** The last release, as git names it: after each release, its tag; before the first one, a commit that stands for it. */
export const PREVIOUS_RELEASE = "069d6a4";

/** The files of a revision, in a folder of their own that goes with the disposal. */
export interface Checkout extends AsyncDisposable {
  readonly path: string;
  /** The tasks of its `deno.json`, which say how its programs are started. */
  readonly tasks: Readonly<Record<ProgramTask, string>>;
}

function git(args: readonly string[], env: Record<string, string> = {}): Promise<CommandOutput> {
  return commandOutput("git", ["-c", "safe.directory=*", ...args], { cwd: root, env });
}

/** Whether git history has the last release: a shallow clone does not, nor does a source archive. */
export async function hasPreviousRelease(): Promise<boolean> {
  try {
    return (await git(["cat-file", "-e", `${PREVIOUS_RELEASE}^{commit}`])).success;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** Writes the files of the last release into a folder; nothing in the repository changes. */
export async function checkOutPreviousRelease(): Promise<Checkout> {
  await using stack = new AsyncDisposableStack();
  const { path } = stack.use(await temporaryFolder());
  // An index of its own: that of the repository stays as it is.
  const env = { GIT_INDEX_FILE: `${path}/.index` };
  const write = ["checkout-index", "--all", `--prefix=${path}/`];
  for (const args of [["read-tree", PREVIOUS_RELEASE], write]) {
    const { success, stderr } = await git(args, env);
    if (!success) throw new Error(`git ${args.join(" ")}: ${stderr}`);
  }
  const { tasks } = JSON.parse(await Deno.readTextFile(`${path}/deno.json`));
  const kept = stack.move();
  return { path, tasks, [Symbol.asyncDispose]: () => kept.disposeAsync() };
}
