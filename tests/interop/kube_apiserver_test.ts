// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * kube-apiserver's own dialer, with the configurations that certs/make.ts writes, over the fronts that are for it. Among the
 * cases are those of konnectivity's end-to-end tests.
 */

import {
  assert,
  assertEquals,
  assertLess,
  assertLessOrEqual,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { egressSelectors } from "../../certs/egress_selector.ts";
import { makeCerts, makeEgressCerts } from "../../certs/make.ts";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { eventually } from "../support/eventually.ts";
import { readExactly, readToEnd } from "../support/memory_duplex.ts";
import { patternStream, sha256 } from "../support/pattern.ts";
import { agentFlags, type ChildProgram, serverFlags, startProgram } from "../support/processes.ts";
import { ResettableTarget } from "../support/tcp_pair.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";
import { TestCa } from "../support/tls.ts";
import { EgressDialer } from "./support/egress_dialer.ts";
import { go } from "./support/go.ts";

const MIB = 1 << 20;
/** Port 1 is privileged: nothing listens there by chance. */
const NOBODY = "127.0.0.1:1";
/** What a rule of the agent denies. */
const DENIED = "127.0.0.2";
const CONNECT_MS = 3_000;
/** Silence after which an agent is given up for which nothing else speaks. */
const SILENCE_MS = 5_000;
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
const bytes = (text: string) => new TextEncoder().encode(text);

/** A kubelet, as far as its connections are concerned: HTTP/2 over TLS. */
async function startKubelet(dir: string) {
  const ca = await TestCa.create();
  const { cert, key } = await ca.server({ ipAddresses: ["127.0.0.1"] });
  const caFile = `${dir}/kubelet-ca.pem`;
  await Deno.writeFile(caFile, ca.pem);
  const server = Deno.serve({
    hostname: "127.0.0.1",
    port: 0,
    cert: text(cert),
    key: text(key),
    onListen: () => {},
  }, (request) => new Response(patternStream(Number(new URL(request.url).pathname.slice(1)))));
  return {
    caFile,
    url: `https://127.0.0.1:${server.addr.port}/${MIB}`,
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}

/** Files of a client's identity, and of the CA by which it knows the server. */
interface Identity {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

/** A server for kube-apiserver, and a kubelet for an agent. */
interface Cluster extends AsyncDisposable {
  readonly server: ChildProgram;
  /** Of the certificates of server and agents, and of those of the front. */
  readonly folders: { readonly agents: string; readonly egress: string };
  readonly tlsPort: number;
  /** Dialers by front. */
  readonly dialers: { readonly socket: EgressDialer; readonly tls: EgressDialer };
  /** A dialer over TLS that is somebody else. */
  readonly dialerOf: (identity: Partial<Identity>) => Promise<EgressDialer>;
  /** Where the kubelet answers 1 MiB. */
  readonly kubelet: string;
  /** The status of `/readyz`. */
  readonly readiness: () => Promise<number>;
  readonly startAgent: () => Promise<ChildProgram>;
}

async function startCluster(): Promise<Cluster> {
  await using stack = new AsyncDisposableStack();
  const { path: dir } = stack.use(await temporaryFolder());
  const egress = `${dir}/egress`;
  await makeCerts(dir);
  await makeEgressCerts(egress, { hostname: "localhost", port: 8131 });
  const kubelet = stack.use(await startKubelet(dir));
  const server = stack.use(startProgram("server", {
    "listen-quic": "127.0.0.1:0",
    "listen-admin": "127.0.0.1:0",
    "uds-name": `${egress}/egress.sock`,
    "listen-tls": "127.0.0.1:0",
    "tls-cert-file": `${egress}/server.pem`,
    "tls-cert-key": `${egress}/server.key`,
    "tls-client-ca-file": `${egress}/ca.pem`,
    "client-name": "kube-apiserver",
    "connect-timeout": `${CONNECT_MS}ms`,
    ...serverFlags(dir),
  }));
  const [, tls] = await server.line(/tls listener on \S+:(\d+)/);
  const [, quic] = await server.line(/quic listener on (\S+:\d+)/);
  const [, admin] = await server.line(/admin listener on (\S+:\d+)/);

  const program = await EgressDialer.build(dir);
  const selectors = egressSelectors({ hostname: "localhost", port: Number(tls) });
  let configurations = 0;
  const configure = async (selector: string, identity: Partial<Identity> = {}) => {
    const { ca, cert, key } = {
      ca: `${egress}/ca.pem`,
      cert: `${egress}/client.pem`,
      key: `${egress}/client.key`,
      ...identity,
    };
    const file = `${egress}/${configurations++}.yaml`;
    // All that differs is where the files are.
    const text = selectors[selector]!
      .replace("/run/quic-tunnel/", `${egress}/`)
      .replace("/etc/kubernetes/egress/ca.crt", ca)
      .replace("/etc/kubernetes/egress/tls.crt", cert)
      .replace("/etc/kubernetes/egress/tls.key", key);
    await Deno.writeTextFile(file, text);
    return program.with(file, `-ca=${kubelet.caFile}`);
  };

  const dialers = {
    socket: await configure("egress-socket.yaml"),
    tls: await configure("egress-tls.yaml"),
  };
  const rest = stack.move();
  return {
    server,
    folders: { agents: dir, egress },
    tlsPort: Number(tls),
    dialers,
    dialerOf: (identity) => configure("egress-tls.yaml", identity),
    kubelet: kubelet.url,
    async readiness() {
      const response = await fetch(`http://${admin}/readyz`);
      await response.body?.cancel();
      return response.status;
    },
    async startAgent() {
      const flags = { server: quic!, deny: DENIED, "drain-timeout": "4s", ...agentFlags(dir) };
      const agent = rest.use(startProgram("agent", flags));
      await agent.line(/"connected to quic server"/);
      return agent;
    },
    [Symbol.asyncDispose]: () => rest.disposeAsync(),
  };
}

const name = "kube-apiserver's dialer over a Unix socket and over TLS";
Deno.test({
  name: go ? name : `${name}: not run, because Go is not installed`,
  ignore: !go,
  async fn(t) {
    await using cluster = await startCluster();
    const { socket, tls } = cluster.dialers;
    await t.step("socket", (t) => useFront(t, cluster, socket));
    await t.step("tls", (t) => useFront(t, cluster, tls));
    await t.step("strangers", (t) => refuseStrangers(t, cluster));
    await t.step("a server that drains serves new clients on both", () => drain(cluster));
  },
});

/** Who must not get in, and whom kube-apiserver must not talk to. */
async function refuseStrangers(t: Deno.TestContext, cluster: Cluster): Promise<void> {
  const { agents, egress } = cluster.folders;
  const identity = (name: string) => ({ cert: `${name}.pem`, key: `${name}.key` });
  for (
    const [who, presented, reason] of [
      // Go sends no certificate that is not of a CA which the server names.
      [
        "an agent, of another CA",
        identity(`${agents}/client`),
        'the client sent no certificate" hint=".* of a CA in --tls-client-ca-file: ',
      ],
      ["a server, of the same CA", identity(`${egress}/server`), "not meant for clients"],
    ] as const
  ) {
    await t.step(who, async () => {
      const stranger = await cluster.dialerOf(presented);
      const { code, stderr } = await stranger.pipe(NOBODY);
      assertEquals(code, 1);
      // An alert, or the end of the connection: no answer, in any case.
      assertStringIncludes(stderr, "reading HTTP response from CONNECT");
      await cluster.server.line(new RegExp(`"tls client refused" .*${reason}`));
    });
  }

  await t.step("a client without a certificate", async () => {
    const caCerts = [await Deno.readTextFile(`${egress}/ca.pem`)];
    using client = await Deno.connectTls({ hostname: "localhost", port: cluster.tlsPort, caCerts });
    await assertRejects(
      async () => await client.read(new Uint8Array(1)),
      Error,
      "CertificateRequired",
    );
  });

  await t.step("a server of another CA", async () => {
    const dialer = await cluster.dialerOf({ ca: `${agents}/ca.pem` });
    const { code, stderr } = await dialer.pipe(NOBODY);
    assertEquals(code, 1);
    assertStringIncludes(stderr, "x509: certificate signed by unknown authority");
  });
}

async function drain({ server, dialers, kubelet, startAgent }: Cluster): Promise<void> {
  const agent = await startAgent();
  const pooled = dialers.socket.keepGetting(kubelet, "20ms");
  try {
    await pooled.line(/^200 /);
    server.kill("SIGTERM");
    await server.line(/"draining"/);
    for (const dialer of Object.values(dialers)) {
      const { stdout, stderr } = await dialer.get(kubelet);
      assertMatch(stdout, /^200 /, stderr);
    }
    assertEquals(pooled.lines.filter((line) => !line.startsWith("200 ")), []);
  } finally {
    await pooled[Symbol.asyncDispose]();
  }
  assertEquals((await server.status).code, 0);
  agent.kill("SIGTERM");
}

async function useFront(t: Deno.TestContext, cluster: Cluster, dialer: EgressDialer) {
  const { kubelet } = cluster;
  const mebibyte = await sha256(patternStream(MIB));
  const isWhole = new RegExp(`^200 HTTP/2\\.0 size=${MIB} sha256=${mebibyte} `);

  await t.step("no agent: not ready, and the error has the cause", async () => {
    assertEquals(await cluster.readiness(), 503);
    const { code, stderr } = await dialer.pipe(NOBODY);
    assertEquals(code, 1);
    assertStringIncludes(stderr, `while dialing ${NOBODY}, code 503: 503 no agent is connected`);
  });

  let agent = await cluster.startAgent();
  await t.step("an agent: ready", async () => {
    await eventually("it is ready", async () => await cluster.readiness() === 200);
  });

  await t.step(
    "ten responses of 1 MiB, one after the other, in one HTTP/2 connection",
    async () => {
      const { stdout, stderr } = await dialer.get(kubelet, "-count=10");
      const lines = stdout.trim().split("\n");
      assertEquals(lines.length, 10);
      for (const line of lines) assertMatch(line, isWhole);
      assertStringIncludes(lines.at(-1)!, " dials=1", stderr);
    },
  );

  await t.step("ten at a time, each in a tunnel of its own", async () => {
    const each = await Promise.all(Array.from({ length: 10 }, () => dialer.get(kubelet)));
    for (const { stdout, stderr } of each) assertMatch(stdout, isWhole, stderr);
  });

  for (
    const [what, target, answer] of [
      ["refuses", NOBODY, `502: 502 ${NOBODY}: connection refused`],
      [
        "has an unknown name",
        "no-such-host.invalid:80",
        "502: 502 no-such-host.invalid:80: name does not resolve",
      ],
      ["is denied", `${DENIED}:80`, `403: 403 ${DENIED}:80: denied`],
    ] as const
  ) {
    await t.step(`the error of a target that ${what} has the cause`, async () => {
      const { code, stderr } = await dialer.pipe(target);
      assertEquals(code, 1);
      assertStringIncludes(stderr, `while dialing ${target}, code ${answer}`);
    });
  }

  await t.step("an agent that hangs: the error says so after --connect-timeout", async () => {
    agent.kill("SIGSTOP");
    try {
      const { code, stderr } = await dialer.pipe(NOBODY);
      assertEquals(code, 1);
      assertMatch(
        stderr,
        new RegExp(`code 504: 504 no agent connected .* within ${CONNECT_MS} ms`),
      );
    } finally {
      agent.kill("SIGCONT");
    }
  });

  await t.step("half-close: the target answers once it has read to the end", async () => {
    await using targets = await ResettableTarget.listen();
    const piping = dialer.pipe(targets.authority, "question");
    const target = await targets.accept();
    assertEquals(text(await readToEnd(target)), "question");
    await writeAll(target, bytes("answer"));
    await target.closeWrite();
    const { code, stdout, stderr } = await piping;
    assertEquals([code, stdout], [0, "answer"], stderr);
  });

  for (const [what, ended] of [["resets", "reset"], ["closes", "end"]] as const) {
    await t.step(`a target that ${what}: no second answer follows its bytes`, async () => {
      await using targets = await ResettableTarget.listen();
      const piping = dialer.pipe(targets.authority, "question");
      const target = await targets.accept();
      await readExactly(target, "question".length);
      await writeAll(target, bytes("part"));
      if (ended === "reset") target.abort();
      else await target[Symbol.asyncDispose]();
      const { stdout } = await piping;
      assert("part".startsWith(stdout), stdout);
    });
  }

  await t.step(
    "an agent that drains: its HTTP/2 connection goes to the next one, between two requests",
    async () => {
      await using getting = dialer.keepGetting(kubelet, "600ms");
      await getting.line(/^200 .* dials=1$/);
      const leaving = agent;
      agent = await cluster.startAgent();
      leaving.kill("SIGTERM");
      assertEquals((await leaving.status).code, 0);
      await getting.line(/^200 .* dials=2$/);
      const failed = getting.lines.filter((line) => !isWhole.test(line));
      // The end of the connection may cross with a request that is just being sent: one at most.
      assertLessOrEqual(failed.length, 1, failed.join("\n"));
      for (const line of failed) assertMatch(line, /^error: .*(?:connection reset|EOF)/);
    },
  );

  await t.step("an agent that is killed and started again: the next request succeeds", async () => {
    await using getting = dialer.keepGetting(kubelet, "20ms");
    await getting.line(/^200 .* dials=1$/);
    const since = performance.now();
    agent.kill("SIGKILL");
    agent = await cluster.startAgent();
    await getting.line(/^200 .* dials=[2-9]\d*$/);
    assertLess(performance.now() - since, SILENCE_MS);
  });

  await t.step("an agent that is lost, and one that follows it", async () => {
    await using getting = dialer.keepGetting(kubelet, "20ms");
    await getting.line(/^200 .* dials=1$/);
    agent.kill("SIGKILL");
    await getting.line(/^error: .* 503 no agent is connected/, 30_000);
    assertEquals(await cluster.readiness(), 503);
    agent = await cluster.startAgent();
    await eventually("its last request succeeds", () => isWhole.test(getting.lines.at(-1)!));
  });

  agent.kill("SIGTERM");
  await agent.status;
}
