// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Which CA certificates let two ends connect, with the TLS library. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import "reflect-metadata"; // before @peculiar/x509
import * as x509 from "@peculiar/x509";
import { createCa, issueCertificate, type Issued } from "../../lib/certs/issue.ts";
import { ConnectionClosedError, QuicEndpoint, TlsAlert, tlsAlertOf } from "../../lib/quic/mod.ts";
import { AnchorChoice } from "../../lib/tls/anchor_choice.ts";
import { checkTlsFiles, type TlsMaterial } from "../../lib/tls/material.ts";
import { asRoot } from "../../lib/tls/trust_anchor.ts";
import { toPem } from "../../lib/tls/pem.ts";
import {
  derOf,
  generateKeys,
  issueIntermediate,
  nameConstraints,
  PAST,
  SERVER_NAME,
  subjectAltName,
} from "../support/any_certificate.ts";
import { assertNothingLive, connectPair } from "../support/quic.ts";
import { fileContent } from "../support/tls.ts";

const root = await createCa({ commonName: "root" });

/** The material of one end, of PEM. */
function materialOf(ca: string, cert: string, key: string): TlsMaterial {
  return checkTlsFiles({
    ca: fileContent("--ca-file", ca),
    cert: fileContent("--cert-file", cert),
    key: fileContent("--cert-key", key),
  });
}

const pem = (...certificates: { readonly certPem: string }[]) =>
  certificates.map(({ certPem }) => certPem).join("");

interface End {
  readonly certPem: string;
  readonly keyPem: string;
}

/** Why two ends do not connect, or undefined. Each trusts its own CAs, and may send more. */
async function connect(
  ends: { server: End; client: End },
  cas: { server: string; client: string },
): Promise<string | undefined> {
  const [server, client] = [
    new AnchorChoice(materialOf(cas.server, ends.server.certPem, ends.server.keyPem)),
    new AnchorChoice(materialOf(cas.client, ends.client.certPem, ends.client.keyPem)),
  ];
  let why: string | undefined;
  // A server learns from a client that fails.
  for (let attempt = 0; attempt < 2; attempt++) {
    try {
      await using _pair = await connectPair({ server: { tls: server }, client: { tls: client } });
      return undefined;
    } catch (error) {
      assert(error instanceof ConnectionClosedError);
      why = error.message;
    }
  }
  return why;
}

/** A certificate for both uses, without key identifiers. */
async function issuePlain(issuer: Issued): Promise<End> {
  const { publicKey, privateKey } = generateKeys("P-256");
  const certificate = await x509.X509CertificateGenerator.create({
    subject: "CN=plain",
    issuer: issuer.certificate.subjectName,
    publicKey: new Uint8Array(publicKey.export({ type: "spki", format: "der" })),
    signingKey: issuer.keys.privateKey,
    extensions: [subjectAltName({ type: "dns", value: SERVER_NAME })],
  });
  return {
    certPem: certificate.toString("pem") + "\n",
    keyPem: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
  };
}

const ends = async (issuer: Issued, chain = "") => {
  const end = async (usage: "server" | "client") => {
    const { certPem, keyPem } = await issueCertificate(issuer, {
      commonName: usage,
      usage,
      dnsNames: [SERVER_NAME],
    });
    return { certPem: certPem + chain, keyPem };
  };
  return { server: await end("server"), client: await end("client") };
};

/** The same CA, name and key, as it was some time ago. */
async function expiredOf(ca: Issued): Promise<Issued> {
  const certificate = await x509.X509CertificateGenerator.create({
    ...PAST,
    subject: ca.certificate.subjectName,
    issuer: ca.certificate.subjectName,
    publicKey: ca.keys.publicKey,
    signingKey: ca.keys.privateKey,
    extensions: ca.certificate.extensions,
  });
  return { ...ca, certificate, certPem: certificate.toString("pem") + "\n" };
}

Deno.test("a CA that was renewed with its key is found beside the expired one, in any order", async () => {
  const old = await expiredOf(root);
  const both = await ends(root);
  for (const ca of [pem(old, root), pem(root, old)]) {
    assertEquals(await connect(both, { server: ca, client: pem(root) }), undefined);
    assertEquals(await connect(both, { server: pem(root), client: ca }), undefined);
  }
  assertNothingLive();
});

Deno.test("each of several CAs of one name is found", async () => {
  const cas = await Promise.all(
    [1, 2, 3].map(() => createCa({ commonName: "namesake" })),
  );
  const all = pem(...cas);
  for (const server of cas) {
    for (const client of cas) {
      const both = { server: await issuePlain(server), client: await issuePlain(client) };
      assertEquals(await connect(both, { server: all, client: all }), undefined);
    }
  }
  const stranger = await issuePlain(await createCa({ commonName: "namesake" }));
  const own = await issuePlain(cas[1]!);
  for (const both of [{ server: stranger, client: own }, { server: own, client: stranger }]) {
    assert(await connect(both, { server: all, client: all }));
  }
  assertNothingLive();
});

Deno.test("AnchorChoice keeps what it has learned apart by address, and forgets the oldest", async () => {
  const [a, b] = [
    await createCa({ commonName: "namesake" }),
    await createCa({ commonName: "namesake" }),
  ];
  const { certPem, keyPem } = await issuePlain(a);
  const choice = new AnchorChoice(materialOf(pem(a, b), certPem, keyPem));
  const chainOf = async (ca: Issued) => {
    const { certPem } = await issuePlain(ca);
    return [new Uint8Array(new x509.X509Certificate(certPem).rawData)];
  };
  const [ofA, ofB] = [await chainOf(a), await chainOf(b)];
  // Which one comes first is not this test's concern.
  const [first, second] = choice.refused("192.0.2.1", ofB) ? [ofA, ofB] : [ofB, ofA];
  assertEquals(choice.refused("192.0.2.2", second), true);
  const learned = choice.identityFor("192.0.2.2");
  assert(learned !== choice.current);
  assert(choice.identityFor("192.0.2.3") === choice.current);
  assertEquals(choice.refused("192.0.2.2", second), false);
  assertEquals(choice.refused("192.0.2.2", first), true);
  assert(choice.identityFor("192.0.2.2") === choice.current);
  assertEquals(choice.refused("192.0.2.2", await chainOf(root)), false);
  assertEquals(choice.refused("192.0.2.2", [Uint8Array.of(1)]), false);
  choice.refused("192.0.2.4", second);
  for (let i = 0; i < 1_000; i++) choice.refused(`host ${i}`, second);
  assert(choice.identityFor("192.0.2.4") === choice.current);
  assert(choice.identityFor("host 999") === learned);
});

Deno.test("an intermediate CA is an anchor of its own", async () => {
  const intermediate = await issueIntermediate(root);
  const alone = { server: pem(intermediate), client: pem(intermediate) };
  for (const chain of ["", pem(intermediate), pem(intermediate, root)]) {
    assertEquals(await connect(await ends(intermediate, chain), alone), undefined);
  }
  // Beside a root that has expired, too.
  const old = pem(await expiredOf(root), intermediate);
  assertEquals(await connect(await ends(intermediate), { server: old, client: old }), undefined);
  // It says nothing about what else its root has issued, or about a CA of its name.
  assert(await connect(await ends(root), alone));
  assert(await connect(await ends(await issueIntermediate(root)), alone));
  assertNothingLive();
});

Deno.test("an intermediate CA as an anchor keeps its constraints", async () => {
  const of = async (permitted: string) => {
    const extensions = [nameConstraints([permitted])];
    const ca = await issueIntermediate(root, {}, undefined, extensions);
    return connect(await ends(ca), { server: pem(ca), client: pem(ca) });
  };
  assertEquals(await of(SERVER_NAME), undefined);
  assert(await of("example"));
});

Deno.test("asRoot() gives a certificate of the same name and key, which is its own issuer", async () => {
  const intermediate = await issueIntermediate(root);
  const der = asRoot(derOf(intermediate));
  const anchor = new x509.X509Certificate(new TextDecoder().decode(toPem("CERTIFICATE", der)));
  const { certificate } = intermediate;
  assertEquals(anchor.subject, certificate.subject);
  assertEquals(anchor.issuer, certificate.subject);
  assertEquals(anchor.notAfter, certificate.notAfter);
  assertEquals(
    new Uint8Array(anchor.publicKey.rawData),
    new Uint8Array(certificate.publicKey.rawData),
  );
  assertEquals(asRoot(der), der);
});

Deno.test("an expired intermediate is not sent beside its renewal", async () => {
  const intermediate = await issueIntermediate(root);
  const old = await issueIntermediate(root, PAST, intermediate.keys);
  const both = await ends(intermediate, pem(old, intermediate));
  assertEquals(await connect(both, { server: pem(root), client: pem(root) }), undefined);
});

Deno.test("an IP address as a server's name needs a certificate with that address", async () => {
  const client = await issueCertificate(root, { commonName: "client", usage: "client" });
  const ca = new TextEncoder().encode(root.certPem);
  const identity = ({ certPem, keyPem }: End) => {
    const { cert, key } = materialOf(root.certPem, certPem, keyPem);
    return { ca, cert, key };
  };
  const attempt = async (serverName: string, names: { dns?: string[]; ip?: string[] }) => {
    const server = await issueCertificate(root, {
      commonName: "127.0.0.1",
      usage: "server",
      dnsNames: names.dns ?? [],
      ipAddresses: names.ip ?? [],
    });
    await using endpoint = new QuicEndpoint({
      hostname: "127.0.0.1",
      port: 0,
      listen: { tls: identity(server), alpn: ["test"] },
    });
    await using own = new QuicEndpoint({ hostname: "127.0.0.1", port: 0 });
    const options = { tls: identity(client), alpn: ["test"] };
    await own.connect(endpoint.addr, serverName, options);
  };
  for (const name of ["127.0.0.1", "::ffff:127.0.0.1"]) {
    await attempt(name, { ip: ["10.0.0.1", "127.0.0.1"] });
  }
  await attempt("0:0:0:0:0:0:0:1", { ip: ["::1"] });
  for (const names of [{ dns: ["127.0.0.1"] }, { ip: ["127.0.0.2"] }, {}]) {
    const error = await assertRejects(() => attempt("127.0.0.1", names), ConnectionClosedError);
    assertEquals([error.info.by, tlsAlertOf(error.info)], ["local", TlsAlert.BadCertificate]);
    assert(error.peerCertificates);
  }
  // Names still are names.
  await attempt("a.example", { dns: ["a.example"], ip: ["127.0.0.1"] });
  await assertRejects(() => attempt("a.example", { ip: ["127.0.0.1"] }), ConnectionClosedError);
  assertNothingLive();
});
