// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The TLS listener of a server, with curl, openssl and Node as its clients, welcome or not. */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { createCa, issueCertificate, type Issued } from "../../lib/certs/issue.ts";
import { lookAt } from "../../tools/process_look.ts";
import { eventually } from "../support/eventually.ts";
import { patternStream, sha256 } from "../support/pattern.ts";
import { anyPort, type ChildProgram, serverFlags, startProgram } from "../support/processes.ts";
import { Site } from "../support/site.ts";
import { runCommand } from "../support/system_command.ts";

const [trusted, other] = [
  await createCa({ commonName: "the CA" }),
  await createCa({ commonName: "other CA" }),
];

/** A server with a TLS listener, its agent and origin, and files for clients. */
class Scene implements AsyncDisposable {
  readonly site: Site;
  port = 0;
  program!: ChildProgram;

  private constructor(site: Site) {
    this.site = site;
  }

  static async start(): Promise<Scene> {
    const scene = new Scene(await Site.start());
    const { site } = scene;
    await scene.issue("egress", trusted, { usage: "server", dnsNames: ["localhost"] });
    await scene.issue("client", trusted);
    await scene.issue("foreign", other);
    await scene.issue("purpose", trusted, { usage: "server" });
    await scene.issue("stranger", trusted, { commonName: "stranger" });
    await scene.put("ca.pem", trusted.certPem);
    await scene.put("clients.pem", trusted.certPem);
    scene.program = site.use(startProgram("server", {
      "listen-quic": anyPort["listen-quic"],
      "listen-tls": "127.0.0.1:0",
      "tls-cert-file": scene.path("egress.pem"),
      "tls-cert-key": scene.path("egress.key"),
      "tls-client-ca-file": scene.path("clients.pem"),
      "client-name": "kube-apiserver",
      ...serverFlags(site.dir),
      v: 2,
    }));
    const [, port] = await scene.program.line(/tls listener on 127\.0\.0\.1:(\d+)/);
    const [, quic] = await scene.program.line(/quic listener on (127\.0\.0\.1:\d+)/);
    scene.port = Number(port);
    await site.agent(quic!, { allow: "127.0.0.1" });
    return scene;
  }

  path(file: string): string {
    return `${this.site.dir}/tls-${file}`;
  }

  put(file: string, text: string): Promise<void> {
    return Deno.writeTextFile(this.path(file), text, { mode: 0o600 });
  }

  async issue(
    name: string,
    ca: Issued,
    options: Partial<Parameters<typeof issueCertificate>[1]> = {},
  ): Promise<void> {
    const certificate = { commonName: "kube-apiserver", usage: "client" as const, ...options };
    const { certPem, keyPem } = await issueCertificate(ca, certificate);
    await this.put(`${name}.pem`, certPem);
    await this.put(`${name}.key`, keyPem);
  }

  /** What curl is told to get through the listener. */
  curlArguments(name: string, ...more: string[]): string[] {
    const files = { cacert: "ca.pem", cert: `${name}.pem`, key: `${name}.key` };
    const flags = Object.entries(files).flatMap(([flag, file]) => [
      `--proxy-${flag}`,
      this.path(file),
    ]);
    const proxy = ["-p", "--proxy", `https://localhost:${this.port}`, ...flags];
    return ["-sS", "--max-time", "60", ...proxy, ...more];
  }

  /** openssl as a client: what it has said at its end. */
  async openssl(input: string, ...args: string[]): Promise<string> {
    const { stdout, stderr } = await runCommand("openssl", this.opensslArguments(...args), {
      input,
    });
    return stdout + stderr;
  }

  opensslArguments(...args: string[]): string[] {
    return [
      "s_client",
      "-connect",
      `127.0.0.1:${this.port}`,
      "-CAfile",
      this.path("ca.pem"),
      ...args,
    ];
  }

  /** What openssl has said when it is answered by the origin, or refused. */
  async ask(args: string[]): Promise<string> {
    const client = new Deno.Command("openssl", {
      args: this.opensslArguments(...args),
      stdin: "piped",
      stdout: "piped",
      stderr: "null",
    }).spawn();
    const writer = client.stdin.getWriter();
    const request = `CONNECT ${this.site.origin} HTTP/1.1\r\n\r\n`;
    await writer.write(new TextEncoder().encode(request)).catch(() => {});
    let said = "";
    for await (const bytes of client.stdout) {
      said += new TextDecoder().decode(bytes);
      if (said.includes("HTTP/1.1 200")) await writer.close().catch(() => {});
    }
    await client.status;
    await writer.close().catch(() => {});
    return said;
  }

  /** Has the server trust another CA, of which a client gets in from then on. */
  async replaceCa({ certPem }: Issued, client: string): Promise<void> {
    await this.put("clients.pem", certPem);
    this.program.kill("SIGHUP");
    const curl = this.curlArguments(client, `http://${this.site.origin}/`);
    await eventually("the CA is in use", async () => (await runCommand("curl", curl)).code === 0);
  }

  clientFiles(name: string): string[] {
    return ["-cert", this.path(`${name}.pem`), "-key", this.path(`${name}.key`)];
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.site[Symbol.asyncDispose]();
  }
}

Deno.test("curl downloads and uploads through the TLS listener", async () => {
  await using scene = await Scene.start();
  const size = 100_000_000;
  const expected = await sha256(patternStream(size));
  const url = `http://${scene.site.origin}`;
  const curl = (...args: string[]) =>
    new Deno.Command("curl", {
      args: scene.curlArguments("client", ...args),
      stdin: "piped",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
  const down = curl(`${url}/bytes/${size}`);
  await down.stdin.close();
  assertEquals(await sha256(down.stdout), expected);
  assertEquals((await down.status).code, 0);
  const up = curl("-X", "POST", "-H", "Expect:", "-T", "-", `${url}/`);
  await patternStream(size).pipeTo(up.stdin);
  const { code, stdout } = await up.output();
  assertEquals([new TextDecoder().decode(stdout).trim(), code], [expected, 0]);
  await scene.program.line(/accepted tls connection.* front=tls name=kube-apiserver/);
});

Deno.test("openssl is refused by the TLS listener without the right certificate, and gets no session", async () => {
  await using scene = await Scene.start();
  for (const version of ["-tls1_2", "-tls1_3"]) {
    const none = await scene.openssl("", version, "-ign_eof");
    assertMatch(none, /alert certificate required/);
    for (const name of ["foreign", "purpose", "stranger"]) {
      const session = scene.path(`${name}${version}.session`);
      const said = await scene.openssl(
        "",
        version,
        "-ign_eof",
        ...scene.clientFiles(name),
        "-sess_out",
        session,
      );
      assertMatch(said, /errno=104|unexpected eof/);
      await assertRejects(() => Deno.stat(session), Deno.errors.NotFound);
    }
  }
  await scene.program.line(/tls client refused.*the client sent no certificate/);
  await scene.program.line(/tls client refused.*issued by \\"CN=other CA\\"/);
  await scene.program.line(/tls client refused.*not meant for clients/);
  await scene.program.line(/tls client refused.*names=stranger/);
  // Before TLS 1.2, and without TLS.
  assertMatch(await scene.openssl("", "-tls1_1", "-cipher", "ALL@SECLEVEL=0"), /errno=104|error/);
  const plain = ["-sS", `http://127.0.0.1:${scene.port}/`];
  await eventually("a line of the next second", async () => {
    const { stdout } = await runCommand("curl", plain);
    assertEquals(stdout, "this port expects TLS\n");
    return scene.program.lines.some((line) => line.includes("speaks HTTP without TLS"));
  });
});

Deno.test("openssl resumes its session only as long as the TLS listener accepts its certificate", async () => {
  await using scene = await Scene.start();
  const session = scene.path("session.pem");
  for (const version of ["-tls1_2", "-tls1_3"]) {
    const first = [version, ...scene.clientFiles("client"), "-sess_out", session];
    assertMatch(await scene.ask(first), /New, TLS[^]*HTTP\/1\.1 200/);
    const resume = [version, "-sess_in", session];
    assertMatch(await scene.ask(resume), /Reused, TLS[^]*HTTP\/1\.1 200/);
    await scene.replaceCa(other, "foreign");
    const log = scene.program.lines.length;
    assert(!(await scene.ask(resume)).includes("HTTP/1.1 200"));
    await eventually("the refusal is logged", () => {
      const lines = scene.program.lines.slice(log);
      return lines.some((line) => /tls client refused.*not signed by the CA/.test(line));
    });
    await scene.replaceCa(trusted, "client");
  }
});

Deno.test("openssl cannot renegotiate with the TLS listener, and its offer of ALPN is ignored", async () => {
  await using scene = await Scene.start();
  const files = scene.clientFiles("client");
  const renegotiated = await scene.openssl("R\n", "-tls1_2", ...files);
  assertMatch(renegotiated, /RENEGOTIATING[^]*(?:no renegotiation|error|closed)/);
  const offered = await scene.openssl("Q\n", ...files, "-alpn", "h2,http/1.1");
  assertMatch(offered, /No ALPN negotiated/);
  assertMatch(offered, /Verify return code: 0/);
  const { code } = await runCommand(
    "curl",
    scene.curlArguments("client", `http://${scene.site.origin}/`),
  );
  assertEquals(code, 0);
});

Deno.test("a client that is killed in its upload is no end of it for the target", async () => {
  await using scene = await Scene.start();
  using target = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const client = new Deno.Command("openssl", {
    args: scene.opensslArguments(...scene.clientFiles("client"), "-quiet"),
    stdin: "piped",
    stdout: "null",
    stderr: "null",
  }).spawn();
  const writer = client.stdin.getWriter();
  const head = `CONNECT 127.0.0.1:${target.addr.port} HTTP/1.1\r\n\r\n`;
  await writer.write(new TextEncoder().encode(`${head}half an upload`));
  using connection = await target.accept();
  const buffer = new Uint8Array(100);
  assertEquals(await connection.read(buffer), 14);
  client.kill("SIGKILL");
  await assertRejects(async () => await connection.read(buffer), Deno.errors.ConnectionReset);
  await client.status;
  await writer.close().catch(() => {});
  await scene.program.line(/tunnel ended.*by=client reason=reset.*close_notify/);
});

Deno.test("Node gets through the TLS listener, and closes each direction by itself", async () => {
  await using scene = await Scene.start();
  const script = `
    const { readFileSync } = require("node:fs");
    const [port, ca, cert, key, origin] = process.argv.slice(1);
    const read = (path) => readFileSync(path);
    const socket = require("node:tls").connect({
      host: "localhost", port, ca: read(ca), cert: read(cert), key: read(key), allowHalfOpen: true,
    });
    socket.on("data", (bytes) => process.stdout.write(bytes));
    socket.on("end", () => console.log("END"));
    const get = "GET /bytes/3 HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n";
    socket.end("CONNECT " + origin + " HTTP/1.1\\r\\n\\r\\n" + get);
  `;
  const files = ["ca.pem", "client.pem", "client.key"].map((file) => scene.path(file));
  const args = ["-e", script, String(scene.port), ...files, scene.site.origin];
  const { stdout, stderr } = await runCommand("node", args);
  assertMatch(stdout, /^HTTP\/1\.1 200 OK\r\n\r\nHTTP\/1\.1 200 [^]*END\n$/, stderr);
});

Deno.test("1 000 handshakes that stop keep no client from the TLS listener, and leave nothing behind", async () => {
  await using scene = await Scene.start();
  const look = async () => {
    const { pid } = scene.program;
    const { files, rssKib } = (await lookAt([pid])).get(pid)!;
    return { files, megabytes: rssKib / 1024 };
  };
  const before = await look();
  // A handshake of openssl, of which the server has answered the first message.
  const hello = await clientHello();
  const strangers: Deno.TcpConn[] = [];
  while (strangers.length < 1_000) {
    const stranger = await Deno.connect({ hostname: "127.0.0.1", port: scene.port });
    await stranger.write(hello.subarray(0, strangers.length % 2 === 0 ? hello.length : 100));
    strangers.push(stranger);
  }
  await eventually("all are open", async () => (await look()).files > before.files + 900);
  const curl = scene.curlArguments("client", `http://${scene.site.origin}/`);
  await eventually("a client gets through", async () => {
    return (await runCommand("curl", curl)).code === 0;
  }, 3_000);
  const growth = (await look()).megabytes - before.megabytes;
  assert(growth < 150, `${growth} MiB`);
  const areGone = async () => (await look()).files < before.files + 10;
  await eventually("none is open", areGone, 15_000);
  for (const stranger of strangers) stranger.close();
});

/** What a client begins with. */
async function clientHello(): Promise<Uint8Array> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const client = runCommand("openssl", ["s_client", "-connect", `127.0.0.1:${listener.addr.port}`]);
  using connection = await listener.accept();
  const buffer = new Uint8Array(4096);
  const length = await connection.read(buffer);
  await connection.closeWrite();
  await client;
  return buffer.slice(0, length!);
}
