// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- a program whose lines are read

/** An agent with two bugs: a promise that nobody waits for, and a timer that throws. */
import { agentInfo } from "../../lib/cli/programs.ts";
import { runProgram } from "../../lib/cli/run_program.ts";

await runProgram({
  ...agentInfo,
  async run(_values, { signal }) {
    void Promise.reject(new Error("a rejection"));
    setTimeout(() => {
      throw new Error("an exception");
    }, 1_500);
    setTimeout(() => console.log("still here"), 1_600);
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
  },
});
