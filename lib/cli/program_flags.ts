// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The flags of the three programs. */

import { DEFAULT_RETRY_CAUSES, RETRY_CAUSES } from "../qrht/failure.ts";
import { checkAgentName } from "../tls/agent_names.ts";
import { balances } from "../server/balance.ts";
import { congestionControls } from "../quic/mod.ts";
import { QRHT_ALPN, RAW_ALPN } from "../qrht/dialect.ts";
import { durationFlag } from "./duration.ts";
import {
  addressFlag,
  addressListFlag,
  cidrListFlag,
  optionalAddressFlag,
  ruleListFlag,
} from "./flag_kinds.ts";
import {
  booleanFlag,
  choiceFlag,
  choiceListFlag,
  type FlagTable,
  type FlagValues,
  integerFlag,
  listFlag,
  stringFlag,
} from "./flags.ts";

/** A name has a length of one byte on the wire and must not be empty (RFC 7301, section 3.1). */
function checkAlpn(name: string): string | undefined {
  const { length } = new TextEncoder().encode(name);
  return length >= 1 && length <= 255 ? undefined : "must be names of 1 to 255 bytes";
}

/** A name travels in a field of at most 255 bytes. */
function checkName(name: string): string | undefined {
  return new TextEncoder().encode(name).length <= 255 ? undefined : "must be at most 255 bytes";
}

/** The name that agents verify in the certificate of a server. */
export const DEFAULT_SERVER_NAME = "quic-tunnel-server";

/** The flags that all programs have. */
export const commonFlags = {
  halfOpenTimeoutMs: durationFlag("half-open-timeout", {
    default: "5m",
    help:
      "how long a tunnel of which one direction has ended may be silent in the other; 0 for ever",
  }),
  idleTimeoutMs: durationFlag("idle-timeout", {
    default: "0s",
    help: "how long a tunnel may be silent in both directions; 0 for ever",
  }),
  writeTimeoutMs: durationFlag("write-timeout", {
    default: "0s",
    help: "how long a tunnel's peer may take none of the bytes that wait for it; 0 for ever",
  }),
  drainTimeoutMs: durationFlag("drain-timeout", {
    default: "30s",
    help: "how long tunnels may go on when the program is told to stop; no new ones are taken",
  }),
  alpn: listFlag("alpn", {
    default: [QRHT_ALPN, RAW_ALPN],
    valueName: "names",
    help:
      "ALPN names to offer or accept on QUIC; an agent's preferred one first. All but qrht/1 stand for the dialect of the Go programs",
    check: checkAlpn,
  }),
  mtu: integerFlag("mtu", {
    default: 0,
    min: 0,
    max: 65_535,
    valueName: "bytes",
    help:
      "largest IP packets sent to the other end, 1280 at least, for a path that is known to carry them; 0 finds out what it carries",
    check: (bytes) => bytes > 0 && bytes < 1280 ? "must be 0, or 1280 at least" : undefined,
  }),
  congestionControl: choiceFlag("congestion-control", congestionControls, {
    default: congestionControls[0],
    help: "algorithm that decides how fast to send to the other end",
  }),
  listenAdmin: addressFlag("listen-admin", {
    allowPortZero: true,
    allowEmptyHost: true,
    help:
      "where health (/livez, /readyz), metrics (/metrics) and a status page (/) are served by HTTP, for whoever reaches it; nowhere without it",
  }),
  name: stringFlag("name", {
    valueName: "name",
    help: "what the log of the other end is to call this one, beside the name in its certificate",
    check: checkName,
  }),
  v: integerFlag("v", {
    default: 0,
    min: 0,
    max: 10,
    valueName: "level",
    help: "log verbosity: 0 errors and lifecycle, 2 per tunnel, 4 per stream event",
  }),
  logFormat: choiceFlag("log-format", ["text", "json"], {
    default: "text",
    help: "how log lines are written: text for people, json for collectors, one object a line",
  }),
} as const satisfies FlagTable;

/** Of the command line only: a variable that was left set must not keep a program from its work. */
const CHECK = { commandLineOnly: true } as const;

/** The flags of the server. */
export const serverFlags = {
  listenTcp: addressFlag("listen-tcp", {
    default: "0.0.0.0:8443",
    allowPortZero: true,
    allowEmptyHost: true,
    help: "where clients connect by TCP; port 0 takes a free one",
  }),
  listenQuic: addressFlag("listen-quic", {
    default: "0.0.0.0:8888",
    allowPortZero: true,
    allowEmptyHost: true,
    help: "where agents connect by QUIC; port 0 takes a free one",
  }),
  certFile: stringFlag("cert-file", {
    required: true,
    valueName: "path",
    help: "certificate chain shown to agents, PEM",
  }),
  certKey: stringFlag("cert-key", {
    required: true,
    valueName: "path",
    help: "private key of --cert-file, PEM",
  }),
  clientCaFile: stringFlag("client-ca-file", {
    required: true,
    valueName: "path",
    help: "CA certificates that the certificates of agents are verified against, PEM",
  }),
  agentNames: listFlag("agent-name", {
    multiple: true,
    valueName: "names",
    help:
      "names of certificates whose agents are let in, such as node-1, *.agents.example or spiffe://cluster/ns/*; every certificate of the CA without this flag",
    check: checkAgentName,
  }),
  agentWaitMs: durationFlag("agent-wait", {
    default: "2s",
    help: "how long a TCP connection waits for an agent when none is connected; 0 refuses at once",
  }),
  connectTimeoutMs: durationFlag("connect-timeout", {
    default: "30s",
    minMs: 1,
    help: "how long it may take until an agent has connected a tunnel, all attempts together",
  }),
  maxAttempts: integerFlag("max-attempts", {
    default: 3,
    min: 1,
    max: 100,
    valueName: "count",
    help: "agents that a tunnel is tried with, the first included",
  }),
  retryOn: choiceListFlag("retry-on", {
    choices: RETRY_CAUSES,
    default: DEFAULT_RETRY_CAUSES,
    help: "why a tunnel that an agent has not connected is tried with another one",
  }),
  balance: choiceFlag("balance", balances, {
    default: "least-streams",
    help: "which agent a tunnel goes to",
  }),
  maxConnections: integerFlag("max-connections", {
    default: 20_000,
    min: 1,
    valueName: "count",
    help: "TCP connections served at a time; further ones are closed at once",
  }),
  maxAgents: integerFlag("max-agents", {
    default: 1_000,
    min: 1,
    valueName: "count",
    help: "agents connected at a time; further ones are sent away",
  }),
  maxPending: integerFlag("max-pending", {
    default: 1_000,
    min: 1,
    valueName: "count",
    help: "TCP connections that may wait at a time for an agent, or for a stream of one",
  }),
  acceptProxyProtocol: cidrListFlag("accept-proxy-protocol", {
    help:
      "networks of load balancers, whose connections begin with a PROXY protocol header that says who the client is",
  }),
  check: booleanFlag("check", {
    ...CHECK,
    help: "find out whether all is well to start, say what is not, and end",
  }),
  ...commonFlags,
} as const satisfies FlagTable;

/** The flags that tell an agent of either sort how to reach the server and for how long to dial. */
const sessionFlags = {
  servers: addressListFlag("server", {
    default: ["127.0.0.1:9999"],
    multiple: true,
    help: "where servers listen for QUIC; a name stands for all its addresses",
  }),
  serverName: stringFlag("server-name", {
    default: DEFAULT_SERVER_NAME,
    valueName: "name",
    help: "name verified in the certificate of the server and sent as SNI, whatever --server says",
  }),
  caFile: stringFlag("ca-file", {
    required: true,
    valueName: "path",
    help: "CA certificates that the certificate of the server is verified against, PEM",
  }),
  certFile: stringFlag("cert-file", {
    required: true,
    valueName: "path",
    help: "certificate chain shown to the server, PEM",
  }),
  certKey: stringFlag("cert-key", {
    required: true,
    valueName: "path",
    help: "private key of --cert-file, PEM",
  }),
  dialTimeoutMs: durationFlag("dial-timeout", {
    default: "10s",
    // Not 0: it could only mean a dial without a bound, or none at all.
    minMs: 1,
    help: "how long connecting to a target by TCP may take",
  }),
} as const satisfies FlagTable;

/** The flags of the CONNECT agent. */
export const agentFlags = {
  ...sessionFlags,
  allow: ruleListFlag("allow", {
    help:
      "what clients may reach, and nothing else: networks, names, *.name for those below it or * for all, each with :port or :port-port if need be; without it everything",
  }),
  deny: ruleListFlag("deny", {
    help: "what clients must not reach, even if --allow has it",
  }),
  check: optionalAddressFlag("check", {
    ...CHECK,
    help:
      "find out whether the servers can be reached, and this target if there is one, say what is not well, and end",
  }),
  ...commonFlags,
} as const satisfies FlagTable;

/** The flags of the passthrough agent. */
export const passthroughFlags = {
  upstream: addressFlag("upstream", {
    required: true,
    help: "where every stream is connected to by TCP",
  }),
  proxyProtocol: choiceFlag("proxy-protocol", ["off", "v1", "v2"], {
    default: "off",
    help: "version of the PROXY protocol header that tells the upstream who the client is",
  }),
  ...sessionFlags,
  check: booleanFlag("check", {
    ...CHECK,
    help:
      "find out whether the servers and the upstream can be reached, say what is not well, and end",
  }),
  ...commonFlags,
} as const satisfies FlagTable;

/** The values of `serverFlags`. */
export type ServerFlagValues = FlagValues<typeof serverFlags>;
/** The values of `agentFlags`. */
export type AgentFlagValues = FlagValues<typeof agentFlags>;
/** The values of `passthroughFlags`. */
export type PassthroughFlagValues = FlagValues<typeof passthroughFlags>;
