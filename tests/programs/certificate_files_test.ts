// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The programs as processes, whose certificates are replaced while they run. */

import { assert, assertEquals } from "@std/assert";
import {
  type CertificateOptions,
  createCa,
  issueCertificate,
  type Issued,
} from "../../lib/certs/issue.ts";
import { inDays } from "../support/certificate_files.ts";
import { ChildProgram, programArguments, startProgram } from "../support/processes.ts";
import { assertBody, Site } from "../support/site.ts";

/** More than the interval at which the programs look at their files. */
const POLL_MS = 25_000;

const [oldCa, newCa] = [
  await createCa({ commonName: "old CA" }),
  await createCa({ commonName: "new CA" }),
];

const serverNamed = (commonName: string): CertificateOptions => ({
  commonName,
  usage: "server",
  dnsNames: ["quic-tunnel-server"],
});
const agentNamed = (commonName: string): CertificateOptions => ({ commonName, usage: "client" });

/** Files of one program in the folder of a site: a certificate of a CA, and the CA that is trusted. */
class Files {
  readonly #path: string;

  constructor({ dir }: Site, name: string) {
    this.#path = `${dir}/${name}`;
  }

  /** Replaces each file at once. */
  async write(
    issuer: Issued,
    options: CertificateOptions,
    trusted: Pick<Issued, "certPem">,
  ): Promise<void> {
    const { certPem, keyPem } = await issueCertificate(issuer, options);
    const contents = { cert: certPem, key: keyPem, ca: trusted.certPem };
    for (const [name, text] of Object.entries(contents)) {
      await Deno.writeTextFile(`${this.#path}.new`, text, { mode: 0o600 });
      await Deno.rename(`${this.#path}.new`, `${this.#path}.${name}`);
    }
  }

  flags(caFlag: "ca-file" | "client-ca-file"): Record<string, string> {
    const path = this.#path;
    return { "cert-file": `${path}.cert`, "cert-key": `${path}.key`, [caFlag]: `${path}.ca` };
  }
}

/** How agents reach the server of a site. */
const transports = ["udp", "tcp"] as const;
type Transport = typeof transports[number];

/** An agent of a CA that trusts servers of a CA. */
async function startAgent(
  site: Site,
  quic: string,
  name: string,
  issuer: Issued,
  trusted: Issued,
  flags: Record<string, string> = {},
) {
  const files = new Files(site, name);
  await files.write(issuer, agentNamed(name), trusted);
  const all = { server: quic, ...files.flags("ca-file"), ...flags };
  return { files, program: site.use(startProgram("agent", all)) };
}

/** A server of the old CA, for agents of the old CA. */
async function startServer(site: Site, flags: Record<string, string> = {}) {
  const files = new Files(site, "server");
  await files.write(oldCa, serverNamed("server-old"), oldCa);
  return { files, ...await site.server({ ...files.flags("client-ca-file"), ...flags }) };
}

async function replaceServerCertificate(transport: Transport): Promise<void> {
  await using site = await Site.start();
  const flags = transport === "tcp" ? { "listen-fallback": "127.0.0.1:0" } : {};
  const { files, program: server, tcpPort, quic } = await startServer(site, flags);
  const fallback = transport === "tcp"
    ? (await server.line(/fallback listener on ([\d.:]+)/))[1]!
    : quic;
  const start = (name: string, issuer: Issued, trusted: Issued) =>
    startAgent(site, quic, name, issuer, trusted, { transport, fallback });
  const old = await start("agent-old", oldCa, oldCa);
  await server.line(/agent connected.* agent=agent-old /);
  // More than is under way while nobody reads.
  const size = 20_000_000;
  const client = await site.request(tcpPort, size);
  await files.write(newCa, serverNamed("server-new"), newCa);
  server.kill("SIGHUP");
  await server.line(/INF tls "certificates reloaded" subject="CN=server-new".* notAfter=\d/);
  await assertBody(client, size);
  await assertBody(await site.request(tcpPort, 1), 1);

  await start("agent-new", newCa, newCa);
  await server.line(/agent connected.* agent=agent-new .* agents=2$/);
  const late = await start("agent-late", oldCa, newCa);
  await late.program.line(/cannot connect to the server.*TLS alert 48, certificate of an unknown/);
  await server.line(/WRN server "agent refused".*TLS alert 48, certificate of an unknown CA/);
  const trustsOld = await start("agent-trusting", newCa, oldCa);
  await trustsOld.program.line(
    transport === "tcp"
      ? /cannot connect to the server.*UnknownIssuer/
      : /cannot connect to the server.*not signed by the CA.*new CA/,
  );
  const connected = server.lines.filter((line) => line.includes('"agent connected"'));
  assertEquals(connected.length, 2, connected.join("\n"));
  assert(connected.every((line) => line.includes(`transport=${transport}`)));
  assert(!old.program.lines.some((line) => line.includes("disconnected")));
}

for (const transport of transports) {
  Deno.test(
    `the server uses new certificates for new agents only, and a tunnel over ${transport} loses nothing over it`,
    () => replaceServerCertificate(transport),
  );
}

Deno.test("an agent finds its new certificate by itself, and shows it at its next connect", async () => {
  await using site = await Site.start();
  const { files, program: server, quic } = await startServer(site);
  const agent = await startAgent(site, quic, "agent-1", oldCa, oldCa);
  await agent.program.line(/connected to quic server/);
  await agent.files.write(newCa, agentNamed("agent-2"), newCa);
  await agent.program.line(/INF tls "certificates reloaded" subject="CN=agent-2"/, POLL_MS);
  assert(!agent.program.lines.some((line) => line.includes("disconnected")));
  server.kill("SIGTERM");
  await server.status;
  await files.write(newCa, serverNamed("server-new"), newCa);
  const again = await site.server({ ...files.flags("client-ca-file"), "listen-quic": quic });
  await again.program.line(/agent connected.* agent=agent-2 /);
});

Deno.test("each program says at its start which certificate it has, and when it or its CA expires soon", async () => {
  await using site = await Site.start();
  const life = (name: string, days: number) => ({
    commonName: name,
    notBefore: inDays(-300),
    notAfter: inDays(days),
  });
  const ca = await createCa(life("tired CA", 20.5));
  const files = new Files(site, "tired");
  await files.write(ca, { ...serverNamed(""), ...life("tired", 5.5) }, ca);
  const flags = { server: "127.0.0.1:1", ...files.flags("ca-file") };
  const { program: server } = await site.server(files.flags("client-ca-file"));
  const agent = site.use(startProgram("agent", flags));
  const passthrough = site.use(
    startProgram("passthrough", { upstream: "127.0.0.1:1", ...flags }),
  );
  const programs = [[server, "--client-ca-file"], [agent, "--ca-file"], [passthrough, "--ca-file"]];
  for (const [program, caFlag] of programs as [typeof server, string][]) {
    await program.line(
      /INF tls "certificates loaded" subject="CN=tired" names=".*tired" fingerprint=/,
    );
    await program.line(
      /ERR tls .*expires soon" file=--cert-file subject="CN=tired" .* daysLeft=5$/,
    );
    const tiredCa = `WRN tls .*expires soon" file=${caFlag} subject="CN=tired CA" .* daysLeft=20$`;
    await program.line(new RegExp(tiredCa));
    program.kill("SIGHUP");
    await program.line(/INF tls "certificates unchanged" subject="CN=tired"/);
  }
});

Deno.test("programs connect and are ready with a CA that has expired beside its successor", async () => {
  await using site = await Site.start();
  const [expired, ca] = [
    await createCa({ commonName: "CA", notBefore: inDays(-30), notAfter: inDays(-1) }),
    await createCa({ commonName: "CA" }),
  ];
  const both = { certPem: expired.certPem + ca.certPem };
  const [serverFiles, agentFiles] = [new Files(site, "server"), new Files(site, "agent")];
  await serverFiles.write(ca, serverNamed("server"), both);
  await agentFiles.write(ca, agentNamed("agent"), both);
  const listenAdmin = { "listen-admin": "127.0.0.1:0" };
  const { program: server, quic } = await site.server({
    ...serverFiles.flags("client-ca-file"),
    ...listenAdmin,
  });
  const flags = { server: quic, ...agentFiles.flags("ca-file") };
  const agent = site.use(startProgram("agent", { ...flags, ...listenAdmin }));
  await agent.line(/connected to quic server/);
  for (const [program, file] of [[server, "--client-ca-file"], [agent, "--ca-file"]] as const) {
    await program.line(
      new RegExp(`WRN tls "expired certificates are not used" file=${file} subjects="CN=CA"$`),
    );
    const [, address] = await program.line(/INF admin ".*" address=(\S+)$/);
    const response = await fetch(`http://${address}/readyz`);
    const text = await response.text();
    assertEquals(response.status, 200, text);
    assert(!program.lines.some((line) => / ERR /.test(line)), program.lines.join("\n"));
  }
  const check = site.use(
    new ChildProgram(Deno.execPath(), [...programArguments("agent", flags), "--check"]),
  );
  await check.line(/^warn +certificates: .*; not used: "CN=CA" in --ca-file expired on /);
  await check.line(/^all checks passed, with/);
});
