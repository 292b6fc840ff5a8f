// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Fronts: the listeners of a server that clients connect to. */
import type { Authority } from "../net/authority.ts";
import type { SocketAddress } from "../net/ip_address.ts";
import type { FrontKind } from "../observe/monitor.ts";
import type { Duplex } from "../tunnel/duplex.ts";
import type { AgentSet } from "./agent_set.ts";

/**
 * What a front knows of its clients: nothing, or that they speak CONNECT and wait for the answer.
 * Then the server answers where there is no other answer, instead of closing the connection.
 */
export const frontModes = ["raw", "http-connect"] as const;
export type FrontMode = typeof frontModes[number];

/**
 * The mode of a front, which `--mode` sets for all.
 *
 * @param isRouted whether its clients have to say what they want, for their route
 */
export function modeOf(
  kind: FrontKind,
  mode: FrontMode | undefined,
  isRouted = false,
): FrontMode {
  return mode ?? (kind === "tcp" && !isRouted ? "raw" : "http-connect");
}

/** How long a client waits for an agent, unless `--agent-wait` sets it. */
export const AGENT_WAIT_MS: Readonly<Record<FrontMode, number>> = { raw: 2_000, "http-connect": 0 };

/** Where clients connect to if there is no other front. */
export const DEFAULT_LISTEN_TCP: Authority = { hostname: "0.0.0.0", port: 8443 };

/** Where clients connect on TCP. */
export interface TcpAddress extends Authority {
  /** The only agents that serve them. */
  readonly agents?: AgentSet;
}

/** A connection of a client. */
export interface FrontClient {
  /** Its bytes. */
  readonly carrier: Duplex;
  /** Where it connects from; undefined where clients have no address. */
  readonly remote?: SocketAddress | undefined;
  /** Where it has connected to. */
  readonly local?: SocketAddress | undefined;
  /** The load balancer that it has come through, if its PROXY protocol header has been read. */
  readonly via?: SocketAddress | undefined;
  /** Name in the certificate that it has presented. */
  readonly name?: string | undefined;
}

/** How the clients of a front are served. */
export interface FrontService {
  readonly mode: FrontMode;
  /** Name of the group that serves them; without one, routes or other agents do. */
  readonly group?: string | undefined;
}

/** A listener for clients. */
export interface Front extends FrontService {
  readonly kind: FrontKind;
  /** Serves further clients otherwise, where that can change. */
  change?(service: FrontService): void;
  /** Where it listens, for the log. */
  readonly address: string;
  /** More of it for the log. */
  readonly fields?: Readonly<Record<string, unknown>>;
  /**
   * Waits for the next client.
   *
   * @throws one of `Deno.errors.ConnectionAborted`, `ConnectionReset` and `NotConnected` when that
   * client is gone already, else when none can be accepted now
   */
  accept(): Promise<FrontClient>;
  /** Has no further clients come, where the system can do that; those that wait are accepted. */
  retire(): void;
  /** Stops listening. Idempotent. */
  close(): void;
}
