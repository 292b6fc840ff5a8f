// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The programs as processes, whose certificates are replaced while they run. */

import { Buffer } from "node:buffer";
import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  type CertificateOptions,
  createCa,
  issueCertificate,
  type Issued,
} from "../../certs/issue.ts";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { tcpDuplex } from "../../lib/tunnel/tcp_duplex.ts";
import { pattern } from "../support/bytes.ts";
import { readExactly } from "../support/memory_duplex.ts";
import { loopback, OK, requestFor, soon } from "../support/network.ts";
import { ChildProgram, startProgram } from "../support/processes.ts";

const DAY_MS = 24 * 60 * 60 * 1000;

/** More than the interval at which the programs look at their files. */
const POLL_MS = 25_000;

const [oldCa, newCa] = [
  await createCa({ commonName: "old CA" }),
  await createCa({ commonName: "new CA" }),
];

/** A folder for the files of one program. */
class Folder implements AsyncDisposable {
  private constructor(readonly path: string) {}

  static async create(): Promise<Folder> {
    return new Folder(await Deno.makeTempDir());
  }

  /** Writes certificate and key of a CA, and the CA that is trusted, each file at once. */
  async write(issuer: Issued, options: CertificateOptions, trusted: Issued): Promise<void> {
    const { certPem, keyPem } = await issueCertificate(issuer, options);
    await this.put("cert.pem", certPem);
    await this.put("key.pem", keyPem);
    await this.put("ca.pem", trusted.certPem);
  }

  async put(name: string, text: string): Promise<void> {
    await Deno.writeTextFile(`${this.path}/${name}.new`, text);
    await Deno.rename(`${this.path}/${name}.new`, `${this.path}/${name}`);
  }

  flags(caFlag: "ca-file" | "client-ca-file") {
    return {
      "cert-file": `${this.path}/cert.pem`,
      "cert-key": `${this.path}/key.pem`,
      [caFlag]: `${this.path}/ca.pem`,
    };
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Deno.remove(this.path, { recursive: true });
  }
}

const serverNamed = (commonName: string): CertificateOptions => ({
  commonName,
  usage: "server",
  dnsNames: ["quic-tunnel-server"],
});
const agentNamed = (commonName: string): CertificateOptions => ({ commonName, usage: "client" });

/** Programs, and the folders of their files. */
class Stage implements AsyncDisposable {
  readonly #stack = new AsyncDisposableStack();

  async folder(): Promise<Folder> {
    return this.#stack.use(await Folder.create());
  }

  /** A server of the old CA, for agents of the old CA. */
  async server(flags: Record<string, string> = {}) {
    const folder = await this.folder();
    await folder.write(oldCa, serverNamed("server-old"), oldCa);
    return { folder, ...await this.serverOf(folder, flags) };
  }

  async serverOf(folder: Folder, flags: Record<string, string> = {}) {
    const program = this.#stack.use(startProgram("server", {
      "listen-tcp": "127.0.0.1:0",
      "listen-quic": "127.0.0.1:0",
      ...folder.flags("client-ca-file"),
      ...flags,
    }));
    const [, tcp] = await program.line(/tcp listener on 127\.0\.0\.1:(\d+)/);
    const [, quic] = await program.line(/quic listener on 127\.0\.0\.1:(\d+)/);
    return { program, tcpPort: Number(tcp), quicPort: Number(quic) };
  }

  /** An agent of some CA that trusts servers of some CA. */
  async agent(quicPort: number, name: string, issuer = oldCa, trusted = oldCa) {
    const folder = await this.folder();
    await folder.write(issuer, agentNamed(name), trusted);
    const flags = { server: `127.0.0.1:${quicPort}`, ...folder.flags("ca-file") };
    return { folder, program: this.#stack.use(startProgram("agent", flags)) };
  }

  passthrough(flags: Record<string, string>): ChildProgram {
    return this.#stack.use(startProgram("passthrough", flags));
  }

  /** A target that sends back what it gets. Its authority. */
  echo(): string {
    const listener = Deno.listen(loopback(0));
    const serve = async () => {
      for await (const { readable, writable } of listener) {
        void readable.pipeTo(writable).catch(() => {});
      }
    };
    const serving = serve();
    this.#stack.defer(() => {
      listener.close();
      return serving;
    });
    return `127.0.0.1:${(listener.addr as Deno.NetAddr).port}`;
  }

  async tunnel(tcpPort: number, target: string) {
    const client = tcpDuplex(await Deno.connect(loopback(tcpPort)));
    this.#stack.defer(() => client.abort());
    await writeAll(client, new TextEncoder().encode(requestFor(target)));
    const answer = await soon("the answer", readExactly(client, OK.length));
    assertEquals(new TextDecoder().decode(answer), OK);
    return client;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#stack.disposeAsync();
  }
}

Deno.test("the server uses new certificates for new agents only, and a tunnel loses nothing over it", async () => {
  await using stage = new Stage();
  const { folder, program: server, tcpPort, quicPort } = await stage.server();
  const old = await stage.agent(quicPort, "agent-old");
  await server.line(/agent connected.* agent=agent-old /);
  const target = stage.echo();
  const client = await stage.tunnel(tcpPort, target);

  const bytes = pattern(10_000_000);
  const writing = writeAll(client, bytes);
  const head = await readExactly(client, 1_000_000);
  await folder.write(newCa, serverNamed("server-new"), newCa);
  server.kill("SIGHUP");
  await server.line(/INF tls "certificates reloaded" subject="CN=server-new".* notAfter=\d/);
  const rest = await readExactly(client, bytes.length - head.length);
  await writing;
  assertEquals(Buffer.compare(head, bytes.subarray(0, head.length)), 0, "the first bytes");
  assertEquals(Buffer.compare(rest, bytes.subarray(head.length)), 0, "the bytes after them");
  await writeAll(await stage.tunnel(tcpPort, target), bytes.subarray(0, 1));

  await stage.agent(quicPort, "agent-new", newCa, newCa);
  await server.line(/agent connected.* agent=agent-new .* agents=2$/);
  const lateOld = await stage.agent(quicPort, "agent-late", oldCa, newCa);
  await lateOld.program.line(
    /cannot connect to the server.*TLS alert 48, certificate of an unknown/,
  );
  await server.line(/WRN server "agent refused".*TLS alert 48, certificate of an unknown CA/);
  const trustsOld = await stage.agent(quicPort, "agent-trusting", newCa, oldCa);
  await trustsOld.program.line(/cannot connect to the server.*not signed by the CA.*new CA/);

  await writeAll(client, bytes.subarray(0, 1000));
  assertEquals(await readExactly(client, 1000), bytes.subarray(0, 1000));
  const connected = server.lines.filter((line) => line.includes('"agent connected"'));
  assertEquals(connected.length, 2, connected.join("\n"));
  assert(!old.program.lines.some((line) => line.includes("disconnected")));
});

Deno.test("an agent finds its new certificate by itself, and shows it at its next connect", async () => {
  await using stage = new Stage();
  const { folder, program: server, quicPort } = await stage.server();
  const agent = await stage.agent(quicPort, "agent-1");
  await agent.program.line(/connected to quic server/);
  await agent.folder.write(newCa, agentNamed("agent-2"), newCa);
  await agent.program.line(/INF tls "certificates reloaded" subject="CN=agent-2"/, POLL_MS);
  assert(!agent.program.lines.some((line) => line.includes("disconnected")));
  server.kill("SIGTERM");
  await server.status;
  await folder.write(newCa, serverNamed("server-new"), newCa);
  const again = await stage.serverOf(folder, { "listen-quic": `127.0.0.1:${quicPort}` });
  await again.program.line(/agent connected.* agent=agent-2 /);
});

Deno.test("a set that does not fit is refused at SIGHUP, and what is in use goes on", async () => {
  await using stage = new Stage();
  const { folder, program: server, tcpPort, quicPort } = await stage.server();
  const { keyPem } = await issueCertificate(oldCa, serverNamed("somebody else"));
  const good = await Deno.readTextFile(`${folder.path}/key.pem`);
  await folder.put("key.pem", keyPem);
  server.kill("SIGHUP");
  const [line] = await server.line(/.* ERR tls "certificates not reloaded" error=.*/);
  assertMatch(line, /--cert-key .*key\.pem.* does not belong to the certificate in --cert-file/);
  await stage.agent(quicPort, "agent-1");
  await server.line(/agent connected.* agent=agent-1 /);
  await stage.tunnel(tcpPort, stage.echo());
  await folder.put("key.pem", good);
  server.kill("SIGHUP");
  await server.line(/INF tls "certificates unchanged" subject="CN=server-old"/);
  const secrets = (good + keyPem).split("\n").filter((text) => text !== "" && !/-----/.test(text));
  assertEquals(secrets.filter((secret) => server.lines.join("\n").includes(secret)), []);
});

Deno.test("each program says at its start which certificate it has, and when it or its CA expires soon", async () => {
  await using stage = new Stage();
  const life = (name: string, days: number) => ({
    commonName: name,
    notBefore: new Date(Date.now() - 300 * DAY_MS),
    notAfter: new Date(Date.now() + days * DAY_MS),
  });
  const ca = await createCa(life("tired CA", 20.5));
  const folder = await stage.folder();
  await folder.write(ca, { ...serverNamed(""), ...life("tired", 5.5) }, ca);
  const { program: server } = await stage.serverOf(folder);
  const agents = [
    (await stage.agent(1, "fresh", oldCa, ca)).program,
    stage.passthrough({
      upstream: "127.0.0.1:1",
      server: "127.0.0.1:1",
      ...folder.flags("ca-file"),
    }),
  ];
  await server.line(
    /INF tls "certificates loaded" subject="CN=tired" names=".*tired" fingerprint=/,
  );
  await server.line(/ERR tls .*expires soon" file=--cert-file subject="CN=tired" .* daysLeft=5$/);
  await server.line(/WRN tls .*expires soon" file=--client-ca-file .*"CN=tired CA".* daysLeft=20$/);
  await agents[0]!.line(/INF tls "certificates loaded" subject="CN=fresh"/);
  for (const agent of agents) {
    await agent.line(/WRN tls .*expires soon" file=--ca-file .*"CN=tired CA".* daysLeft=20$/);
  }
  await agents[1]!.line(/ERR tls .*expires soon" file=--cert-file .* daysLeft=5$/);
  agents[1]!.kill("SIGHUP");
  await agents[1]!.line(/INF tls "certificates unchanged" subject="CN=tired"/);
});

Deno.test("--agent-name lets agents in by the names in their certificates only", async () => {
  await using stage = new Stage();
  const names = { "agent-name": "agent-1,*.agents.example" };
  const { program: server, quicPort } = await stage.server(names);
  const bad = await stage.agent(quicPort, "agent-2");
  await bad.program.line(
    /WRN agent .*closed by the peer: code 102 \(not admitted: the certificate/,
  );
  await server.line(/WRN server "agent refused" .* names=agent-2 reason="not admitted: /);
  await stage.agent(quicPort, "agent-1");
  await server.line(/agent connected.* agent=agent-1 .* agents=1$/);
  await stage.agent(quicPort, "x.agents.example");
  await server.line(/agent connected.* agent=x\.agents\.example .* agents=2$/);
  assert(!server.lines.some((line) => /agent connected.*agent-2/.test(line)));

  const folder = await stage.folder();
  await using wrong = startProgram("server", {
    ...folder.flags("client-ca-file"),
    "agent-name": "*",
  });
  assertEquals((await wrong.status).code, 2);
  await wrong.line(/^proxy-server: invalid value "\*" for flag --agent-name: .* first label/);
});
