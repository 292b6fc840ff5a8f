// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Agents on Deno's own QUIC as processes: which servers they let in, and what they refuse. */

import "reflect-metadata"; // before @peculiar/x509, which needs it while it loads
import * as x509 from "@peculiar/x509";
import { rootCertificates } from "node:tls";
import { join } from "node:path";
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import type { TlsIdentity } from "../../lib/quic/mod.ts";
import { commandOutput } from "../../tools/command_output.ts";
import { acceptDeno, QRHT } from "../support/deno_quic.ts";
import { type ChildProgram, programArguments, startProgram } from "../support/processes.ts";
import { listen } from "../support/quic.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";
import { TestCa } from "../support/tls.ts";

/** An agent's files, and another CA, whose servers it must not let in. */
interface Files extends AsyncDisposable {
  readonly path: string;
  readonly own: TestCa;
  readonly other: TestCa;
  readonly flags: Readonly<Record<string, string>>;
}

async function agentFiles(): Promise<Files> {
  const folder = await temporaryFolder();
  const [own, other] = await Promise.all([TestCa.create("own CA"), TestCa.create("other CA")]);
  const at = (name: string) => join(folder.path, name);
  const { cert, key } = await own.client();
  await Promise.all([
    Deno.writeFile(at("ca.pem"), own.pem),
    Deno.writeFile(at("other.pem"), other.pem),
    Deno.writeFile(at("client.pem"), cert),
    Deno.writeFile(at("client.key"), key, { mode: 0o600 }),
  ]);
  return {
    path: folder.path,
    own,
    other,
    flags: {
      "ca-file": at("ca.pem"),
      "cert-file": at("client.pem"),
      "cert-key": at("client.key"),
      "quic-library": "deno",
      "alpn": "qrht/1",
    },
    [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose](),
  };
}

/** What an agent logs of its first attempt to connect to a server with this certificate. */
async function attempt(
  { flags, own }: Files,
  server: TlsIdentity,
  env: Record<string, string> = {},
  more: Record<string, string> = {},
): Promise<string> {
  // It would take the agent.
  await using listening = listen({ alpn: QRHT, tls: { ...server, ca: own.pem } });
  const accepted = acceptDeno(listening).catch(() => {});
  const { port } = listening.address;
  await using agent = startProgram(
    "agent",
    { ...flags, server: `127.0.0.1:${port}`, ...more },
    { ...withoutCas, ...env },
  );
  const [line] = await agent.line(/.*"(?:connected to quic|cannot connect to the) server".*/);
  agent.kill("SIGTERM");
  await agent.status;
  await listening.endpoint.close();
  await accepted;
  return line;
}

/** Whoever runs the tests may have some CAs. Half a second after its start, Deno loads them. */
const withoutCas = {
  DENO_CERT: "",
  DENO_TLS_CA_STORE: "mozilla",
  NODE_EXTRA_CA_CERTS: "",
  DENO_NO_UPDATE_CHECK: "1",
};

Deno.test("proxy-agent on Deno's QUIC lets in servers of a CA in --ca-file", async () => {
  await using files = await agentFiles();
  const line = await attempt(files, await files.own.server());
  assertMatch(line, /INF agent "connected to quic server" .* alpn=qrht\/1 library=deno$/);
  const other = join(files.path, "other.pem");
  assertStringIncludes(
    await attempt(files, await files.other.server(), {}, { "ca-file": other }),
    '"connected',
  );
});

const elsewhere: Readonly<Record<string, (file: string) => Record<string, string>>> = {
  "no other place": () => ({}),
  "DENO_CERT": (file) => ({ DENO_CERT: file }),
  "NODE_EXTRA_CA_CERTS": (file) => ({ NODE_EXTRA_CA_CERTS: file }),
  "the system's store": (file) => ({ DENO_TLS_CA_STORE: "system", SSL_CERT_FILE: file }),
  "both stores": (file) => ({ DENO_TLS_CA_STORE: "system,mozilla", SSL_CERT_FILE: file }),
  "all of them": (file) => ({
    DENO_CERT: file,
    NODE_EXTRA_CA_CERTS: file,
    DENO_TLS_CA_STORE: "system",
    SSL_CERT_FILE: file,
  }),
};

for (const [where, envOf] of Object.entries(elsewhere)) {
  Deno.test(`proxy-agent on Deno's QUIC lets in no server of a CA in ${where}`, async () => {
    await using files = await agentFiles();
    const env = envOf(join(files.path, "other.pem"));
    const line = await attempt(files, await files.other.server(), env);
    assertStringIncludes(line, '"cannot connect to the server"');
    assertStringIncludes(line, "certificate is not of a CA in --ca-file");
    assertStringIncludes(line, 'hint="set --ca-file to the CA of the server\'s certificate"');
  });
}

/** A certificate that a CA of Mozilla's seems to have issued, and has not signed. */
async function forged({ own }: Files): Promise<TlsIdentity> {
  const [root] = rootCertificates.map((pem) => new x509.X509Certificate(pem))
    .filter(({ publicKey }) => publicKey.algorithm.name === "ECDSA");
  const { cert, key } = await own.server();
  const keys = await x509.PemConverter.decode(new TextDecoder().decode(key));
  const privateKey = await crypto.subtle.importKey(
    "pkcs8",
    keys[0]!,
    { name: "ECDSA", namedCurve: "P-256" },
    true,
    ["sign"],
  );
  const leaf = new x509.X509Certificate(new TextDecoder().decode(cert));
  const issued = await x509.X509CertificateGenerator.create({
    subject: "CN=server",
    issuer: root!.subjectName,
    serialNumber: "01",
    notBefore: leaf.notBefore,
    notAfter: leaf.notAfter,
    publicKey: leaf.publicKey,
    signingKey: privateKey,
    signingAlgorithm: { name: "ECDSA", hash: "SHA-256" },
    extensions: leaf.extensions.filter(({ type }) => type !== "2.5.29.35"),
  });
  return { ca: own.pem, cert: new TextEncoder().encode(issued.toString("pem")), key };
}

Deno.test("proxy-agent on Deno's QUIC does not know the CAs that are built in", async () => {
  await using files = await agentFiles();
  const server = await forged(files);
  for (const store of ["mozilla", "system,mozilla"]) {
    const line = await attempt(files, server, { DENO_TLS_CA_STORE: store });
    // Whoever knows the CA says that the signature is not the CA's.
    assertStringIncludes(line, "invalid peer certificate: UnknownIssuer");
  }
  await using listening = listen({ alpn: QRHT, tls: { ...server, ca: files.own.pem } });
  const { port } = listening.address;
  const code = 'for (const name of ["DENO_CERT", "NODE_EXTRA_CA_CERTS"]) Deno.env.delete(name);' +
    `await Deno.connectQuic({ hostname: "127.0.0.1", port: ${port}, ` +
    'serverName: "quic-tunnel-server", alpnProtocols: ["qrht/1"] })' +
    ".catch((error) => console.log(error.message)); Deno.exit()";
  const { stdout, stderr } = await commandOutput(
    Deno.execPath(),
    ["eval", "--unstable-net", code],
    {
      env: { ...withoutCas },
    },
  );
  assertStringIncludes(stdout + stderr, "invalid peer certificate: BadSignature");
});

/** What a program says that ends at once. */
async function refusal(program: ChildProgram): Promise<{ code: number; line: string }> {
  await using ending = program;
  const [line] = await ending.line(/^proxy-\w+: .*/);
  return { code: (await ending.status).code, line };
}

Deno.test("agents on Deno's QUIC refuse flags that it has nothing for", async () => {
  await using files = await agentFiles();
  const cases: Readonly<Record<string, string>> = {
    "alpn=quic-echo-example": '--alpn "quic-echo-example": only qrht/1 is spoken on Deno\'s QUIC',
    "mtu=1400": "--mtu 1400: the MTU cannot be set on Deno's QUIC",
    "congestion-control=reno": "--congestion-control reno: there are only bbr and cubic",
  };
  for (const [flag, words] of Object.entries(cases)) {
    const [name, value] = flag.split("=") as [string, string];
    const flags = { ...files.flags, server: "127.0.0.1:9", [name]: value };
    const { code, line } = await refusal(startProgram("agent", flags, withoutCas));
    assertEquals(code, 2, line);
    assertStringIncludes(line, words);
  }
});

Deno.test("agents on Deno's QUIC do not start without the permission to drop other CAs", async () => {
  await using files = await agentFiles();
  const args = programArguments("agent", { ...files.flags, server: "127.0.0.1:9" })
    .map((word) => word.startsWith("--allow-env=") ? "--allow-env=QRHT_*" : word);
  const { code, stderr } = await commandOutput(Deno.execPath(), args, {
    env: { NO_COLOR: "1" },
  });
  assertEquals(code, 2);
  assertStringIncludes(
    stderr,
    "--allow-env=QRHT_*,DENO_TLS_CA_STORE,DENO_CERT,NODE_EXTRA_CA_CERTS",
  );
});

Deno.test("agents on Deno's QUIC do not start when Deno has loaded its CAs before", async () => {
  // As a download of packages does.
  const trust = JSON.stringify(new URL("../../lib/quic/deno/trust.ts", import.meta.url).href);
  const code =
    `Deno.createHttpClient({}).close(); const { trustNoOtherCa } = await import(${trust}); try { trustNoOtherCa(); } catch (error) { console.log(error.name, error.message); }`;
  const { stdout } = await commandOutput(Deno.execPath(), ["eval", "--no-config", code]);
  assertMatch(stdout, /^UsageError Deno has loaded its own CAs already.*start the program again/);
});

Deno.test("--check of an agent on Deno's QUIC names the library, and what it does not tell", async () => {
  await using files = await agentFiles();
  await using listening = listen({ alpn: QRHT, tls: await files.own.server() });
  const accepted = acceptDeno(listening).catch(() => {});
  const { stdout } = await commandOutput(
    Deno.execPath(),
    programArguments("agent", {
      ...files.flags,
      server: `127.0.0.1:${listening.address.port}`,
    }).concat("--check"),
    { env: { ...withoutCas, NO_COLOR: "1" } },
  );
  await accepted;
  const lines = stdout.split("\n");
  assert(lines.some((line) => /^ok +handshake with .*: qrht\/1, library deno/.test(line)), stdout);
  assert(lines.some((line) => /^skipped +large datagrams .*: not known on/.test(line)), stdout);
});
