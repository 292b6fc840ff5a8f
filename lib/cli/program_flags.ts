// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The flags of the three programs. */

import { transportChoices } from "../agent/transport_policy.ts";
import { VALID_DAYS } from "../certs/valid_days.ts";
import { UsageError } from "../errors.ts";
import { CLIENT_PROTOCOLS } from "../tunnel/client_protocol.ts";
import { DEFAULT_RETRY_CAUSES, RETRY_CAUSES } from "../tunnel/failure.ts";
import { checkAgentName } from "../tls/agent_names.ts";
import { type Authority, formatAuthority } from "../net/authority.ts";
import { balances } from "../server/balance.ts";
import { AGENT_WAIT_MS, DEFAULT_LISTEN_TCP, frontModes } from "../server/front.ts";
import { congestionControls, quicLibraryChoices } from "../quic/mod.ts";
import { QRHT_ALPN, RAW_ALPN } from "../qrht/dialect.ts";
import { durationFlag, formatDuration } from "./duration.ts";
import {
  addressFlag,
  addressListFlag,
  cidrListFlag,
  fallbackFlag,
  fileModeFlag,
  httpProxyFlag,
  listenFlag,
  optionalAddressFlag,
  routeFlag,
  ruleListFlag,
} from "./address_flags.ts";
import type { FlagTable, FlagValues } from "./flag.ts";
import {
  booleanFlag,
  choiceFlag,
  choiceListFlag,
  integerFlag,
  listFlag,
  stringFlag,
} from "./flag_kinds.ts";

/** A name has a length of one byte on the wire and must not be empty (RFC 7301, section 3.1). */
function checkAlpn(name: string): string | undefined {
  const { length } = new TextEncoder().encode(name);
  return length >= 1 && length <= 255 ? undefined : "must be names of 1 to 255 bytes";
}

/** A name travels in a field of at most 255 bytes. */
function checkName(name: string): string | undefined {
  return new TextEncoder().encode(name).length <= 255 ? undefined : "must be at most 255 bytes";
}

/** The names of URLs: what else could be in a list was meant otherwise. */
function checkHostName(name: string): string | undefined {
  return /^[\w.-]+$/.test(name) ? undefined : "must be host names, without ports";
}

/** The name that agents verify in the certificate of a server. */
export const DEFAULT_SERVER_NAME = "quic-tunnel-server";

/** The flags that all programs have. */
export const commonFlags = {
  config: stringFlag("config", {
    restricts: true,
    valueName: "path",
    help:
      "YAML file with flags by their names, without dashes; flags and environment variables take precedence over it",
  }),
  halfOpenTimeoutMs: durationFlag("half-open-timeout", {
    default: "5m",
    help: "how long a half-closed tunnel may stay idle; 0 means no limit",
  }),
  idleTimeoutMs: durationFlag("idle-timeout", {
    default: "0s",
    help: "how long a tunnel may stay idle in both directions; 0 means no limit",
  }),
  writeTimeoutMs: durationFlag("write-timeout", {
    default: "0s",
    help:
      "how long a client or target may stop reading before its tunnel is reset; 0 means no limit",
  }),
  tcpKeepaliveMs: durationFlag("tcp-keepalive", {
    default: "15s",
    // What Linux accepts (tcp(7), TCP_KEEPIDLE).
    maxMs: 32_767_000,
    help:
      "how long a TCP connection may be idle until it is probed, and the interval of further probes, in whole seconds; 0 switches probes off",
  }),
  drainTimeoutMs: durationFlag("drain-timeout", {
    default: "30s",
    help: "how long open tunnels may continue after SIGTERM",
  }),
  alpn: listFlag("alpn", {
    default: [QRHT_ALPN, RAW_ALPN],
    valueName: "names",
    help:
      "ALPN names, an agent's preferred one first; all except qrht/1 select the dialect of the Go programs",
    check: checkAlpn,
  }),
  mtu: integerFlag("mtu", {
    default: 0,
    min: 0,
    max: 65_535,
    valueName: "bytes",
    help:
      "maximum size of IP packets sent to the peer, in bytes, 1280 or more; 0 discovers what the path carries",
    check: (bytes) => bytes > 0 && bytes < 1280 ? "must be 0 or at least 1280" : undefined,
  }),
  congestionControl: choiceFlag("congestion-control", congestionControls, {
    default: congestionControls[0],
    help: "congestion control algorithm",
  }),
  listenAdmin: addressFlag("listen-admin", {
    allowPortZero: true,
    allowEmptyHost: true,
    help:
      "address of the admin listener (plain HTTP, no authentication): /livez, /readyz, /metrics and a status page at /; off by default",
  }),
  adminNames: listFlag("admin-name", {
    multiple: true,
    valueName: "names",
    help:
      "host names by which the admin listener may be requested, in addition to localhost, IP addresses and the host of --listen-admin",
    check: checkHostName,
  }),
  name: stringFlag("name", {
    valueName: "name",
    help: "name of this program in the peer's log, in addition to its certificate's",
    check: checkName,
  }),
  v: integerFlag("v", {
    default: 0,
    min: 0,
    max: 10,
    valueName: "level",
    help:
      "log verbosity: 0 for errors and lifecycle, 2 for a line per tunnel, 4 for each stream as well",
  }),
  logFormat: choiceFlag("log-format", ["text", "json"], {
    default: "text",
    help: "log format; json writes one JSON object per line, for log collectors",
  }),
} as const satisfies FlagTable;

/** Command line only: a variable that is left set must not keep a program from running. */
const CHECK = { commandLineOnly: true } as const;

/** Where an agent looks for the server, if it is told nothing else. */
export const DEFAULT_SERVER: Authority = { hostname: "127.0.0.1", port: 9999 };

/** Command line only, as its result depends on nothing else. */
const MAKE_CERTS = { commandLineOnly: true } as const;

/** Flags that the agent's bundle replaces. */
const JOINED = { requiredUnless: ["join"] } as const;

/** What a server needs, but not to make certificates. */
const FOR_SERVER = { required: true, requiredUnless: ["make-certs"] } as const;

/** The flags of the server. */
export const serverFlags = {
  listenTcp: listenFlag("listen-tcp", {
    dependentDefault: formatAuthority(DEFAULT_LISTEN_TCP),
    restricts: true,
    allowPortZero: true,
    allowEmptyHost: true,
    help:
      "TCP address that clients connect to, and @ with the only agents that serve them, as in --agent-name or * for all; port 0 selects a free port; off by default with --listen-tls or --uds-name",
  }),
  reusePort: booleanFlag("reuse-port", {
    help:
      "let several servers of this machine share the ports of --listen-tcp, each with a --listen-quic of its own; Linux only",
  }),
  routes: routeFlag("route", {
    help:
      "agents, as in --agent-name or * for all, and the targets that they reach, as in --allow of the agent, such as cluster-a=10.1.0.0/16,*.a.internal; clients of listeners without agents of their own are served by those of the most specific target",
  }),
  listenTls: addressFlag("listen-tls", {
    allowPortZero: true,
    allowEmptyHost: true,
    help:
      "TCP address that clients connect to with TLS and a certificate, such as kube-apiserver; needs --tls-cert-file, --tls-cert-key and --tls-client-ca-file",
  }),
  tlsCertFile: stringFlag("tls-cert-file", {
    valueName: "path",
    help: "certificate chain presented to clients of --listen-tls, PEM",
  }),
  tlsCertKey: stringFlag("tls-cert-key", {
    valueName: "path",
    help: "private key of --tls-cert-file, PEM",
  }),
  tlsClientCaFile: stringFlag("tls-client-ca-file", {
    valueName: "path",
    help: "CA certificates to verify the certificates of clients of --listen-tls, PEM",
  }),
  clientNames: listFlag("client-name", {
    multiple: true,
    restricts: true,
    valueName: "names",
    help:
      "names of the clients of --listen-tls to admit, as in their certificates, like --agent-name; by default, every certificate of the CA is admitted",
    check: checkAgentName,
  }),
  udsName: stringFlag("uds-name", {
    restricts: true,
    valueName: "path",
    help: "Unix socket that clients connect to",
  }),
  udsMode: fileModeFlag("uds-mode", {
    restricts: true,
    default: "0660",
    help: "permissions of the file of --uds-name; clients need the permission to write",
  }),
  udsGroup: stringFlag("uds-group", {
    valueName: "group",
    help: "name or number of the group of the file of --uds-name",
  }),
  listenQuic: addressFlag("listen-quic", {
    default: ":8888",
    allowPortZero: true,
    allowEmptyHost: true,
    help:
      "UDP address that agents connect to, without a host on all interfaces; 0.0.0.0 is IPv4 alone; port 0 selects a free port",
  }),
  listenFallback: addressFlag("listen-fallback", {
    allowPortZero: true,
    allowEmptyHost: true,
    help:
      "TCP address that agents connect to whose networks block UDP: QUIC over TLS, by CONNECT-UDP; off by default",
  }),
  certFile: stringFlag("cert-file", {
    ...FOR_SERVER,
    valueName: "path",
    help: "certificate chain presented to agents, PEM",
  }),
  certKey: stringFlag("cert-key", {
    ...FOR_SERVER,
    valueName: "path",
    help: "private key of --cert-file, PEM",
  }),
  clientCaFile: stringFlag("client-ca-file", {
    ...FOR_SERVER,
    valueName: "path",
    help: "CA certificates to verify agent certificates, PEM",
  }),
  agentNames: listFlag("agent-name", {
    multiple: true,
    restricts: true,
    valueName: "names",
    help:
      "names of the agents to admit, as in their certificates, such as node-1, *.agents.example or spiffe://cluster/ns/*; by default, every certificate of the CA is admitted",
    check: checkAgentName,
  }),
  mode: choiceFlag("mode", frontModes, {
    help:
      "what clients get that no agent takes: with http-connect, as they speak CONNECT, a response with the cause; with raw, a closed connection; by default raw on --listen-tcp, and http-connect elsewhere",
  }),
  agentWaitMs: durationFlag("agent-wait", {
    dependentDefault: formatDuration(AGENT_WAIT_MS.raw),
    help:
      "how long a client waits when no agent is connected; 0, the default in mode http-connect, means not at all",
  }),
  connectTimeoutMs: durationFlag("connect-timeout", {
    default: "30s",
    minMs: 1,
    help: "how long connecting a client to its target may take, all attempts together",
  }),
  maxAttempts: integerFlag("max-attempts", {
    default: 3,
    min: 1,
    max: 100,
    valueName: "count",
    help: "maximum number of agents tried for a client, including the first",
  }),
  retryOn: choiceListFlag("retry-on", {
    choices: RETRY_CAUSES,
    default: DEFAULT_RETRY_CAUSES,
    help: "failures after which another agent is tried",
  }),
  balance: choiceFlag("balance", balances, {
    default: "least-streams",
    help: "how an agent is chosen for a client",
  }),
  maxConnections: integerFlag("max-connections", {
    default: 20_000,
    min: 1,
    valueName: "count",
    help: "maximum number of concurrent clients; further ones are closed at once",
  }),
  maxAgents: integerFlag("max-agents", {
    default: 1_000,
    min: 1,
    valueName: "count",
    help: "maximum number of connected agents; further ones are refused",
  }),
  maxPending: integerFlag("max-pending", {
    default: 1_000,
    min: 1,
    valueName: "count",
    help: "maximum number of clients that wait for an agent, or for a stream of one",
  }),
  acceptProxyProtocol: cidrListFlag("accept-proxy-protocol", {
    help: "networks of load balancers that send a PROXY protocol header",
  }),
  check: booleanFlag("check", {
    ...CHECK,
    help: "run start-up checks, report problems, and exit",
  }),
  makeCerts: stringFlag("make-certs", {
    ...MAKE_CERTS,
    valueName: "folder",
    help:
      "make certificates for a server and agents in this folder, keep or renew those that are there, and exit",
  }),
  certNames: listFlag("cert-name", {
    ...MAKE_CERTS,
    multiple: true,
    valueName: "names",
    help: "with --make-certs: names and IP addresses of the server",
  }),
  certDays: integerFlag("cert-days", {
    ...MAKE_CERTS,
    default: VALID_DAYS,
    min: 1,
    max: 3_650,
    help: "with --make-certs: how long certificates are valid",
  }),
  bundle: stringFlag("bundle", {
    ...MAKE_CERTS,
    valueName: "path",
    help:
      "with --make-certs: file for the agent's --join, with its certificate, its key, the CA and the address of the server, which is the first --cert-name; - prints it as a string",
  }),
  ...commonFlags,
} as const satisfies FlagTable;

/** Flags of both agents: how to reach the server, and dial timeouts. */
const sessionFlags = {
  servers: addressListFlag("server", {
    dependentDefault: formatAuthority(DEFAULT_SERVER),
    multiple: true,
    help: "QUIC addresses of the servers; a name stands for all its addresses",
  }),
  serverName: stringFlag("server-name", {
    default: DEFAULT_SERVER_NAME,
    valueName: "name",
    help:
      "name or IP address that the server's certificate must have, independent of --server; a name is also sent as SNI",
  }),
  transport: choiceFlag("transport", transportChoices, {
    default: "auto",
    help:
      "what carries QUIC to the servers: udp, tcp by the server's --listen-fallback, or auto: udp where it gets through, else tcp",
  }),
  fallback: fallbackFlag("fallback", {
    help:
      "TCP address of the server's --listen-fallback, or https URL of a load balancer or MASQUE proxy before it, which may be a template with {target_host} and {target_port}; by default host and port of --server",
  }),
  httpProxy: httpProxyFlag("proxy", {
    help:
      "HTTP proxy for TCP connections to servers, such as http://user:password@proxy.example:3128, or none; by default that of the environment: HTTPS_PROXY, except for hosts in NO_PROXY",
  }),
  join: stringFlag("join", {
    valueName: "bundle",
    help:
      "file of proxy-server --make-certs --bundle, or such a string, in place of --server, --ca-file, --cert-file and --cert-key; --server given as well takes precedence",
  }),
  caFile: stringFlag("ca-file", {
    ...JOINED,
    valueName: "path",
    help: "CA certificates to verify the server certificate, PEM",
  }),
  certFile: stringFlag("cert-file", {
    ...JOINED,
    valueName: "path",
    help: "certificate chain presented to the server, PEM",
  }),
  certKey: stringFlag("cert-key", {
    ...JOINED,
    valueName: "path",
    help: "private key of --cert-file, PEM",
  }),
  quicLibrary: choiceFlag("quic-library", quicLibraryChoices, {
    default: "auto",
    help:
      "what makes the QUIC connections: binding, deno (Deno's own QUIC, for qrht/1 only), or auto: the binding, and Deno's where there is no build of it, as on arm64",
  }),
  dialTimeoutMs: durationFlag("dial-timeout", {
    default: "10s",
    // Not 0, which would mean no limit, or no dial at all.
    minMs: 1,
    help: "how long connecting to a target may take",
  }),
} as const satisfies FlagTable;

/** The flags of the CONNECT agent. */
export const agentFlags = {
  ...sessionFlags,
  allow: ruleListFlag("allow", {
    help:
      "the only targets that clients may reach: networks, names, *.name for the names below it, or * for all, each optionally with :port or :port-port; by default, all that are not denied",
  }),
  deny: ruleListFlag("deny", {
    help: "targets that clients must not reach, even if --allow matches",
  }),
  protocols: choiceListFlag("clients", {
    choices: CLIENT_PROTOCOLS,
    default: CLIENT_PROTOCOLS,
    atLeastOne: true,
    restricts: true,
    help:
      "protocols of clients that are served: HTTP CONNECT, requests with an http URL, SOCKS5 without a password",
  }),
  check: optionalAddressFlag("check", {
    ...CHECK,
    help: "run start-up checks, also of this target if given, report problems, and exit",
  }),
  ...commonFlags,
} as const satisfies FlagTable;

/** The flags of the passthrough agent. */
export const passthroughFlags = {
  upstream: addressFlag("upstream", {
    required: true,
    help: "address that every stream is connected to",
  }),
  proxyProtocol: choiceFlag("proxy-protocol", ["off", "v1", "v2"], {
    default: "off",
    help: "version of the PROXY protocol header that sends the client's address to the upstream",
  }),
  ...sessionFlags,
  check: booleanFlag("check", {
    ...CHECK,
    help: "run start-up checks, also of the upstream, report problems, and exit",
  }),
  ...commonFlags,
} as const satisfies FlagTable;

/** The values of `serverFlags`. */
export type ServerFlagValues = FlagValues<typeof serverFlags>;
/** The values of `agentFlags`. */
export type AgentFlagValues = FlagValues<typeof agentFlags>;
/** The values of `passthroughFlags`. */
export type PassthroughFlagValues = FlagValues<typeof passthroughFlags>;

/**
 * Refuses flags of `--make-certs` without it.
 *
 * @throws {UsageError} when there is one
 */
export function refuseWithoutMakeCerts(
  { certNames, bundle }: Pick<ServerFlagValues, "certNames" | "bundle">,
): void {
  if (certNames.length > 0) throw new UsageError("--cert-name needs --make-certs");
  if (bundle !== undefined) throw new UsageError("--bundle needs --make-certs");
}
