// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What it takes that clients present certificates: at the server's TLS listener, and at HAProxy in front of TCP. */
import { delay } from "@std/async/delay";
import { ChildProgram } from "../tools/child_program.ts";
import { cpuTimes, quiet } from "./cpu.ts";
import { get } from "./http_client.ts";
import type { Bench } from "./row.ts";
import { transfer } from "./transfer.ts";
import { startTunnel, type Tunnel } from "./tunnels.ts";
import type { Way } from "./way.ts";

const HAPROXY = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"];

/** Clients that connect anew all the time. */
const CLIENTS = 16;

/** A way to the origins, and whose CPU time it takes. */
interface Subject {
  readonly id: string;
  readonly name: string;
  readonly way: Omit<Way, "target">;
  readonly tunnel: Tunnel;
  /** Those in front of the agent. */
  readonly pids: readonly number[];
}

export async function measureTls(bench: Bench): Promise<void> {
  const { certificates, isShort, signal } = bench;
  await using started = new AsyncDisposableStack();
  const tunnel = async (flags = {}) =>
    started.use(await startTunnel({ certificates, signal, serverFlags: flags }));
  const read = (file: string) => Deno.readTextFile(`${certificates}/${file}`);
  const tls = {
    caCerts: [await read("ca.pem")],
    cert: await read("client.pem"),
    key: await read("client.key"),
  };
  const hostname = "127.0.0.1";
  const plain = await tunnel();
  const subjects: Subject[] = [{
    id: "tcp",
    name: "TCP",
    way: { hostname, port: plain.ports.tcp },
    tunnel: plain,
    pids: [plain.server.pid],
  }];
  const own = await tunnel({
    "listen-tls": `${hostname}:0`,
    "tls-cert-file": `${certificates}/server.pem`,
    "tls-cert-key": `${certificates}/server.key`,
    "tls-client-ca-file": `${certificates}/ca.pem`,
    mode: "raw",
  });
  const [, port] = await own.server.said(/tls listener on [\d.]+:(\d+)/, signal);
  subjects.push({
    id: "tls",
    name: "TLS",
    way: { hostname, port: Number(port), tls },
    tunnel: own,
    pids: [own.server.pid],
  });
  const haproxy = await findHaproxy();
  if (haproxy === undefined) {
    bench.note(
      "tls: HAProxy is not installed (Debian package haproxy), so nothing is compared with it",
    );
  } else {
    const port = freePort();
    const config = await haproxyConfig(certificates, port, plain.ports.tcp);
    const program = started.use(new ChildProgram(haproxy, ["-db", "-f", config]));
    await listening(port, program);
    const pids = [plain.server.pid, program.pid];
    const way = { hostname, port, tls };
    subjects.push({ id: "haproxy", name: "HAProxy and TCP", way, tunnel: plain, pids });
  }
  for (const subject of subjects) await connections(subject, bench, 300);
  for (let run = 0; run < (isShort ? 2 : 5); run++) {
    if (!await quiet()) bench.note(`tls: the machine was busy in run ${run + 1}`);
    for (const subject of subjects) await measure(subject, bench, isShort);
  }
}

async function measure(subject: Subject, bench: Bench, isShort: boolean): Promise<void> {
  const { id, name, way, tunnel, pids } = subject;
  const { figures, origin, signal } = bench;
  const bytes = isShort ? 100e6 : 200e6;
  for (const direction of ["down", "up"] as const) {
    const all = [...pids, tunnel.agent.pid];
    const before = await cpuTimes(all);
    const target = `127.0.0.1:${origin}`;
    const { seconds } = await transfer({ way: { ...way, target }, direction, bytes, signal });
    const after = await cpuTimes(all);
    const spent = after?.processes.map((end, i) => (end - before!.processes[i]!) / (bytes / 1e9));
    const agent = spent?.pop();
    const cpu = spent && { server: sum(spent), agent: agent! };
    const figure = { id: `tls/${id}/${direction}`, name: `${name}, ${direction}`, unit: "MB/s" };
    figures.add(figure, bytes / 1e6 / seconds, cpu);
  }
  const { perSecond, cpuMs } = await connections(subject, bench, isShort ? 1_000 : 3_000);
  const what = `${name}, new connections`;
  figures.add({ id: `tls/${id}/connections`, name: what, unit: "1/s" }, perSecond);
  if (cpuMs === undefined) return;
  figures.add({ id: `tls/${id}/cpu`, name: `${what}, CPU of each`, unit: "ms" }, cpuMs);
}

/** Has clients send one request on a new connection after the other. */
async function connections(
  { way, pids }: Subject,
  { origin, signal }: Bench,
  ms: number,
): Promise<{ perSecond: number; cpuMs: number | undefined }> {
  const target = `127.0.0.1:${origin}`;
  let count = 0;
  const before = await cpuTimes(pids);
  const since = performance.now();
  const ask = async () => {
    while (performance.now() - since < ms) {
      signal.throwIfAborted();
      await get({ ...way, target });
      count++;
    }
  };
  await Promise.all(Array.from({ length: CLIENTS }, ask));
  const perSecond = count * 1_000 / (performance.now() - since);
  const after = await cpuTimes(pids);
  const spent = after && sum(after.processes) - sum(before!.processes);
  return { perSecond, cpuMs: spent === undefined ? undefined : spent * 1_000 / count };
}

const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);

async function findHaproxy(): Promise<string | undefined> {
  for (const path of HAPROXY) {
    try {
      await Deno.stat(path);
      return path;
    } catch {
      // Perhaps there is another one.
    }
  }
  return undefined;
}

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

/** Has HAProxy demand of clients in front of a server what its TLS listener demands. */
async function haproxyConfig(
  certificates: string,
  port: number,
  serverPort: number,
): Promise<string> {
  const read = (file: string) => Deno.readTextFile(`${certificates}/${file}`);
  const bundle = `${certificates}/haproxy.pem`;
  const pem = await read("server.pem") + await read("server.key");
  await Deno.writeTextFile(bundle, pem, { mode: 0o600 });
  const path = `${certificates}/haproxy.cfg`;
  await Deno.writeTextFile(
    path,
    `global
  maxconn 1000
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen front
  bind 127.0.0.1:${port} ssl crt ${bundle} ca-file ${certificates}/ca.pem verify required
  server server 127.0.0.1:${serverPort}
`,
  );
  return path;
}

async function listening(port: number, program: ChildProgram): Promise<void> {
  const giveUpAt = performance.now() + 5_000;
  for (;;) {
    try {
      return (await Deno.connect({ hostname: "127.0.0.1", port })).close();
    } catch (error) {
      if (performance.now() < giveUpAt) await delay(50);
      else throw new Error(`HAProxy does not listen: ${program.lines.join(" ")}`, { cause: error });
    }
  }
}
