// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Authority } from "../net/authority.ts";
import type { Cidr } from "../net/cidr.ts";
import type { TcpKeepaliveOptions } from "../net/tcp_keepalive.ts";
import type { PathOptions, TlsIdentity, TlsSource } from "../quic/mod.ts";
import type { TlsMaterial } from "../tls/material.ts";
import type { TunnelTimeouts } from "../tunnel/pipe.ts";
import type { FrontMode, TcpAddress } from "./front.ts";
import type { RegistryOptions } from "./registry.ts";
import type { RoutePolicy } from "./route.ts";
import type { TargetRoute } from "./routes.ts";

/** What a server is started with: the values of its flags. */
export interface ServerConfig
  extends
    Omit<RoutePolicy, "agentWaitMs">,
    TunnelTimeouts,
    TcpKeepaliveOptions,
    PathOptions,
    Omit<RegistryOptions, "random" | "group"> {
  /**
   * Where clients connect on TCP, and to which agents.
   *
   * @default {0.0.0.0:8443 if there is no other front, else nowhere}
   */
  readonly listenTcp: readonly TcpAddress[];
  /** Whether other servers of this machine may listen there as well. Linux only. */
  readonly reusePort: boolean;
  /** Which agents reach which targets, for the clients of fronts without agents of their own. */
  readonly routes: readonly TargetRoute[];
  /** Where clients connect with TLS. */
  readonly listenTls?: Authority | undefined;
  /** Certificates and key for it, as they are at the start of each handshake. */
  readonly clientTls?: { readonly current: TlsMaterial } | undefined;
  /** Certificate names of admitted TLS clients, as in `--client-name`; if empty, all are. */
  readonly clientNames?: readonly string[];
  /** Path of the Unix socket that clients connect to. */
  readonly udsName?: string | undefined;
  /** Permissions of that file. */
  readonly udsMode: number;
  /** Name or number of its group. */
  readonly udsGroup?: string | undefined;
  /** Mode of all fronts. @default {http-connect, and raw on TCP} */
  readonly mode?: FrontMode | undefined;
  /** How long a client waits for an agent; 0 for not at all. @default {2000, with http-connect 0} */
  readonly agentWaitMs?: number | undefined;
  /** Where agents connect. */
  readonly listenQuic: Authority;
  /** Where agents connect by TCP whose networks block UDP. */
  readonly listenFallback?: Authority | undefined;
  /** Asked at the start of each handshake. */
  readonly tls: TlsIdentity | TlsSource;
  readonly alpn: readonly string[];
  /** Certificate names of admitted agents, as in `--agent-name`; if empty, all are admitted. */
  readonly agentNames: readonly string[];
  /** Networks whose connections begin with a header of the PROXY protocol. */
  readonly acceptProxyProtocol: readonly Cidr[];
  /** Maximum number of concurrent clients; further ones are closed at once. */
  readonly maxConnections: number;
  /** Maximum number of connected agents; further ones are refused. */
  readonly maxAgents: number;
  /** How long open tunnels may continue after a stop signal; 0 for not at all. */
  readonly drainTimeoutMs: number;
  /** Name of this server in the agents' logs. */
  readonly name?: string | undefined;
}
