// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals } from "@std/assert";
import { Monitor } from "../../lib/observe/monitor.ts";
import type { FileCertificate } from "../../lib/tls/material.ts";
import type { ProgramName } from "../../lib/version.ts";
import { readinessOf, readinessOfGroups } from "../../lib/observe/readiness.ts";
import { fakeCertificate, fakePeer } from "../support/peers.ts";

const NOW = new Date("2026-06-01T12:00:00Z");

function test(name: string, fn: () => void): void {
  Deno.test({ name: `readinessOf() ${name}`, permissions: "none", fn });
}

/** What is wrong, check by check. */
function problemsOf(monitor: Monitor, now = NOW) {
  return readinessOf(monitor, now)
    .filter(({ problem }) => problem !== undefined)
    .map(({ name, problem }) => `${name}: ${problem}`);
}

/** Of a program that has started. */
function started(program: ProgramName = "proxy-server"): Monitor {
  return Object.assign(new Monitor(program), { isListening: true });
}

test("has a server need its listeners", () => {
  const [server, agent] = [new Monitor("proxy-server"), new Monitor("proxy-agent")];
  for (const { peers } of [server, agent]) peers.add(fakePeer("a"));
  assertEquals(problemsOf(server), ["listeners: not listening yet"]);
  assertEquals(problemsOf(agent), []);
});

test("has a server need an agent, and agents a server", () => {
  assertEquals(problemsOf(started()), ["agents: no agent is connected"]);
  for (const program of ["proxy-agent", "proxy-passthrough"] as const) {
    assertEquals(problemsOf(new Monitor(program)), ["servers: not connected to a server"]);
  }
});

test("needs one peer that takes tunnels and answers, whatever the others do", () => {
  const monitor = started();
  const [silent, draining, good] = ["a", "b", "c"].map((name) => fakePeer(name)) as [
    ReturnType<typeof fakePeer>,
    ReturnType<typeof fakePeer>,
    ReturnType<typeof fakePeer>,
  ];
  draining.isDraining = true;
  monitor.peers.add(draining);
  assertEquals(problemsOf(monitor), ["agents: no agent is connected that accepts tunnels"]);
  silent.isResponsive = false;
  monitor.peers.add(silent);
  assertEquals(problemsOf(monitor), ["agents: no agent is connected that responds"]);
  monitor.peers.add(good);
  assertEquals(problemsOf(monitor), []);
  const agent = started("proxy-agent");
  agent.peers.add(silent);
  assertEquals(problemsOf(agent), ["servers: not connected to a server that responds"]);
});

test("tells each group, of which a server needs one", () => {
  const monitor = started();
  const group = (name: string) => ({ name, waiting: 0, listeners: [], routes: [] });
  monitor.readFrom({ groups: () => [group("a"), group("b,c")] });
  monitor.peers.add(Object.assign(fakePeer("x"), { groups: ["b,c"] }));
  assertEquals(problemsOf(monitor), []);
  assertEquals(readinessOfGroups(monitor), [
    { name: "group a", problem: "no agent is connected" },
    { name: "group b,c", problem: undefined },
  ]);
  assertEquals(readinessOfGroups(started()), []);
});

test("names each certificate that has expired, by its flag", () => {
  const monitor = started();
  monitor.peers.add(fakePeer("a"));
  const certificates = [
    fakeCertificate(NOW),
    fakeCertificate(new Date(NOW.getTime() + 1_000), "--client-ca-file"),
  ];
  monitor.readFrom({ certificates: () => certificates });
  assertEquals(problemsOf(monitor), []);
  assertEquals(problemsOf(monitor, new Date(NOW.getTime() + 1)), [
    "certificates: --cert-file expired at 2026-06-01T12:00:00.000Z",
  ]);
  assertEquals(problemsOf(monitor, new Date(NOW.getTime() + 1_001)), [
    "certificates: --cert-file expired at 2026-06-01T12:00:00.000Z, " +
    "--client-ca-file expired at 2026-06-01T12:00:01.000Z",
  ]);
});

test("needs the own certificate, and one CA of several", () => {
  const monitor = started();
  monitor.peers.add(fakePeer("a"));
  const [past, future] = [-1, 1].map((ms) => new Date(NOW.getTime() + ms)) as [Date, Date];
  const chain = (notAfter: Date, subject: string, issuer: string) => {
    const { flag, info } = fakeCertificate(notAfter);
    return { flag, info: { ...info, subject, issuer } };
  };
  const [own, ca, oldCa] = [
    chain(future, "CN=a", "CN=intermediate"),
    fakeCertificate(future, "--ca-file"),
    fakeCertificate(past, "--ca-file"),
  ];
  const issuer = (notAfter: Date) => chain(notAfter, "CN=intermediate", "CN=root");
  const problems = (...certificates: FileCertificate[]) => {
    monitor.readFrom({ certificates: () => certificates });
    return problemsOf(monitor).length;
  };
  assertEquals(problems(own, oldCa, ca), 0);
  assertEquals(problems(own, chain(past, "CN=other", "CN=root"), ca), 0);
  assertEquals(problems(own, issuer(past), issuer(future), ca), 0);
  // Peers have the roots.
  assertEquals(problems(own, chain(past, "CN=intermediate", "CN=intermediate"), ca), 0);
  assertEquals(problems(own, issuer(past), ca), 1);
  assertEquals(problems(own, oldCa, oldCa), 1);
  const early = {
    flag: "--ca-file",
    info: { ...ca.info, notBefore: future, notAfter: new Date(future.getTime() + 1) },
  };
  assertEquals(problems(own, early, ca), 0);
  assertEquals(problems(own, early), 1);
});

test("is against a program that was told to stop", () => {
  const monitor = started();
  monitor.peers.add(fakePeer("a"));
  monitor.isDraining = true;
  assertEquals(problemsOf(monitor), ["draining: shutting down"]);
});
