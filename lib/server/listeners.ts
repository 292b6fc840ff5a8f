// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Binds the listeners for clients and agents, and says how many clients there may be. */
import { messageOf, UsageError } from "../errors.ts";
import type { Logger } from "../log.ts";
import { type Authority, formatAuthority } from "../net/authority.ts";
import { descriptors, maxTunnels } from "../net/descriptors.ts";
import { listenOn } from "../net/listen_on.ts";
import { type ListenOptions, QuicEndpoint } from "../quic/mod.ts";
import type { ServerConfig } from "./config.ts";
import { TcpFront } from "./tcp_front.ts";

/** Backlog of connections to accept. Clients beyond it retry after about a second (TCP SYN). */
const TCP_BACKLOG = 4_096;

/** @throws {UsageError} when the address of `--listen-tcp` cannot be bound */
export function openTcpFront(
  { listenTcp, tcpKeepaliveMs }: Pick<ServerConfig, "listenTcp" | "tcpKeepaliveMs">,
): TcpFront {
  const { port } = listenTcp;
  const listener = bind(
    "--listen-tcp",
    listenTcp,
    (hostname) => Deno.listen({ hostname, port, tcpBacklog: TCP_BACKLOG }),
  );
  return new TcpFront(listener, tcpKeepaliveMs);
}

/** `--max-connections`, or fewer if there are not enough file descriptors, which is logged. */
export function clientsWithin(maxConnections: number, log: Logger): number {
  const clients = Math.min(maxConnections, maxTunnels());
  if (clients < maxConnections) {
    const hint =
      "raise the limit of open files (LimitNOFILE=, ulimit -n), or lower --max-connections";
    log.warn("fewer clients than --max-connections", {
      maxConnections,
      clients,
      descriptors,
      hint,
    });
  }
  return clients;
}

/** @throws {UsageError} when the address of `--listen-quic` cannot be bound */
export function listenForAgents(
  { hostname, port }: Authority,
  listen: ListenOptions,
): QuicEndpoint {
  return bind(
    "--listen-quic",
    { hostname, port },
    (hostname) => new QuicEndpoint({ hostname, port, listen }),
  );
}

function bind<T>(flag: string, address: Authority, open: (hostname: string) => T): T {
  try {
    return listenOn(address.hostname, open);
  } catch (error) {
    const hint = error instanceof Deno.errors.AddrInUse ? `; ${portTaken(address)}` : "";
    throw new UsageError(
      `cannot listen on ${flag} ${formatAuthority(address)}: ${messageOf(error)}${hint}`,
      { cause: error },
    );
  }
}

/** Hint for a port that is in use. */
function portTaken({ port }: Authority): string {
  return `port ${port} is in use by another program, perhaps a proxy-server: stop it, or choose another port`;
}
