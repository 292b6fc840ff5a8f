// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { runCommand } from "../../support/system_command.ts";

/**
 * Runs promtool with something on its stdin.
 *
 * @returns what it writes, if it is not content
 * @throws {Error} when it is missing
 */
async function promtool(args: string[], input = ""): Promise<string> {
  const { success, stdout, stderr } = await runCommand("promtool", args, { input });
  return success ? "" : stdout + stderr || "failed";
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
