// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Runs promtool with something on its stdin.
 *
 * @returns what it writes, if it is not content
 * @throws when it is missing
 */
async function promtool(args: string[], input = ""): Promise<string> {
  let child: Deno.ChildProcess;
  try {
    child = new Deno.Command("promtool", {
      args,
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new Error('promtool is missing: install the Debian package "prometheus"', {
      cause: error,
    });
  }
  const writing = new Blob([input]).stream().pipeTo(child.stdin);
  const [{ success, stdout, stderr }] = await Promise.all([child.output(), writing]);
  const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  return success ? "" : text || "failed";
}

/** What is wrong with metrics by the conventions of Prometheus; nothing when it is empty. */
export function checkMetrics(text: string): Promise<string> {
  return promtool(["check", "metrics"], text);
}

/** What is wrong with a file of rules. */
export function checkRules(path: string): Promise<string> {
  return promtool(["check", "rules", "--lint-fatal", path]);
}

/** What fails of the tests of rules. */
export function testRules(path: string): Promise<string> {
  return promtool(["test", "rules", path]);
}
