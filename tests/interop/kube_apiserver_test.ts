// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * kube-apiserver's own dialer, with the configurations that certs/make.ts writes, over the fronts that are for it. Among the
 * cases are those of konnectivity's end-to-end tests.
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
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

/** A server with an agent and a kubelet, and kube-apiserver's dialer for each of its fronts. */
interface Cluster extends AsyncDisposable {
  readonly dialers: Readonly<Record<string, EgressDialer>>;
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
    "connect-timeout": `${CONNECT_MS}ms`,
    ...serverFlags(dir),
  }));
  const [, quic] = await server.line(/quic listener on (\S+:\d+)/);
  const [, admin] = await server.line(/admin listener on (\S+:\d+)/);

  const program = await EgressDialer.build(dir);
  const configurations = egressSelectors({ hostname: "localhost", port: 8131 });
  const dialers: Record<string, EgressDialer> = {};
  for (const [name, text] of Object.entries(configurations)) {
    const file = `${egress}/${name}`;
    // The files of `certs/make.ts`, by the names that they have as a secret.
    const own = text.replace("/run/quic-tunnel/", `${egress}/`)
      .replace("/etc/kubernetes/egress/ca.crt", `${egress}/ca.pem`)
      .replace("/etc/kubernetes/egress/tls.crt", `${egress}/client.pem`)
      .replace("/etc/kubernetes/egress/tls.key", `${egress}/client.key`);
    await Deno.writeTextFile(file, own);
    dialers[name] = program.with(file, `-ca=${kubelet.caFile}`);
  }

  const rest = stack.move();
  return {
    dialers,
    kubelet: kubelet.url,
    async readiness() {
      const response = await fetch(`http://${admin}/readyz`);
      await response.body?.cancel();
      return response.status;
    },
    async startAgent() {
      const flags = { server: quic!, deny: DENIED, "drain-timeout": "2s", ...agentFlags(dir) };
      const agent = rest.use(startProgram("agent", flags));
      await agent.line(/"connected to quic server"/);
      return agent;
    },
    [Symbol.asyncDispose]: () => rest.disposeAsync(),
  };
}

const name = "kube-apiserver's dialer over a Unix socket";
Deno.test({
  name: go ? name : `${name}: not run, because Go is not installed`,
  ignore: !go,
  async fn(t) {
    await using cluster = await startCluster();
    for (const front of ["egress-socket.yaml"]) {
      await t.step(front, (t) => useFront(t, cluster, cluster.dialers[front]!));
    }
  },
});

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
    "an agent that drains: its HTTP/2 connection goes to the next one",
    async () => {
      await using getting = dialer.keepGetting(kubelet, "150ms");
      await getting.line(/^200 .* dials=1$/);
      const leaving = agent;
      agent = await cluster.startAgent();
      leaving.kill("SIGTERM");
      assertEquals((await leaving.status).code, 0);
      await getting.line(/^200 .* dials=2$/);
      // The one that was under way when the time for draining was over.
      const failed = getting.lines.filter((line) => !isWhole.test(line));
      assert(failed.length <= 1, failed.join("\n"));
    },
  );

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
