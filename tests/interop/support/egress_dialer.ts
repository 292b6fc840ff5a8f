// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The program in `tests/interop/egress/`, which connects with kube-apiserver's own code. */

import type { CommandOutput } from "../../../tools/command_output.ts";
import { ChildProgram } from "../../support/processes.ts";
import { runCommand } from "../../support/system_command.ts";
import { buildGo } from "./go.ts";

/** kube-apiserver's dialer with one configuration. */
export class EgressDialer {
  readonly #program: string;
  readonly #config: readonly string[];

  private constructor(program: string, config: readonly string[]) {
    this.#program = program;
    this.#config = config;
  }

  /** Compiles it into a folder. @throws {Error} with the words of Go */
  static async build(dir: string): Promise<EgressDialer> {
    const program = `${dir}/kube-apiserver-dialer`;
    await buildGo("egress", program);
    return new EgressDialer(program, []);
  }

  /** The same with a configuration. */
  with(configFile: string, ...flags: readonly string[]): EgressDialer {
    return new EgressDialer(this.#program, [`-config=${configFile}`, ...flags]);
  }

  /** Fetches, once or as the flags say. */
  get(url: string, ...flags: readonly string[]): Promise<CommandOutput> {
    return runCommand(this.#program, [...this.#config, ...flags, url]);
  }

  /** Fetches again and again until its disposal. */
  keepGetting(url: string, interval: string): ChildProgram {
    const flags = ["-count=0", `-interval=${interval}`];
    return new ChildProgram(this.#program, [...this.#config, ...flags, url], { name: "egress" });
  }

  /** Connects to a target, sends all of the input, ends its half, and reads to the end. */
  pipe(target: string, input = ""): Promise<CommandOutput> {
    return runCommand(this.#program, [...this.#config, "-pipe", target], { input });
  }
}
