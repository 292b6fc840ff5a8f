// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Binds the listeners for clients and agents, and says how many clients there may be. */
import { messageOf, UsageError } from "../errors.ts";
import type { Logger } from "../log.ts";
import { type Authority, formatAuthority } from "../net/authority.ts";
import { descriptors, maxTunnels } from "../net/descriptors.ts";
import { listenOn } from "../net/listen_on.ts";
import { listenUnix, UnixSocketError } from "../net/unix_listener.ts";
import { identityOf, type ListenOptions, QuicEndpoint } from "../quic/mod.ts";
import { servesStreams } from "../tls/tls_carrier.ts";
import { listenTls } from "../tls/tls_listener.ts";
import type { ServerConfig } from "./config.ts";
import { type AgentSet, nameOfAgents } from "./agent_set.ts";
import {
  DEFAULT_LISTEN_TCP,
  type Front,
  type FrontService,
  modeOf,
  type TcpAddress,
} from "./front.ts";
import { FallbackListener, type FallbackOptions } from "./fallback_listener.ts";
import { withinDescriptors } from "./strangers.ts";
import { TcpFront } from "./tcp_front.ts";
import { TlsFront, type TlsFrontOptions } from "./tls_front.ts";
import { UnixFront } from "./unix_front.ts";

/** Backlog of connections to accept. Clients beyond it retry after about a second (TCP SYN). */
const TCP_BACKLOG = 4_096;

/** Carriers through which no agent has connected yet. */
const MAX_CARRIER_HANDSHAKES = 1_000;

const TAKEN = "another program, perhaps a proxy-server: stop it, or choose another port";
const NOT_SHARED = "a program without --reuse-port, or of another user, who cannot share it";

/** What the fronts of a server are made from. */
export type FrontsConfig = Pick<
  ServerConfig,
  | "listenTcp"
  | "reusePort"
  | "routes"
  | "listenTls"
  | "clientTls"
  | "clientNames"
  | "acceptProxyProtocol"
  | "udsName"
  | "udsMode"
  | "udsGroup"
  | "mode"
  | "tcpKeepaliveMs"
>;

/** Where a server listens for clients on TCP: not by default if it has another front. */
export function listenTcpOf(
  { listenTcp, listenTls, udsName }: Pick<FrontsConfig, "listenTcp" | "listenTls" | "udsName">,
): readonly TcpAddress[] {
  const hasOther = listenTls !== undefined || udsName !== undefined;
  return listenTcp.length > 0 || hasOther ? listenTcp : [DEFAULT_LISTEN_TCP];
}

/**
 * Refuses `--reuse-port` where it would share nothing.
 *
 * @throws {UsageError} without `--listen-tcp`, and on systems other than Linux, which lead all
 * clients of a shared port to one process, or have no such ports
 */
export function refuseReusePort(
  config: Pick<FrontsConfig, "listenTcp" | "reusePort" | "listenTls" | "udsName">,
  os: string = Deno.build.os,
): void {
  if (!config.reusePort) return;
  if (os !== "linux") {
    throw new UsageError(`--reuse-port needs Linux, which spreads clients, and this is ${os}`);
  }
  if (listenTcpOf(config).length === 0) throw new UsageError("--reuse-port needs --listen-tcp");
}

/** The agents of each front, undefined for those without a group. */
export function agentsOfFronts(
  config: Pick<FrontsConfig, "listenTcp" | "listenTls" | "udsName">,
): readonly (AgentSet | undefined)[] {
  const { listenTls, udsName } = config;
  const others = [listenTls, udsName].filter((front) => front !== undefined);
  return [...listenTcpOf(config).map(({ agents }) => agents), ...others.map(() => undefined)];
}

/**
 * Opens the listeners for clients.
 *
 * @param opened is given each, to close it
 * @param observed where TLS clients that are refused are logged and counted
 * @throws {UsageError} when one cannot be bound, or a port not be shared
 */
export async function openFronts(
  config: FrontsConfig,
  opened: DisposableStack,
  observed: Pick<TlsFrontOptions, "log" | "monitor">,
): Promise<readonly Front[]> {
  refuseReusePort(config);
  const fronts: Front[] = [];
  const add = (front: Front) => fronts.push(opened.adopt(front, (front) => front.close()));
  for (const address of listenTcpOf(config)) add(openTcpFront(address, config));
  if (config.listenTls) add(openTlsFront(config.listenTls, config, observed));
  if (config.udsName !== undefined) add(await openUnixFront(config.udsName, config));
  return fronts;
}

function openTcpFront({ agents, ...address }: TcpAddress, config: FrontsConfig): TcpFront {
  const listener = listenTcp("--listen-tcp", address, config.reusePort);
  return new TcpFront(listener, tcpServiceOf(agents, config), config.tcpKeepaliveMs);
}

function tcpServiceOf(
  agents: AgentSet | undefined,
  { mode, routes }: Pick<FrontsConfig, "mode" | "routes">,
): FrontService {
  const isRouted = routes.length > 0 && agents === undefined;
  return { mode: modeOf("tcp", mode, isRouted), group: agents && nameOfAgents(agents) };
}

/** Whether the listeners of two configurations are the same but for their agents. */
export function haveSameAddresses(a: readonly TcpAddress[], b: readonly TcpAddress[]): boolean {
  const addressesOf = (all: readonly TcpAddress[]) => all.map(formatAuthority).join();
  return addressesOf(a) === addressesOf(b);
}

/** Serves further clients of fronts as they are configured now, with the same addresses. */
export function changeFronts(fronts: readonly Front[], config: FrontsConfig): void {
  // Those of TCP come first.
  for (const [i, { agents }] of listenTcpOf(config).entries()) {
    fronts[i]!.change?.(tcpServiceOf(agents, config));
  }
}

function openTlsFront(
  address: Authority,
  { clientTls: tls, clientNames = [], acceptProxyProtocol, mode, tcpKeepaliveMs }: FrontsConfig,
  observed: Pick<TlsFrontOptions, "log" | "monitor">,
): TlsFront {
  if (!tls) throw new TypeError("no certificate for --listen-tls");
  const options = { tls, clientNames, acceptProxyProtocol, tcpKeepaliveMs, ...observed };
  return new TlsFront(listenTcp("--listen-tls", address), modeOf("tls", mode), options);
}

function listenTcp(flag: string, address: Authority, reusePort = false): Deno.TcpListener {
  const { port } = address;
  return bind(
    flag,
    address,
    (hostname) => Deno.listen({ hostname, port, reusePort, tcpBacklog: TCP_BACKLOG }),
    reusePort ? NOT_SHARED : TAKEN,
  );
}

async function openUnixFront(
  path: string,
  { udsMode, udsGroup, mode }: FrontsConfig,
): Promise<UnixFront> {
  try {
    const socket = await listenUnix({ path, mode: udsMode, group: udsGroup });
    return new UnixFront(socket, modeOf("unix", mode));
  } catch (error) {
    if (!(error instanceof UnixSocketError)) throw error;
    throw new UsageError(`cannot listen on --uds-name ${path}: ${error.message}`, { cause: error });
  }
}

/**
 * `--max-connections`, or fewer if there are not enough file descriptors, which is logged.
 *
 * @param others descriptors that are left for carriers of agents
 */
export function clientsWithin(maxConnections: number, others: number, log: Logger): number {
  const clients = Math.min(maxConnections, Math.max(1, maxTunnels() - others));
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

/**
 * Refuses `--listen-fallback` where it cannot read PROXY headers.
 *
 * @throws {UsageError} with `--accept-proxy-protocol`, on runtimes that read nothing ahead of TLS
 */
export function refuseHeaders(
  { acceptProxyProtocol }: Pick<ServerConfig, "acceptProxyProtocol">,
  deno = Deno.version.deno,
): void {
  if (acceptProxyProtocol.length === 0 || servesStreams(deno)) return;
  throw new UsageError(
    `--listen-fallback with --accept-proxy-protocol needs Deno 2.9 or newer, and this is ${deno}`,
  );
}

/**
 * Opens the listener for carriers of agents.
 *
 * @throws {UsageError} when the address of `--listen-fallback` cannot be bound, and as
 * {@linkcode refuseHeaders}
 */
export function openFallback(
  address: Authority,
  { tls, acceptProxyProtocol, maxAgents }: Pick<
    ServerConfig,
    "tls" | "acceptProxyProtocol" | "maxAgents"
  >,
  endpoint: QuicEndpoint,
  observed: Pick<FallbackOptions, "log" | "monitor">,
): FallbackListener {
  refuseHeaders({ acceptProxyProtocol });
  const { port } = address;
  const identity = () => identityOf(tls);
  const listener = bind(
    "--listen-fallback",
    address,
    (hostname) =>
      listenTls(
        { hostname, port, tcpBacklog: TCP_BACKLOG, identity },
        acceptProxyProtocol.length > 0,
      ),
    TAKEN,
  );
  const maxHandshakes = withinDescriptors(MAX_CARRIER_HANDSHAKES);
  const maxCarriers = Math.min(maxAgents + MAX_CARRIER_HANDSHAKES, Math.ceil(maxTunnels() / 4));
  return new FallbackListener(listener, {
    endpoint,
    acceptProxyProtocol,
    maxCarriers,
    maxHandshakes,
    ...observed,
  });
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
    TAKEN,
  );
}

/** @param taken what is said of a port that is in use */
function bind<T>(
  flag: string,
  address: Authority,
  open: (hostname: string) => T,
  taken: string,
): T {
  try {
    return listenOn(address.hostname, open);
  } catch (error) {
    const hint = error instanceof Deno.errors.AddrInUse
      ? `; port ${address.port} is in use by ${taken}`
      : "";
    throw new UsageError(
      `cannot listen on ${flag} ${formatAuthority(address)}: ${messageOf(error)}${hint}`,
      { cause: error },
    );
  }
}
