// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { Buffer } from "node:buffer";
import { generateKeyPairSync, type KeyObject, X509Certificate } from "node:crypto";
import { join } from "node:path";
import { inspect } from "node:util";
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import fc from "fast-check";
import { native } from "@matrixai/quic";
import "reflect-metadata"; // before @peculiar/x509
import * as x509 from "@peculiar/x509";
import {
  type CertificateOptions,
  createCa,
  issueCertificate,
  type Issued,
} from "../../certs/issue.ts";
import {
  clientCertificateFaults,
  describeCertificate,
  explainServerCertificate,
} from "../../lib/tls/certificate.ts";
import { UsageError } from "../../lib/errors.ts";
import { SIGNATURE_ALGORITHMS } from "../../lib/quic/options.ts";
import { loadTlsMaterial, type TlsMaterial } from "../../lib/tls/files.ts";
import { runs } from "../support/fuzz.ts";
import { assertNothingLive, connectPair } from "../support/quic.ts";

const SERVER_NAME = "quic-tunnel-server";
const PAST = {
  notBefore: new Date("2019-01-01T00:00:00Z"),
  notAfter: new Date("2020-01-02T03:04:05Z"),
};
const FUTURE = {
  notBefore: new Date("2090-01-02T03:04:05Z"),
  notAfter: new Date("2091-01-01T00:00:00Z"),
};

const ca = await createCa({ commonName: "test CA" });
const server = await issueCertificate(ca, {
  commonName: "server",
  usage: "server",
  dnsNames: [SERVER_NAME],
});
const encoder = new TextEncoder();
const caPem = encoder.encode(ca.certPem);

function derOf({ certificate }: Issued | { certificate: x509.X509Certificate }): Uint8Array {
  return new Uint8Array(certificate.rawData);
}

interface Contents {
  readonly ca: string | Uint8Array | null;
  readonly cert: string | Uint8Array | null;
  readonly key: string | Uint8Array | null;
}

/** Loads a set of files that is good but for what is given; `null` leaves a file out. */
async function load(contents: Partial<Contents>, now?: Date): Promise<TlsMaterial> {
  const dir = await Deno.makeTempDir();
  try {
    const all: Contents = { ca: ca.certPem, cert: server.certPem, key: server.keyPem, ...contents };
    for (const [name, content] of Object.entries(all)) {
      if (content === null) continue;
      await Deno.writeFile(join(dir, name), Buffer.from(content));
    }
    const file = (name: string) => join(dir, name);
    return await loadTlsMaterial(
      {
        caFile: file("ca"),
        caFlag: "--client-ca-file",
        certFile: file("cert"),
        keyFile: file("key"),
      },
      now === undefined ? {} : { now },
    );
  } catch (error) {
    // So that messages can be compared: the directory's name is another one every time.
    if (error instanceof Error) error.message = error.message.replaceAll(join(dir, "/"), "");
    throw error;
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

async function faultOf(contents: Partial<Contents>, now?: Date): Promise<string> {
  const error = await assertRejects(() => load(contents, now), UsageError);
  assert(!/[\r\n]/.test(error.message), "more than one line");
  return error.message;
}

type KeyKind = "RSA" | "P-256" | "P-384" | "P-521" | "Ed25519" | "secp256k1";

function generateKeys(kind: KeyKind): { publicKey: KeyObject; privateKey: KeyObject } {
  if (kind === "RSA") return generateKeyPairSync("rsa", { modulusLength: 2048 });
  if (kind === "Ed25519") return generateKeyPairSync("ed25519");
  return generateKeyPairSync("ec", { namedCurve: kind });
}

/** A certificate of the test CA for a key of any kind. */
async function issueFor(
  publicKey: KeyObject,
  extensions: x509.Extension[] = [],
  issuer: Issued = ca,
): Promise<{ certPem: string; certificate: x509.X509Certificate }> {
  const certificate = await x509.X509CertificateGenerator.create({
    subject: "CN=any kind",
    issuer: issuer.certificate.subjectName,
    publicKey: new Uint8Array(publicKey.export({ type: "spki", format: "der" })),
    signingKey: issuer.keys.privateKey,
    extensions,
  });
  return { certPem: certificate.toString("pem"), certificate };
}

const anyKey = generateKeys("P-256");

function subjectAltName(...names: x509.JsonGeneralName[]): x509.Extension {
  return new x509.SubjectAlternativeNameExtension(names);
}

async function issueIntermediate(): Promise<Issued> {
  const intermediate = await createCa({ commonName: "intermediate" });
  const certificate = await x509.X509CertificateGenerator.create({
    subject: intermediate.certificate.subjectName,
    issuer: ca.certificate.subjectName,
    publicKey: intermediate.keys.publicKey,
    signingKey: ca.keys.privateKey,
    extensions: [new x509.BasicConstraintsExtension(true, 0, true)],
  });
  return { ...intermediate, certificate, certPem: certificate.toString("pem") + "\n" };
}

Deno.test("loadTlsMaterial() gives PEM that belongs together, and describes the certificate", async () => {
  const tls = await load({});
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  assertEquals(text(tls.ca).trim(), ca.certPem.trim());
  assertEquals(text(tls.cert).trim(), server.certPem.trim());
  assertEquals(text(tls.key).trim(), server.keyPem.trim());
  assertEquals(tls.info, {
    subject: "CN=server",
    names: [SERVER_NAME, "server"],
    issuer: "CN=test CA",
    notBefore: server.certificate.notBefore,
    notAfter: server.certificate.notAfter,
    fingerprint256: new X509Certificate(server.certPem).fingerprint256,
  });
});

Deno.test("loadTlsMaterial() gives a result that does not show the key when printed", async () => {
  const tls = await load({});
  const body = server.keyPem.split("\n")[1]!;
  const bytes = encoder.encode(body).join();
  const shown = [
    JSON.stringify({ tls }),
    Deno.inspect({ tls }, { depth: 9, iterableLimit: 9999, showHidden: true, getters: true }),
    inspect({ tls }, { depth: 9, maxArrayLength: 9999, showHidden: true, getters: true }),
    String(tls),
    JSON.stringify({ ...tls }),
  ];
  for (const text of shown) {
    assert(!text.replaceAll(/\s/g, "").includes(bytes.slice(0, 40)), text);
    assert(!text.includes(body.slice(0, 20)), text);
  }
  assertStringIncludes(shown[0]!, "CN=server");
  assertStringIncludes(shown[1]!, "CN=server");
});

Deno.test("loadTlsMaterial() takes CRLF, a byte order mark, indentation and text between blocks", async () => {
  const messy = `\ufeffBag Attributes\n    friendlyName: x\n${server.certPem}`;
  const tls = await load({
    cert: messy.replaceAll("\n", "\r\n"),
    key: server.keyPem.replaceAll(/^/gm, "    "),
  });
  assertEquals(new TextDecoder().decode(tls.cert).trim(), server.certPem.trim());
  assertEquals(new TextDecoder().decode(tls.key).trim(), server.keyPem.trim());
});

Deno.test("loadTlsMaterial() takes chain and key in one file and keeps the chain's order", async () => {
  const intermediate = await issueIntermediate();
  const leaf = await issueCertificate(intermediate, { commonName: "leaf", usage: "server" });
  const all = leaf.keyPem + leaf.certPem + intermediate.certPem;
  const tls = await load({ cert: all, key: all });
  assertEquals(
    new TextDecoder().decode(tls.cert).replaceAll("\n", ""),
    (leaf.certPem + intermediate.certPem).replaceAll("\n", ""),
  );
  assertEquals(tls.info.subject, "CN=leaf");
});

Deno.test({
  name: "loadTlsMaterial() reads a pipe named as both certificate and key once",
  ignore: Deno.build.os === "windows",
  fn: async () => {
    const dir = await Deno.makeTempDir();
    try {
      const pipe = join(dir, "pipe");
      const both = join(dir, "both.pem");
      const caFile = join(dir, "ca.pem");
      await Deno.writeTextFile(both, server.certPem + server.keyPem);
      await Deno.writeTextFile(caFile, ca.certPem);
      assert((await new Deno.Command("mkfifo", { args: [pipe] }).output()).success);
      // By another process: on Deno 2.7 the opening of a pipe blocks the whole program.
      const script = 'cat "$0" > "$1"';
      const writer = new Deno.Command("sh", { args: ["-c", script, both, pipe] }).spawn();
      const tls = await loadTlsMaterial({
        caFile,
        caFlag: "--ca-file",
        certFile: pipe,
        keyFile: pipe,
      });
      assert((await writer.status).success);
      assertEquals(tls.info.subject, "CN=server");
    } finally {
      await Deno.remove(dir, { recursive: true });
    }
  },
});

const keyForms: [KeyKind, "pkcs8" | "sec1" | "pkcs1", string][] = [
  ["RSA", "pkcs8", "PRIVATE KEY"],
  ["RSA", "pkcs1", "RSA PRIVATE KEY"],
  ["P-256", "pkcs8", "PRIVATE KEY"],
  ["P-256", "sec1", "EC PRIVATE KEY"],
  ["P-384", "pkcs8", "PRIVATE KEY"],
  ["P-384", "sec1", "EC PRIVATE KEY"],
  ["P-521", "pkcs8", "PRIVATE KEY"],
  ["P-521", "sec1", "EC PRIVATE KEY"],
  ["Ed25519", "pkcs8", "PRIVATE KEY"],
];
for (const [kind, type, label] of keyForms) {
  Deno.test(`loadTlsMaterial() takes a ${kind} key in ${type} that then completes handshakes`, async () => {
    const { publicKey, privateKey } = generateKeys(kind);
    const { certPem } = await issueFor(publicKey, [
      subjectAltName({ type: "dns", value: SERVER_NAME }),
    ]);
    const key = privateKey.export({ type: type as "pkcs8", format: "pem" }).toString();
    assertStringIncludes(key, `-----BEGIN ${label}-----`);
    const tls = await load({ cert: certPem, key });
    assert(handshakes(tls));

    const other = generateKeys(kind).privateKey;
    const wrong = other.export({ type: type as "pkcs8", format: "pem" }).toString();
    const fault = await faultOf({ cert: certPem, key: wrong });
    assertEquals(
      fault,
      '--cert-key "key" does not belong to the certificate in --cert-file "cert"',
    );
  });
}

/** Whether a client and a server that both use `tls` come to terms, without a socket. */
function handshakes(tls: TlsMaterial): boolean {
  const { Config, Connection } = native.quiche;
  const [here, there] = [{ host: "127.0.0.1", port: 1 }, { host: "127.0.0.1", port: 2 }];
  const configure = () => {
    const config = Config.withBoringSslCtx(
      true,
      false,
      tls.ca,
      [tls.key],
      [tls.cert],
      SIGNATURE_ALGORITHMS,
    );
    config.setApplicationProtos(["test"]);
    return config;
  };
  const id = () => crypto.getRandomValues(new Uint8Array(16));
  const client = Connection.connect(SERVER_NAME, id(), here, there, configure());
  const accepted = Connection.accept(id(), null, there, here, configure());
  const packet = new Uint8Array(1500);
  for (let turn = 0; turn < 10; turn++) {
    const [from, to] = turn % 2 === 0 ? [client, accepted] : [accepted, client];
    const [source, target] = turn % 2 === 0 ? [here, there] : [there, here];
    for (let sent = from.send(packet); sent !== null; sent = from.send(packet)) {
      to.recv(packet.slice(0, sent[0]), { from: source, to: target });
    }
  }
  return client.isEstablished() && accepted.isEstablished();
}

Deno.test("QuicEndpoint completes a handshake of a server and a client with Ed25519 keys", async () => {
  const identity = async (name: string) => {
    const { publicKey, privateKey } = generateKeys("Ed25519");
    const { certPem } = await issueFor(publicKey, [subjectAltName({ type: "dns", value: name })]);
    const key = privateKey.export({ type: "pkcs8", format: "pem" }).toString();
    return await load({ cert: certPem, key });
  };
  const tls = { server: await identity(SERVER_NAME), client: await identity("agent-1") };
  {
    await using pair = await connectPair({
      server: { tls: tls.server },
      client: { tls: tls.client },
    });
    assert(pair.server.isEstablished && pair.client.isEstablished);
  }
  assertNothingLive();
});

Deno.test("loadTlsMaterial() names flag and file when a file cannot be read", async () => {
  const missing = "No such file or directory";
  assertEquals(await faultOf({ ca: null }), `cannot read --client-ca-file "ca": ${missing}`);
  assertEquals(await faultOf({ cert: null }), `cannot read --cert-file "cert": ${missing}`);
  assertEquals(await faultOf({ key: null }), `cannot read --cert-key "key": ${missing}`);
  const files = { caFile: "ca", caFlag: "--ca-file", certFile: "c", keyFile: "k" };
  for (const [path, why] of [[".", "Is a directory"], ["a\0b", "NUL"], ["x\ny", "No such file"]]) {
    const load = () => loadTlsMaterial({ ...files, caFile: path! });
    const { message } = await assertRejects(load, UsageError);
    assert(message.startsWith(`cannot read --ca-file ${JSON.stringify(path)}: `), message);
    assertStringIncludes(message, why!);
    assertEquals(message.split("\n").length, 1);
  }
});

Deno.test({
  name: "loadTlsMaterial() says so when Deno may not read a file",
  permissions: "none",
  fn: async () => {
    const files = { caFile: "ca", caFlag: "--ca-file", certFile: "c", keyFile: "k" };
    const error = await assertRejects(() => loadTlsMaterial(files), UsageError);
    assertEquals(
      error.message,
      'cannot read --ca-file "ca": Deno was not given --allow-read for it',
    );
  },
});

Deno.test("loadTlsMaterial() reads 1 MiB of a file and no more", async () => {
  const fill = (length: number) => server.certPem + "#".repeat(length - server.certPem.length);
  assertEquals((await load({ cert: fill(1024 * 1024) })).info.subject, "CN=server");
  assertEquals(
    await faultOf({ cert: fill(1024 * 1024 + 1) }),
    'cannot read --cert-file "cert": larger than 1 MiB',
  );
});

Deno.test("loadTlsMaterial() says what is wrong with a file that has no certificate", async () => {
  const no = 'no certificate in --cert-file "cert": ';
  assertEquals(await faultOf({ cert: "" }), no + "it is not a PEM file");
  assertEquals(await faultOf({ cert: "hello\n" }), no + "it is not a PEM file");
  assertEquals(await faultOf({ cert: server.keyPem }), no + "it holds PRIVATE KEY");
  assertEquals(
    await faultOf({ cert: derOf(server) }),
    no + "it looks like DER, which has to be converted",
  );
  assertEquals(
    await faultOf({ ca: server.keyPem }),
    'no certificate in --client-ca-file "ca": it holds PRIVATE KEY',
  );
});

Deno.test("loadTlsMaterial() points at the line of a broken certificate", async () => {
  const broken = server.certPem.replace(/\n.{8}/, "\nAAAAAAAA");
  assertMatch(
    await faultOf({ cert: `# first\n${broken}` }),
    /^the certificate in line 2 of --cert-file "cert" cannot be read: \S/,
  );
  assertMatch(
    await faultOf({ cert: server.certPem + broken }),
    /^the certificate in line \d\d of --cert-file "cert" cannot be read: \S/,
  );
  assertMatch(
    await faultOf({ cert: server.certPem.replace(/\n.{8}/, "\n!!!!!!!!") }),
    /cannot be read: not valid base64$/,
  );
  assertEquals(
    await faultOf({ cert: server.certPem.replace(/-----END.*/, "") }),
    'cannot read --cert-file "cert": the CERTIFICATE begun in line 1 has no END line of its own',
  );
  const trailing = Buffer.concat([derOf(server), new Uint8Array([5, 0])]).toString("base64");
  assertMatch(
    await faultOf({ cert: `-----BEGIN CERTIFICATE-----\n${trailing}\n-----END CERTIFICATE-----` }),
    /cannot be read: not a certificate: bytes after its end$/,
  );
});

Deno.test("loadTlsMaterial() says what is wrong with a private key", async () => {
  const block = (label: string, body: string) =>
    `-----BEGIN ${label}-----\n${body}\n-----END ${label}-----\n`;
  const encrypted = 'the private key in --cert-key "key" is encrypted: not supported';
  assertEquals(
    await faultOf({ key: server.certPem }),
    'no private key in --cert-key "key": it holds CERTIFICATE',
  );
  assertEquals(await faultOf({ key: block("ENCRYPTED PRIVATE KEY", "AAAA") }), encrypted);
  const header = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,79CA82B89762BB28\n\nAAAA";
  assertEquals(await faultOf({ key: block("RSA PRIVATE KEY", header) }), encrypted);
  assertEquals(
    await faultOf({ key: block("PRIVATE KEY", "AAAA") }),
    'the private key in --cert-key "key" cannot be read',
  );
  assertEquals(
    await faultOf({ key: block("OPENSSH PRIVATE KEY", "AAAA") }),
    'the private key in --cert-key "key" is of a kind not supported: OPENSSH PRIVATE KEY',
  );
  const key = generateKeys("secp256k1").privateKey.export({ type: "pkcs8", format: "pem" });
  assertEquals(
    await faultOf({ key: key.toString() }),
    'the private key in --cert-key "key" is of a kind not supported: ec on secp256k1',
  );
});

Deno.test("loadTlsMaterial() reads the key after EC PARAMETERS, as openssl ecparam writes it", async () => {
  const { publicKey, privateKey } = generateKeys("P-256");
  const { certPem } = await issueFor(publicKey);
  const parameters =
    "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
  const key = parameters + privateKey.export({ type: "sec1", format: "pem" });
  assertMatch(
    new TextDecoder().decode((await load({ cert: certPem, key })).key),
    /^-----BEGIN EC PRIVATE KEY-----/,
  );
});

Deno.test("loadTlsMaterial() tells a key of another kind, and a chain in the wrong order", async () => {
  const key = generateKeys("RSA").privateKey.export({ type: "pkcs8", format: "pem" }).toString();
  assertEquals(
    await faultOf({ key }),
    '--cert-key "key" does not belong to the certificate in --cert-file "cert"',
  );
  assertEquals(
    await faultOf({ cert: ca.certPem + server.certPem }),
    '--cert-key "key" belongs to certificate 2 in --cert-file "cert", which must come first',
  );
});

Deno.test("loadTlsMaterial() rejects a certificate outside its validity", async () => {
  const expired = await issueCertificate(ca, { commonName: "x", usage: "server", ...PAST });
  assertEquals(
    await faultOf({ cert: expired.certPem, key: expired.keyPem }),
    'the certificate in --cert-file "cert" expired on 2020-01-02T03:04:05Z; renew it',
  );
  const early = await issueCertificate(ca, { commonName: "x", usage: "server", ...FUTURE });
  assertMatch(
    await faultOf({ cert: early.certPem, key: early.keyPem }),
    /^the certificate in --cert-file "cert" is not valid before 2090-01-02T03:04:05Z \(is the clock /,
  );
});

Deno.test("loadTlsMaterial() judges validity at the second, ends included", async () => {
  const { notBefore, notAfter } = server.certificate;
  const at = (time: Date, ms: number) => new Date(time.getTime() + ms);
  const longer = await createCa({
    commonName: "test CA",
    notBefore: at(notBefore, -1e6),
    notAfter: at(notAfter, 1e6),
  });
  await load({ ca: longer.certPem }, notBefore);
  await load({ ca: longer.certPem }, notAfter);
  assertMatch(
    await faultOf({ ca: longer.certPem }, at(notBefore, -1)),
    / is not valid before .*clock/,
  );
  assertMatch(await faultOf({ ca: longer.certPem }, at(notAfter, 1000)), / expired on /);
});

Deno.test("loadTlsMaterial() minds neither an expired intermediate nor one expired CA of several", async () => {
  const old = await createCa({ commonName: "old", ...PAST });
  await load({ cert: server.certPem + old.certPem });
  await load({ ca: old.certPem + ca.certPem });
});

Deno.test("loadTlsMaterial() rejects CA files that nothing could be trusted by", async () => {
  const old = await createCa({ commonName: "old", ...PAST });
  assertEquals(
    await faultOf({ ca: old.certPem }),
    'the CA certificate in --client-ca-file "ca" expired on 2020-01-02T03:04:05Z',
  );
  assertEquals(
    await faultOf({ ca: old.certPem + old.certPem }),
    'no CA certificate in --client-ca-file "ca" is valid now; ' +
      "the first expired on 2020-01-02T03:04:05Z",
  );
  const intermediate = await issueIntermediate();
  assertEquals(
    await faultOf({ ca: intermediate.certPem }),
    '--client-ca-file "ca" holds "CN=intermediate" but not the root CA that issued it',
  );
  await load({ ca: intermediate.certPem + ca.certPem });
});

Deno.test("loadTlsMaterial() rejects a certificate whose key may not sign", async () => {
  const { certPem } = await issueFor(anyKey.publicKey, [
    new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyEncipherment, true),
  ]);
  const key = anyKey.privateKey.export({ type: "pkcs8", format: "pem" }).toString();
  assertStringIncludes(await faultOf({ cert: certPem, key }), "key usage lacks digitalSignature");
});

/** A text with pieces cut out, doubled and overwritten. */
const mutations = fc.array(
  fc.record({
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    length: fc.nat(80),
    kind: fc.constantFrom("cut", "double", "truncate", "overwrite"),
    text: fc.string({ unit: "binary", maxLength: 8 }),
  }),
  { minLength: 1, maxLength: 4 },
);

Deno.test("loadTlsMaterial() throws nothing but one-line usage errors over damaged files", async () => {
  const names = ["ca", "cert", "key"] as const;
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...names), mutations, async (name, steps) => {
      let text = { ca: ca.certPem, cert: server.certPem + ca.certPem, key: server.keyPem }[name];
      for (const { at, length, kind, text: insert } of steps) {
        const start = Math.floor(at * text.length);
        const piece = text.slice(start, start + length);
        const put = { cut: "", double: piece + piece, truncate: "", overwrite: insert }[kind]!;
        text = text.slice(0, start) + put + (kind === "truncate" ? "" : text.slice(start + length));
      }
      await onlyUsageErrors({ [name]: text });
    }),
    runs(200),
  );
});

Deno.test("loadTlsMaterial() throws nothing but one-line usage errors over damaged DER", async () => {
  const keyDer = Buffer.from(server.keyPem.replaceAll(/-----.*-----/g, ""), "base64");
  const parts = {
    ca: ["CERTIFICATE", derOf(ca)],
    cert: ["CERTIFICATE", derOf(server)],
    key: ["PRIVATE KEY", keyDer],
  } as const;
  const flips = fc.array(fc.tuple(fc.nat(2000), fc.nat(255)), { minLength: 1, maxLength: 3 });
  await fc.assert(
    fc.asyncProperty(fc.constantFrom("ca", "cert", "key"), flips, async (name, changes) => {
      const [label, der] = parts[name];
      const damaged = Buffer.from(der);
      for (const [at, value] of changes) damaged[at % damaged.length] = value;
      await onlyUsageErrors({
        [name]: `-----BEGIN ${label}-----\n${damaged.toString("base64")}\n-----END ${label}-----\n`,
      });
    }),
    runs(300),
  );
});

/** The private key in pieces that are long enough to be no coincidence. */
const keyPieces = server.keyPem.replaceAll(/-----.*-----|\s/g, "").match(/.{8}/g)!;

async function onlyUsageErrors(contents: Partial<Contents>): Promise<void> {
  try {
    await load(contents);
  } catch (error) {
    assertInstanceOf(error, UsageError);
    assertEquals(error.message.split(/[\r\n]/).length, 1);
    for (const piece of keyPieces) assert(!error.message.includes(piece), "shows the key");
  }
}

Deno.test("describeCertificate() lists DNS names and URIs, then the common name, each once", async () => {
  const { certificate } = await issueFor(anyKey.publicKey, [
    subjectAltName(
      { type: "url", value: "spiffe://example/agent" },
      { type: "dns", value: "any kind" },
      { type: "ip", value: "10.0.0.1" },
      { type: "email", value: "a@b.example" },
      { type: "dns", value: "a.example" },
    ),
  ]);
  const info = describeCertificate(derOf({ certificate }));
  assertEquals(info.names, ["any kind", "a.example", "spiffe://example/agent"]);
  assertEquals(info.subject, "CN=any kind");
});

Deno.test("describeCertificate() does not take a part of one name for another", async () => {
  const { certificate } = await issueFor(anyKey.publicKey, [
    subjectAltName({ type: "url", value: "spiffe://x/a, DNS:admin" }),
  ]);
  assertEquals(describeCertificate(derOf({ certificate })).names, [
    "spiffe://x/a, DNS:admin",
    "any kind",
  ]);
  const forged = await createCa({ commonName: "a\nCN=admin" });
  assertEquals(describeCertificate(derOf(forged)).names, ["a\nCN=admin"]);
});

Deno.test("describeCertificate() throws TypeError over anything that is not a certificate", () => {
  for (const der of [[], [0x30, 0], [0x30, 0x84, 255, 255, 255, 255], [1, 2, 3]]) {
    assertThrows(() => describeCertificate(new Uint8Array(der)), TypeError, "not a certificate");
  }
});

Deno.test("describeCertificate() throws nothing but TypeError over damaged certificates", () => {
  const der = derOf(server);
  fc.assert(
    fc.property(fc.nat(der.length - 1), fc.nat(255), fc.nat(der.length), (at, value, length) => {
      const damaged = der.slice(0, length % 2 === 0 ? length : undefined);
      if (at < damaged.length) damaged[at] = value;
      try {
        describeCertificate(damaged);
      } catch (error) {
        assertInstanceOf(error, TypeError);
      }
    }),
    runs(500),
  );
});

function explain(certificate: Issued | { certificate: x509.X509Certificate }, now?: Date) {
  return explainServerCertificate([derOf(certificate)], caPem, SERVER_NAME, now);
}

Deno.test("explainServerCertificate() has nothing against a good certificate", () => {
  assertEquals(explain(server), undefined);
  assertEquals(
    explainServerCertificate([derOf(server)], caPem, SERVER_NAME.toUpperCase()),
    undefined,
  );
});

Deno.test("explainServerCertificate() names what a certificate is for", async () => {
  const other = await issueCertificate(ca, {
    commonName: SERVER_NAME, // does not count beside alternative names
    usage: "server",
    dnsNames: ["a", "b"],
  });
  assertEquals(explain(other), 'certificate is for "a", "b", not for "quic-tunnel-server"');
  const many = await issueCertificate(ca, {
    commonName: "x",
    usage: "server",
    dnsNames: Array.from({ length: 8 }, (_, i) => `h${i}`),
  });
  assertStringIncludes(explain(many)!, '"h4" and 3 more, not for');
  const address = await issueFor(anyKey.publicKey, [subjectAltName({ type: "ip", value: "::1" })]);
  assertEquals(explain(address), 'certificate is for no DNS name, not for "quic-tunnel-server"');
  const hostile = await issueCertificate(ca, {
    commonName: "\x1b[2J\n\u202e\x9b",
    usage: "server",
  });
  assertMatch(explain(hostile)!, /^[\x20-\x7e]+$/);
});

Deno.test("explainServerCertificate() takes a common name where there are no alternative names", async () => {
  assertEquals(
    explain(await issueCertificate(ca, { commonName: SERVER_NAME, usage: "server" })),
    undefined,
  );
});

Deno.test("explainServerCertificate() knows wildcards", async () => {
  const { certificate } = await issueFor(anyKey.publicKey, [
    subjectAltName({ type: "dns", value: "*.b.example" }, { type: "dns", value: "*.com" }),
  ]);
  const isFor = (name: string) =>
    explainServerCertificate([derOf({ certificate })], caPem, name) === undefined;
  assertEquals(["a.b.example", "A.B.Example"].map(isFor), [true, true]);
  assertEquals(["b.example", "a.a.b.example", "x.com"].map(isFor), [false, false, false]);
});

Deno.test("explainServerCertificate() names expiry, early use and the wrong purpose", async () => {
  const issue = (more: { usage?: "client"; notBefore?: Date; notAfter?: Date }) =>
    issueCertificate(ca, {
      commonName: "x",
      usage: "server",
      dnsNames: [SERVER_NAME],
      ...more,
    });
  assertEquals(explain(await issue(PAST)), "certificate expired on 2020-01-02T03:04:05Z");
  assertMatch(
    explain(await issue(FUTURE))!,
    /^certificate is not valid before 2090-01-02T03:04:05Z \(is the clock .* It says 20/,
  );
  assertEquals(
    explain(await issue({ usage: "client" })),
    "certificate is not meant for servers (extendedKeyUsage)",
  );
  assertStringIncludes(
    explain(server, new Date("2095-01-01T00:00:00Z"))!,
    'certificate of the CA "CN=test CA" expired on',
  );
});

Deno.test("explainServerCertificate() tells another CA, even one of the same name", async () => {
  const issueBy = async (commonName: string) => {
    const other = await createCa({ commonName });
    return await issueCertificate(other, {
      commonName: "x",
      usage: "server",
      dnsNames: [SERVER_NAME],
    });
  };
  assertEquals(
    explain(await issueBy("other CA")),
    'certificate is not signed by the CA, but issued by "CN=other CA"',
  );
  assertEquals(
    explain(await issueBy("test CA")),
    'certificate is not signed by the CA, but by another CA of the same name "CN=test CA"',
  );
  assertEquals(
    explain(await createCa({ commonName: SERVER_NAME })),
    'certificate is not signed by the CA, but issued by "CN=quic-tunnel-server"',
  );
});

Deno.test("explainServerCertificate() follows a chain to the root", async () => {
  const intermediate = await issueIntermediate();
  const leaf = await issueCertificate(intermediate, {
    commonName: "x",
    usage: "server",
    dnsNames: [SERVER_NAME],
  });
  const chain = [derOf(leaf), derOf(intermediate)];
  const explainBy = (chain: Uint8Array[], ...trusted: Issued[]) =>
    explainServerCertificate(
      chain,
      encoder.encode(trusted.map(({ certPem }) => certPem).join("")),
      SERVER_NAME,
    );
  assertEquals(explainBy(chain, ca), undefined);
  assertEquals(explainBy(chain.slice(0, 1), ca, intermediate), undefined);
  assertEquals(
    explainBy(chain.slice(0, 1), ca),
    'certificate is not signed by the CA, but issued by "CN=intermediate"',
  );
  assertEquals(
    explainBy(chain, intermediate),
    'the CA file holds "CN=intermediate" but not the root CA that issued it',
  );
});

for (const kind of ["RSA", "P-384", "P-521", "Ed25519"] as const) {
  Deno.test(`explainServerCertificate() checks the signature of a CA with a ${kind} key`, async () => {
    const algorithm = {
      "RSA": {
        name: "RSASSA-PKCS1-v1_5",
        hash: "SHA-512",
        modulusLength: 2048,
        publicExponent: new Uint8Array([1, 0, 1]),
      },
      "P-384": { name: "ECDSA", namedCurve: "P-384" },
      "P-521": { name: "ECDSA", namedCurve: "P-521" },
      "Ed25519": { name: "Ed25519" },
    }[kind];
    const issueBy = async (name: string) => {
      const keys = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
      assert("privateKey" in keys);
      // With P-384 too, SHA-256 signs: Deno 2.7's own verify() does not know that.
      const signingAlgorithm = {
        name: algorithm.name,
        hash: kind === "P-521" ? "SHA-512" : "SHA-256",
      };
      const root = await x509.X509CertificateGenerator.createSelfSigned({
        name,
        keys,
        signingAlgorithm,
        extensions: [new x509.BasicConstraintsExtension(true, undefined, true)],
      });
      const leaf = await x509.X509CertificateGenerator.create({
        subject: `CN=${SERVER_NAME}`,
        issuer: name,
        publicKey: server.keys.publicKey,
        signingKey: keys.privateKey,
        signingAlgorithm,
      });
      return { root: encoder.encode(root.toString("pem")), leaf: derOf({ certificate: leaf }) };
    };
    const [one, other] = [await issueBy("CN=root"), await issueBy("CN=root")];
    assertEquals(explainServerCertificate([one.leaf], one.root, SERVER_NAME), undefined);
    assertStringIncludes(
      explainServerCertificate([one.leaf], other.root, SERVER_NAME)!,
      "not signed by the CA",
    );
  });
}

Deno.test("explainServerCertificate() copes with nothing, and with what cannot be read", () => {
  const none = "the server sent no certificate";
  assertEquals(explainServerCertificate(null, caPem, SERVER_NAME), none);
  assertEquals(explainServerCertificate([], caPem, SERVER_NAME), none);
  assertMatch(
    explainServerCertificate([new Uint8Array([1, 2])], caPem, SERVER_NAME)!,
    /^the certificate cannot be read: /,
  );
  const garbage = encoder.encode("-----BEGIN CERTIFICATE-----");
  assertStringIncludes(
    explainServerCertificate([derOf(server)], garbage, SERVER_NAME)!,
    "not signed by the CA",
  );
});

Deno.test("clientCertificateFaults() names issuer, validity and purpose, and verifies nothing", async () => {
  const der = async (options: Partial<CertificateOptions>) =>
    derOf(await issueCertificate(ca, { commonName: "x", usage: "client", ...options }));
  const kinds = (certificate: Uint8Array, isTrusted: boolean) =>
    clientCertificateFaults([certificate], isTrusted).map(({ kind }) => kind);
  const good = await der({});
  assertEquals(kinds(good, true), []);
  assertEquals(clientCertificateFaults([good], false), [
    { kind: "untrusted", reason: 'certificate is issued by "CN=test CA"' },
  ]);
  assertEquals(kinds(await der(PAST), false), ["untrusted", "expired"]);
  assertEquals(kinds(await der({ ...FUTURE, usage: "server" }), true), ["early", "purpose"]);
  assertEquals(clientCertificateFaults(null, true).map(({ kind }) => kind), ["missing"]);
  assertEquals(kinds(new Uint8Array([1, 2]), true), ["unreadable"]);
});

Deno.test("explainServerCertificate() gives every reason there is", async () => {
  const other = await createCa({ commonName: "other" });
  const leaf = await issueCertificate(other, { commonName: "x", usage: "client", ...PAST });
  assertEquals(explain(leaf)!.split("; ").length, 4);
});
