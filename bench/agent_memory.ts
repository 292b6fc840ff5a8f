// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- a command for the terminal, which logs nothing

/**
 * `deno task bench-agents`: resident memory of a server with many agents, all alike or in many groups. On
 * Linux, which tells it in /proc.
 */
import { delay } from "@std/async/delay";
import { createCa, issueCertificate } from "../lib/certs/issue.ts";
import { QuicEndpoint, type TlsIdentity } from "../lib/quic/mod.ts";
import { anyPort, programArguments, serverFlags } from "../tools/project_program.ts";
import { alignColumns } from "../tools/columns.ts";
import { lookAt } from "../tools/process_look.ts";
import { Program } from "./program.ts";

const AGENTS = 1_000;
const GROUPS = 200;
/** Agents that connect at a time. */
const AT_ONCE = 20;
/** What is left to the server, to give up what it needs no more. */
const SETTLE_MS = 4_000;
/** Everything together is given up after this. */
const TOTAL_MS = 170_000;

const nameOf = (group: number) => `group-${group}`;
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
  const left = Array.from({ length: AGENTS }, (_, i) => identities[i]!).values();
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    for (const tls of left) {
      signal.throwIfAborted();
      await endpoint.connect(
        { hostname: "127.0.0.1", port: Number(port) },
        "quic-tunnel-server",
        { tls, alpn: ["qrht/1"], keepAliveMs: 1_000 },
      );
    }
  }));
  const after = await rss();
  return [before, after, (after - before) * 1_024 / AGENTS];
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
  const identities: TlsIdentity[] = [];
  for (let i = 0; i < AGENTS; i++) {
    const { certPem, keyPem } = await issue(`agent-${i}`, "client", [nameOf(i % GROUPS)]);
    identities.push({ ca: encode(ca.certPem), cert: encode(certPem), key: encode(keyPem) });
  }
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
} finally {
  await Deno.remove(dir, { recursive: true });
}
