// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { ServedTunnel } from "./server_watch.ts";

/** A time during which tunnels of a site may fail, by `performance.now()`. */
export interface Disruption {
  readonly site: string;
  /** What it is called. */
  readonly kind: string;
  /** Only tunnels of these agents; undefined for all of the site. */
  readonly agents: readonly string[] | undefined;
  readonly from: number;
  /** Infinity while it goes on. */
  until: number;
  /**
   * When what is under way is cut off: tunnels that end before that must not fail, unless they began later than
   * `from` and `newMayFail`.
   */
  readonly cutAt?: number;
  /** Whether tunnels that begin during it may fail. @default {true} */
  readonly newMayFail?: boolean;
}

/** A tunnel that has failed, or done what it may do only under a disruption. */
export interface Suspect {
  readonly site: string;
  /** Its client's address, as the server's log has it. */
  readonly client: string;
  readonly startedAt: number;
  readonly endedAt: number;
}

/** What may be late on a busy machine: a line of a log, the news of an end. */
const SLACK_MS = 1_000;

/** Everything that was done that may make tunnels fail. */
export class Disruptions {
  readonly #all: Disruption[] = [];

  begin(disruption: Omit<Disruption, "from" | "until">): Disruption {
    return this.add({ ...disruption, from: performance.now(), until: Infinity });
  }

  add(disruption: Disruption): Disruption {
    this.#all.push(disruption);
    return disruption;
  }

  end(disruption: Disruption): void {
    disruption.until = performance.now();
  }

  /**
   * What allows a tunnel to fail; undefined when nothing does.
   *
   * @param served what the server's log says of it; undefined when it says nothing
   */
  excuseFor(suspect: Suspect, served: ServedTunnel | undefined): Disruption | undefined {
    return this.#all.find((disruption) => excuses(disruption, suspect, served));
  }
}

function excuses(
  { site, agents, from, until, cutAt, newMayFail = true }: Disruption,
  suspect: Suspect,
  served: ServedTunnel | undefined,
): boolean {
  const { startedAt, endedAt } = suspect;
  if (suspect.site !== site) return false;
  if (endedAt < from - SLACK_MS || startedAt > until + SLACK_MS) return false;
  if (agents) {
    if (!served) return false;
    if (served.agents.size > 0 && !agents.some((agent) => served.agents.has(agent))) return false;
  }
  if (newMayFail && startedAt > from - SLACK_MS) return true;
  return cutAt === undefined || (startedAt < from + SLACK_MS && endedAt > cutAt - SLACK_MS);
}
