// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- a command for the terminal, which logs nothing

/**
 * `deno task bench-agents`: resident memory of a server with many agents, all alike or in many groups, and
 * how long an open tunnel stands while the server takes other routes over for all of them. On Linux, which tells
 * memory in /proc.
 */
import { delay } from "@std/async/delay";
import { createCa, issueCertificate } from "../lib/certs/issue.ts";
import { QRHT_ALPN } from "../lib/qrht/dialect.ts";
import { acceptTunnel } from "../lib/qrht/tunnel.ts";
import { type QuicConnection, QuicEndpoint, type TlsIdentity } from "../lib/quic/mod.ts";
import { anyPort, programArguments, serverFlags } from "../tools/project_program.ts";
import { alignColumns } from "../tools/columns.ts";
import { lookAt } from "../tools/process_look.ts";
import { Program } from "./program.ts";
import { spreadOf } from "./statistics.ts";

const AGENTS = 1_000;
const GROUPS = 200;
const ROUTES = 1_000;
/** Times that the routes change. */
const RELOADS = 10;
/** Time that is looked at before each, for comparison. */
const QUIET_MS = 100;
const WARM_UP_MS = 500;
/** Agents that connect at a time. */
const AT_ONCE = 20;
/** What is left to the server, to give up what it needs no more. */
const SETTLE_MS = 4_000;
/** Everything together is given up after this. */
const TOTAL_MS = 170_000;

const nameOf = (group: number) => `group-${group % GROUPS}`;
/** Group of the agent that has the tunnel. */
const ECHO = "echo";
const signal = AbortSignal.timeout(TOTAL_MS);
const dir = await Deno.makeTempDir();

/** Connects the agents, all of one socket, and tells the memory of the server before and with them, in MiB. */
async function measure(
  identities: readonly TlsIdentity[],
  routes: readonly string[],
): Promise<number[]> {
  const flags = { ...anyPort, ...serverFlags(dir) };
  await using server = new Program("server", [...programArguments("server", flags), ...routes]);
  const [, port] = await server.said(/quic listener on [\d.]+:(\d+)/, signal);
  const rss = async () => {
    await delay(SETTLE_MS, { signal });
    return (await lookAt([server.pid])).get(server.pid)!.rssKib / 1_024;
  };
  const before = await rss();
  await using endpoint = new QuicEndpoint({ hostname: "127.0.0.1", port: 0 });
  await connectAll(endpoint, Number(port), identities);
  const after = await rss();
  return [before, after, (after - before) * 1_024 / AGENTS];
}

async function connectAll(
  endpoint: QuicEndpoint,
  port: number,
  identities: readonly TlsIdentity[],
): Promise<void> {
  const left = identities.values();
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    for (const tls of left) {
      signal.throwIfAborted();
      await connect(endpoint, port, tls);
    }
  }));
}

function connect(endpoint: QuicEndpoint, port: number, tls: TlsIdentity): Promise<QuicConnection> {
  const server = { hostname: "127.0.0.1", port };
  const options = { tls, alpn: [QRHT_ALPN], keepAliveMs: 1_000 };
  return endpoint.connect(server, "quic-tunnel-server", options);
}

/**
 * Has a server with all agents take other routes over, which move all of them. Tells of each change the longest time in
 * which a byte went through a tunnel and back, before it and meanwhile, and how long it took, in ms.
 */
async function measureReloads(
  identities: readonly TlsIdentity[],
  echo: TlsIdentity,
): Promise<readonly [quiet: readonly number[], stood: readonly number[], took: readonly number[]]> {
  const config = `${dir}/server.yaml`;
  const write = (shift: number) =>
    Deno.writeTextFile(
      config,
      [
        "listen-quic: 127.0.0.1:0",
        `max-agents: ${AGENTS + 1}`,
        `listen-tcp: ["127.0.0.1:0@${ECHO}", "127.0.0.1:0"]`,
        ...Object.entries(serverFlags(dir)).map(([name, value]) => `${name}: ${value}`),
        "route:",
        ...Array.from(
          { length: ROUTES },
          (_, i) => `- ${nameOf(i + shift)},of-${shift}=10.${i >> 8}.${i & 255}.0/24`,
        ),
        "",
      ].join("\n"),
    );
  await write(0);
  await using server = new Program("server", programArguments("server", { config }));
  const [, tcp] = await server.said(
    new RegExp(`tcp listener on .*:(\\d+)" .*group=${ECHO}`),
    signal,
  );
  const [, quic] = await server.said(/quic listener on [\d.]+:(\d+)/, signal);
  await using endpoint = new QuicEndpoint({ hostname: "127.0.0.1", port: 0 });
  await connectAll(endpoint, Number(quic), identities);
  const agent = await connect(endpoint, Number(quic), echo);
  using client = await Deno.connect({ hostname: "127.0.0.1", port: Number(tcp) });
  client.setNoDelay(true);
  await client.write(new Uint8Array(1));
  const tunnel = await acceptTunnel(await agent.acceptStream(), QRHT_ALPN);
  if (!tunnel) throw new Error("no tunnel has come");
  tunnel.connected();
  const buffer = new Uint8Array(1);
  const goAndReturn = async () => {
    const since = performance.now();
    await client.write(buffer);
    await tunnel.carrier.read(buffer);
    await tunnel.carrier.write(buffer);
    await client.read(buffer);
    return performance.now() - since;
  };
  const longestUntil = async (isOver: () => boolean) => {
    let longest = 0;
    while (!isOver()) {
      signal.throwIfAborted();
      longest = Math.max(longest, await goAndReturn());
    }
    return longest;
  };
  await longestUntil(after(WARM_UP_MS));
  const [quiet, stood, took]: [number[], number[], number[]] = [[], [], []];
  for (let reload = 1; reload <= RELOADS; reload++) {
    quiet.push(await longestUntil(after(QUIET_MS)));
    await write(reload);
    server.lines.length = 0;
    const since = performance.now();
    server.kill("SIGHUP");
    const isOver = () =>
      server.lines.some((line) => line.includes('"config reloaded" flags=route'));
    stood.push(await longestUntil(isOver));
    took.push(performance.now() - since);
  }
  return [quiet, stood, took];
}

function after(ms: number): () => boolean {
  const since = performance.now();
  return () => performance.now() - since > ms;
}

const encode = (text: string) => new TextEncoder().encode(text);
try {
  const ca = await createCa({ commonName: "bench CA" });
  const issue = (commonName: string, usage: "server" | "client", dnsNames: readonly string[]) =>
    issueCertificate(ca, { commonName, usage, dnsNames });
  const { certPem, keyPem } = await issue("server", "server", ["quic-tunnel-server"]);
  await Deno.writeTextFile(`${dir}/ca.pem`, ca.certPem);
  await Deno.writeTextFile(`${dir}/server.pem`, certPem);
  await Deno.writeTextFile(`${dir}/server.key`, keyPem, { mode: 0o600 });
  const identityOf = async (name: string, group: string): Promise<TlsIdentity> => {
    const { certPem, keyPem } = await issue(name, "client", [group]);
    return { ca: encode(ca.certPem), cert: encode(certPem), key: encode(keyPem) };
  };
  const identities: TlsIdentity[] = [];
  for (let i = 0; i < AGENTS; i++) identities.push(await identityOf(`agent-${i}`, nameOf(i)));
  const routes = Array.from(
    { length: GROUPS },
    (_, i) => `--route=${nameOf(i)}=10.${i}.0.0/16,*.${i}.internal`,
  );
  const text = (row: readonly number[]) => row.map((value) => value.toFixed());
  console.log(alignColumns([
    ["server", "MiB at rest", `MiB with ${AGENTS} agents`, "KiB for each"],
    ["without groups", ...text(await measure(identities, []))],
    [`${GROUPS} groups`, ...text(await measure(identities, routes))],
  ]));
  const [quiet, stood, took] = await measureReloads(identities, await identityOf("echo", ECHO));
  const ms = (values: readonly number[]) => {
    const { median, min, max } = spreadOf(values);
    return [median.toFixed(1), `[${min.toFixed(1)} to ${max.toFixed(1)}]`];
  };
  console.log(
    `\n${ROUTES} routes, ${AGENTS} agents in ${GROUPS} groups, ${RELOADS} changes of all`,
  );
  console.log(alignColumns([
    ["", "ms", ""],
    ["a change", ...ms(took)],
    ["longest time of a byte through a tunnel and back meanwhile", ...ms(stood)],
    [`the same in ${QUIET_MS} ms without a change`, ...ms(quiet)],
  ]));
} finally {
  await Deno.remove(dir, { recursive: true });
}
