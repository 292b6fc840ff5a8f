// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- a command for the terminal

/** Fails with one line if a program is not installed that the tests of a folder run: `tests/check_programs.ts interop`. */

import { missingPrograms, SYSTEM_TESTS, type SystemTests } from "./support/required_programs.ts";

const [folder = ""] = Deno.args;
const tests: SystemTests | undefined = SYSTEM_TESTS[folder as keyof typeof SYSTEM_TESTS];
if (tests === undefined) {
  console.error(`no tests of the system in tests/${folder}/`);
  Deno.exit(2);
}
const missing = missingPrograms(tests);
if (missing.length > 0) {
  console.error(`deno task ${tests.task} needs programs that are missing: ${missing.join(", ")}`);
  Deno.exit(1);
}
