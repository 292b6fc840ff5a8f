// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { Buffer } from "node:buffer";
import { X509Certificate } from "node:crypto";
import { inspect } from "node:util";
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import fc from "fast-check";
import { native } from "@matrixai/quic";
import "reflect-metadata"; // before @peculiar/x509
import * as x509 from "@peculiar/x509";
import { createCa, issueCertificate } from "../../lib/certs/issue.ts";
import { UsageError } from "../../lib/errors.ts";
import { SIGNATURE_ALGORITHMS } from "../../lib/quic/options.ts";
import { checkTlsFiles, type TlsMaterial } from "../../lib/tls/material.ts";
import {
  derOf,
  FUTURE,
  generateKeys,
  issueFor,
  issueIntermediate,
  type KeyKind,
  PAST,
  SERVER_NAME,
  subjectAltName,
} from "../support/any_certificate.ts";
import { runs } from "../support/fuzz.ts";
import { assertNothingLive, connectPair } from "../support/quic.ts";
import { fileContent } from "../support/tls.ts";

const ca = await createCa({ commonName: "test CA" });
const server = await issueCertificate(ca, {
  commonName: "server",
  usage: "server",
  dnsNames: [SERVER_NAME],
});
const intermediate = await issueIntermediate(ca);
const oldCa = await createCa({ commonName: "old", ...PAST });

type Contents = Readonly<Partial<Record<"ca" | "cert" | "key", string | Uint8Array>>>;

/** Checks a set of files that is good but for what is given. */
function check(contents: Contents = {}, now?: Date): TlsMaterial {
  const all = { ca: ca.certPem, cert: server.certPem, key: server.keyPem, ...contents };
  return checkTlsFiles({
    ca: fileContent("--client-ca-file", all.ca, "ca"),
    cert: fileContent("--cert-file", all.cert, "cert"),
    key: fileContent("--cert-key", all.key, "key"),
  }, now && { now });
}

function faultOf(contents: Contents, now?: Date): string {
  const { message } = assertThrows(() => check(contents, now), UsageError);
  assert(!/[\r\n]/.test(message), "more than one line");
  return message;
}

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
const block = (label: string, body: string) =>
  `-----BEGIN ${label}-----\n${body}\n-----END ${label}-----\n`;
const anyKey = generateKeys("P-256");
const pemOf = (kind: KeyKind) =>
  generateKeys(kind).privateKey.export({ type: "pkcs8", format: "pem" }).toString();

Deno.test("checkTlsFiles() gives PEM that belongs together, and describes the certificates", () => {
  const tls = check({ cert: server.certPem + oldCa.certPem, ca: oldCa.certPem + ca.certPem });
  assertEquals(text(tls.ca), ca.certPem.trim());
  assertEquals(text(tls.cert), server.certPem.trim());
  assertEquals(text(tls.leftOutCa), oldCa.certPem.trim());
  assertEquals(text(tls.key), server.keyPem.trim());
  assertEquals(tls.info, {
    subject: "CN=server",
    names: [SERVER_NAME, "server"],
    issuer: "CN=test CA",
    notBefore: server.certificate.notBefore,
    notAfter: server.certificate.notAfter,
    fingerprint256: new X509Certificate(server.certPem).fingerprint256,
  });
  assertEquals(tls.leaf.der, derOf(server));
  // Neither an expired intermediate nor one expired CA of several is a fault.
  assertEquals(tls.certificates.map(({ flag, info }) => [flag, info.subject]), [
    ["--cert-file", "CN=server"],
    ["--cert-file", "CN=old"],
    ["--client-ca-file", "CN=old"],
    ["--client-ca-file", "CN=test CA"],
  ]);
  // An intermediate may be trusted beside its root.
  assertEquals(check({ ca: intermediate.certPem + ca.certPem }).certificates.length, 3);
});

Deno.test("checkTlsFiles() gives a result that does not show the key when printed", () => {
  const tls = check();
  const body = server.keyPem.split("\n")[1]!;
  const bytes = new TextEncoder().encode(body).join();
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

Deno.test("checkTlsFiles() takes CRLF, a byte order mark, indentation and text between blocks", () => {
  const messy = `\ufeffBag Attributes\n    friendlyName: x\n${server.certPem}`;
  const tls = check({
    cert: messy.replaceAll("\n", "\r\n"),
    key: server.keyPem.replaceAll(/^/gm, "    "),
  });
  assertEquals(text(tls.cert), server.certPem.trim());
  assertEquals(text(tls.key), server.keyPem.trim());
});

Deno.test("checkTlsFiles() takes chain and key in one file and keeps the chain's order", async () => {
  const leaf = await issueCertificate(intermediate, { commonName: "leaf", usage: "server" });
  const all = leaf.keyPem + leaf.certPem + intermediate.certPem;
  const tls = check({ cert: all, key: all });
  assertEquals(text(tls.cert), (leaf.certPem + intermediate.certPem).trim());
  assertEquals(tls.info.subject, "CN=leaf");
});

/** A certificate of the CA for a key of this kind, and the key in this form. */
async function issueWith(kind: KeyKind, type = "pkcs8", name = SERVER_NAME) {
  const { publicKey, privateKey } = generateKeys(kind);
  const names = subjectAltName({ type: "dns", value: name });
  const { certPem } = await issueFor(ca, publicKey, [names]);
  const key = privateKey.export({ type: type as "pkcs8", format: "pem" }).toString();
  return { cert: certPem, key };
}

const keyForms: [KeyKind, form: string, label: string][] = [
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
for (const [kind, form, label] of keyForms) {
  Deno.test(`checkTlsFiles() takes a ${kind} key in ${form} that then completes handshakes`, async () => {
    const [good, other] = [await issueWith(kind, form), await issueWith(kind, form)];
    assertStringIncludes(good.key, `-----BEGIN ${label}-----`);
    assert(handshakes(check(good)));
    assertStringIncludes(faultOf({ ...good, key: other.key }), "does not match");
  });
}

/** Whether a client and a server that both use `tls` come to terms, without a socket. */
function handshakes(tls: TlsMaterial): boolean {
  const { Config, Connection } = native.quiche;
  const [here, there] = [{ host: "127.0.0.1", port: 1 }, { host: "127.0.0.1", port: 2 }];
  const configure = () => {
    const { ca, key, cert } = tls;
    const config = Config.withBoringSslCtx(true, false, ca, [key], [cert], SIGNATURE_ALGORITHMS);
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
  const server = { tls: check(await issueWith("Ed25519")) };
  const client = { tls: check(await issueWith("Ed25519", "pkcs8", "agent-1")) };
  {
    await using pair = await connectPair({ server, client });
    assert(pair.server.isEstablished && pair.client.isEstablished);
  }
  assertNothingLive();
});

Deno.test("checkTlsFiles() reads the key after EC PARAMETERS, as openssl ecparam writes it", async () => {
  const { certPem } = await issueFor(ca, anyKey.publicKey);
  const parameters = block("EC PARAMETERS", "BggqhkjOPQMBBw==");
  const key = parameters + anyKey.privateKey.export({ type: "sec1", format: "pem" });
  assertMatch(text(check({ cert: certPem, key }).key), /^-----BEGIN EC PRIVATE KEY-----/);
});

const issue = async (validity: typeof PAST) => {
  const options = { commonName: "x", usage: "server", ...validity } as const;
  const { certPem, keyPem } = await issueCertificate(ca, options);
  return { cert: certPem, key: keyPem };
};
/** An RSA key of which one number is wrong. */
async function damagedKey(): Promise<Contents> {
  const { publicKey, privateKey } = generateKeys("RSA");
  const der = privateKey.export({ type: "pkcs8", format: "der" });
  der[der.length - 1]! ^= 2;
  const { certPem } = await issueFor(ca, publicKey);
  return { cert: certPem, key: block("PRIVATE KEY", der.toString("base64")) };
}

const noSigning = new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyEncipherment, true);
const broken = server.certPem.replace(/\n.{8}/, "\nAAAAAAAA");
const trailing = Buffer.concat([derOf(server), new Uint8Array([5, 0])]).toString("base64");

const NO_CERTIFICATE = 'no certificate in --cert-file "cert": ';
const ENCRYPTED = 'the private key in --cert-key "key" is encrypted, which is not supported';
const UNSUPPORTED = 'the private key in --cert-key "key" has an unsupported type: ';

/** What is wrong, and what is said of it. */
const faults: readonly (readonly [what: string, contents: Contents, fault: string | RegExp])[] = [
  ["an empty certificate file", { cert: "" }, `${NO_CERTIFICATE}it is not a PEM file`],
  ["a text for a certificate", { cert: "hello\n" }, `${NO_CERTIFICATE}it is not a PEM file`],
  [
    "a key for a certificate",
    { cert: server.keyPem },
    `${NO_CERTIFICATE}it contains PRIVATE KEY`,
  ],
  [
    "DER",
    { cert: derOf(server) },
    `${NO_CERTIFICATE}it looks like DER: convert it to PEM`,
  ],
  [
    "a key for a CA",
    { ca: server.keyPem },
    'no certificate in --client-ca-file "ca": it contains PRIVATE KEY',
  ],
  [
    "a broken certificate",
    { cert: `# first\n${broken}` },
    /^the certificate in line 2 of --cert-file "cert" cannot be read: \S/,
  ],
  [
    "a broken certificate after a good one",
    { cert: server.certPem + broken },
    /^the certificate in line \d\d of --cert-file "cert" cannot be read: \S/,
  ],
  [
    "what is no base64",
    { cert: server.certPem.replace(/\n.{8}/, "\n!!!!!!!!") },
    /cannot be read: not valid base64$/,
  ],
  [
    "a block without an end",
    { cert: server.certPem.replace(/-----END.*/, "") },
    'cannot read --cert-file "cert": the CERTIFICATE block that begins in line 1 has no END line',
  ],
  [
    "bytes after a certificate",
    { cert: block("CERTIFICATE", trailing) },
    /cannot be read: not a certificate: trailing bytes$/,
  ],
  [
    "a certificate for a key",
    { key: server.certPem },
    'no private key in --cert-key "key": it contains CERTIFICATE',
  ],
  ["an encrypted key (PKCS#8)", { key: block("ENCRYPTED PRIVATE KEY", "AAAA") }, ENCRYPTED],
  [
    "an encrypted key (PKCS#1)",
    { key: block("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,79\n\nAAAA") },
    ENCRYPTED,
  ],
  ["an empty key file", { key: "" }, 'no private key in --cert-key "key": it is not a PEM file'],
  [
    "a broken key",
    { key: block("PRIVATE KEY", "AAAA") },
    'the private key in --cert-key "key" cannot be read',
  ],
  [
    "a key of OpenSSH",
    { key: block("OPENSSH PRIVATE KEY", "AAAA") },
    `${UNSUPPORTED}OPENSSH PRIVATE KEY`,
  ],
  ["a key on another curve", { key: pemOf("secp256k1") }, `${UNSUPPORTED}ec on secp256k1`],
  [
    "a key of another certificate",
    { key: pemOf("RSA") },
    '--cert-key "key" does not match the certificate in --cert-file "cert"',
  ],
  [
    "a chain in the wrong order",
    { cert: ca.certPem + server.certPem },
    '--cert-key "key" matches certificate 2 in --cert-file "cert", which must come first',
  ],
  [
    "an expired certificate",
    await issue(PAST),
    'the certificate in --cert-file "cert" expired on 2020-01-02T03:04:05Z; renew it',
  ],
  [
    "a certificate before its time",
    await issue(FUTURE),
    /^the certificate in --cert-file "cert" is not valid before 2090-01-02T03:04:05Z \(check the clock /,
  ],
  [
    "an expired CA",
    { ca: oldCa.certPem },
    'the CA certificate in --client-ca-file "ca" expired on 2020-01-02T03:04:05Z',
  ],
  [
    "expired CAs",
    { ca: oldCa.certPem + oldCa.certPem },
    'no CA certificate in --client-ca-file "ca" is valid now; ' +
    "the first expired on 2020-01-02T03:04:05Z",
  ],
  [
    "a certificate that is no CA's",
    { ca: server.certPem },
    '--client-ca-file "ca" contains "CN=server" but not the root CA that issued it',
  ],
  [
    "a certificate whose key may not sign",
    {
      cert: (await issueFor(ca, anyKey.publicKey, [noSigning])).certPem,
      key: anyKey.privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
    },
    /key usage lacks digitalSignature$/,
  ],
  [
    "what only the TLS library finds wrong",
    await damagedKey(),
    /^the TLS library rejects --cert-file "cert" with its key, or .*BAD_RSA_PARAMETERS/,
  ],
];
for (const [what, contents, fault] of faults) {
  Deno.test(`checkTlsFiles() rejects ${what}, in one line`, () => {
    if (typeof fault === "string") assertEquals(faultOf(contents), fault);
    else assertMatch(faultOf(contents), fault);
  });
}

Deno.test("checkTlsFiles() checks the validity to the second, ends included", async () => {
  const { notBefore, notAfter } = server.certificate;
  const at = (time: Date, ms: number) => new Date(time.getTime() + ms);
  const { certPem } = await createCa({
    commonName: "test CA",
    notBefore: at(notBefore, -1e6),
    notAfter: at(notAfter, 1e6),
  });
  for (const now of [notBefore, notAfter]) {
    assertEquals(check({ ca: certPem }, now).info.subject, "CN=server");
  }
  assertMatch(faultOf({ ca: certPem }, at(notBefore, -1)), / is not valid before .*clock/);
  assertMatch(faultOf({ ca: certPem }, at(notAfter, 1000)), / expired on /);
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
const names = ["ca", "cert", "key"] as const;

Deno.test("checkTlsFiles() throws nothing but one-line usage errors over damaged files", () => {
  fc.assert(
    fc.property(fc.constantFrom(...names), mutations, (name, steps) => {
      let text = { ca: ca.certPem, cert: server.certPem + ca.certPem, key: server.keyPem }[name];
      for (const { at, length, kind, text: insert } of steps) {
        const start = Math.floor(at * text.length);
        const piece = text.slice(start, start + length);
        const put = { cut: "", double: piece + piece, truncate: "", overwrite: insert }[kind]!;
        text = text.slice(0, start) + put + (kind === "truncate" ? "" : text.slice(start + length));
      }
      onlyUsageErrors({ [name]: text });
    }),
    runs(200),
  );
});

Deno.test("checkTlsFiles() throws nothing but one-line usage errors over damaged DER", () => {
  const keyDer = Buffer.from(server.keyPem.replaceAll(/-----.*-----/g, ""), "base64");
  const parts = {
    ca: ["CERTIFICATE", derOf(ca)],
    cert: ["CERTIFICATE", derOf(server)],
    key: ["PRIVATE KEY", keyDer],
  } as const;
  const flips = fc.array(fc.tuple(fc.nat(2000), fc.nat(255)), { minLength: 1, maxLength: 3 });
  fc.assert(
    fc.property(fc.constantFrom(...names), flips, (name, changes) => {
      const [label, der] = parts[name];
      const damaged = Buffer.from(der);
      for (const [at, value] of changes) damaged[at % damaged.length] = value;
      onlyUsageErrors({ [name]: block(label, damaged.toString("base64")) });
    }),
    runs(300),
  );
});

/** The private key in pieces that are long enough to be no coincidence. */
const keyPieces = server.keyPem.replaceAll(/-----.*-----|\s/g, "").match(/.{8}/g)!;

function onlyUsageErrors(contents: Contents): void {
  try {
    check(contents);
  } catch (error) {
    assertInstanceOf(error, UsageError);
    assertEquals(error.message.split(/[\r\n]/).length, 1);
    for (const piece of keyPieces) assert(!error.message.includes(piece), "shows the key");
  }
}
