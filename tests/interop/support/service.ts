// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { eventually } from "../../support/eventually.ts";
import { ChildProgram } from "../../support/processes.ts";
import { pathOf, type Program } from "./programs.ts";

/** More than any test takes: what a killed test run leaves behind does not stay for long. */
const LIFETIME_S = 120;
/** Less than {@linkcode ChildProgram} gives `timeout`, which has to be there to do the killing. */
const KILL_AFTER_S = 3;

/**
 * A server of somebody else's, in the foreground, listening on a loopback port; it and its own
 * children are gone after the disposal.
 */
export class Service extends ChildProgram {
  #ended = false;

  private constructor(readonly program: Program, args: readonly string[], readonly port: number) {
    const limits = [`--kill-after=${KILL_AFTER_S}`, `${LIFETIME_S}`];
    super(pathOf("timeout"), [...limits, pathOf(program), ...args]);
    this.status.then(() => this.#ended = true);
  }

  /** Starts it and waits until its port, which the arguments or a configuration name, is open. */
  static async start(program: Program, args: readonly string[], port: number): Promise<Service> {
    const service = new Service(program, args, port);
    try {
      await eventually(`${program} listens on port ${port}, or ends`, async () => {
        return service.#ended || await isOpen(port);
      });
      if (service.#ended) throw new Error(`${program} ended`);
      return service;
    } catch (error) {
      await service[Symbol.asyncDispose]();
      throw new Error(`${program} did not start:\n${service.lines.join("\n")}`, { cause: error });
    }
  }
}

async function isOpen(port: number): Promise<boolean> {
  (await Deno.connect({ hostname: "127.0.0.1", port })).close();
  return true;
}

/** A loopback port that nobody listened on a moment ago. */
export function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}
