// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertStringIncludes } from "@std/assert";
import type { FlagTable } from "../../lib/cli/flag.ts";
import { agentFlags, passthroughFlags, serverFlags } from "../../lib/cli/program_flags.ts";
import { serversOf as serversOfValues } from "../../lib/cli/program_tls.ts";
import { formatAuthority } from "../../lib/net/authority.ts";
import { messageFor, valuesOf } from "../support/flag_table.ts";
import { pureTest as test } from "../support/pure_test.ts";

test("serverFlags, agentFlags and passthroughFlags have the defaults of the programs", () => {
  const common = {
    certFile: "c",
    certKey: "k",
    config: undefined,
    halfOpenTimeoutMs: 300_000,
    idleTimeoutMs: 0,
    writeTimeoutMs: 0,
    tcpKeepaliveMs: 15_000,
    drainTimeoutMs: 30_000,
    alpn: ["qrht/1", "quic-echo-example"],
    mtu: 0,
    congestionControl: "bbr",
    listenAdmin: undefined,
    adminNames: [],
    name: undefined,
    v: 0,
    logFormat: "text",
  } as const;
  const files = ["--cert-file=c", "--cert-key", "k"];
  assertEquals(valuesOf(serverFlags, [...files, "-client-ca-file=a"]), {
    ...common,
    listenTcp: [],
    reusePort: false,
    routes: [],
    listenFallback: undefined,
    listenTls: undefined,
    tlsCertFile: undefined,
    tlsCertKey: undefined,
    tlsClientCaFile: undefined,
    clientNames: [],
    udsName: undefined,
    udsMode: 0o660,
    udsGroup: undefined,
    listenQuic: { hostname: "", port: 8888 },
    makeCerts: undefined,
    certNames: [],
    certDays: 365,
    bundle: undefined,
    clientCaFile: "a",
    mode: undefined,
    agentWaitMs: undefined,
    connectTimeoutMs: 30_000,
    maxAttempts: 3,
    retryOn: ["draining", "overloaded", "gone"],
    balance: "least-streams",
    maxConnections: 20_000,
    maxAgents: 1000,
    maxPending: 1000,
    agentNames: [],
    acceptProxyProtocol: [],
    check: false,
  });
  const session = {
    ...common,
    // As a default, 127.0.0.1:9999, unless a bundle has another one.
    servers: [],
    transport: "auto" as const,
    fallback: undefined,
    httpProxy: undefined,
    join: undefined,
    serverName: "quic-tunnel-server",
    caFile: "a",
    dialTimeoutMs: 10_000,
    quicLibrary: "auto" as const,
  };
  const agentArgs = [...files, "-ca-file", "a"];
  assertEquals(valuesOf(agentFlags, agentArgs), {
    ...session,
    allow: [],
    deny: [],
    protocols: ["connect", "http", "socks5"],
    check: undefined,
  });
  assertEquals(valuesOf(passthroughFlags, [...agentArgs, "--upstream=h:1"]), {
    ...session,
    upstream: { hostname: "h", port: 1 },
    proxyProtocol: "off",
    check: false,
  });
  assertEquals(
    messageFor(agentArgs, {}, passthroughFlags),
    "missing required flag --upstream (or QRHT_UPSTREAM)",
  );
});

test("program flags keep to their bounds", () => {
  const long = "é".repeat(128);
  const cases: [table: FlagTable, arg: string, problem: string][] = [
    [agentFlags, "--v=11", "must be at most 10"],
    [agentFlags, "--v=-1", "must be at least 0"],
    [agentFlags, "--dial-timeout=0", "must be at least 1ms"],
    [agentFlags, "--server=:1", "--server"],
    [agentFlags, "--server=h:0", "--server"],
    [agentFlags, "--server=h:1,", "has an empty item"],
    [agentFlags, "--server=a:1,b", 'flag --server: invalid address "b": no port'],
    [agentFlags, `--alpn=h3,${long}`, "1 to 255 bytes"],
    [agentFlags, `--name=${long}`, "at most 255 bytes"],
    [agentFlags, "--allow=10.0.0.0/8,a:0", 'invalid rule "a:0": the ports must be in 1 to 65535'],
    [agentFlags, "--deny=", "has an empty item"],
    [serverFlags, "--connect-timeout=0", "must be at least 1ms"],
    [serverFlags, "--max-attempts=0", "must be at least 1"],
    [serverFlags, "--max-connections=0", "must be at least 1"],
    [serverFlags, "--max-agents=0", "must be at least 1"],
    [serverFlags, "--max-pending=0", "must be at least 1"],
    [serverFlags, "--mtu=1279", "must be 0 or at least 1280"],
    [serverFlags, "--agent-name=", "has an empty item"],
    [serverFlags, "--retry-on=always", "not one of draining"],
    [serverFlags, "--accept-proxy-protocol=10.0.0.1/8", "--accept-proxy-protocol"],
    [passthroughFlags, "--deny=*", "unknown flag --deny"],
    [passthroughFlags, "--proxy-protocol=v3", "off, v1, v2"],
  ];
  for (const [table, arg, problem] of cases) {
    assertStringIncludes(messageFor([arg], {}, table), problem);
  }
  assertEquals(
    messageFor([], { QRHT_DENY: "a\nb" }, agentFlags),
    'environment variable QRHT_DENY: invalid rule "a\\nb": a character that is not allowed in host names',
  );
});

test("--server takes several addresses, from one occurrence, several, or the variable", () => {
  const files = ["--cert-file=c", "--cert-key=k", "--ca-file=a"];
  const serversOf = (args: readonly string[], variable = "") =>
    serversOfValues(valuesOf(agentFlags, [...files, ...args], { QRHT_SERVER: variable }), undefined)
      .map(formatAuthority);
  assertEquals(serversOf([]), ["127.0.0.1:9999"]);
  assertEquals(serversOf(["--server=a:1"]), ["a:1"]);
  assertEquals(serversOf(["--server=a:1,[::1]:2", "-server", "b:3", "--server=a:1"]), [
    "a:1",
    "[::1]:2",
    "b:3",
    "a:1",
  ]);
  assertEquals(serversOf([], "a:1,b:2"), ["a:1", "b:2"]);
  assertEquals(serversOf(["--server=c:3"], "a:1,b:2"), ["c:3"]);
});
