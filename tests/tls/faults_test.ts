// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import "reflect-metadata"; // before @peculiar/x509
import * as x509 from "@peculiar/x509";
import {
  type CertificateOptions,
  createCa,
  issueCertificate,
  type Issued,
} from "../../lib/certs/issue.ts";
import {
  clientCertificateFaults,
  reasonsOf,
  serverCertificateFaults,
} from "../../lib/tls/faults.ts";
import {
  derOf,
  FUTURE,
  generateKeys,
  issueFor,
  issueIntermediate,
  nameConstraints,
  PAST,
  SERVER_NAME,
  subjectAltName,
} from "../support/any_certificate.ts";

const ca = await createCa({ commonName: "test CA" });
const [otherCa, namesake] = [
  await createCa({ commonName: "other CA" }),
  await createCa({ commonName: "test CA" }),
];
const pem = (...cas: Issued[]) =>
  new TextEncoder().encode(cas.map(({ certPem }) => certPem).join(""));

/** A good certificate, but for the options. */
const issue = (options: Partial<CertificateOptions> = {}, issuer = ca) =>
  issueCertificate(issuer, {
    commonName: "x",
    usage: "server",
    dnsNames: [SERVER_NAME],
    ...options,
  });
const server = await issue();
const anyKey = generateKeys("P-256").publicKey;

/** What is wrong with a server's certificate, or `undefined`. */
function explain(
  certificate: { readonly certificate: x509.X509Certificate },
  { now, name = SERVER_NAME }: { readonly now?: Date; readonly name?: string } = {},
): string | undefined {
  return reasonsOf(serverCertificateFaults([derOf(certificate)], pem(ca), name, now));
}

Deno.test("serverCertificateFaults() has nothing against a good certificate", async () => {
  assertEquals(explain(server), undefined);
  assertEquals(explain(server, { name: SERVER_NAME.toUpperCase() }), undefined);
  // Where there are no alternative names, the common name counts.
  const old = await issue({ commonName: SERVER_NAME, dnsNames: [] });
  assertEquals(explain(old), undefined);
});

Deno.test("serverCertificateFaults() names what a certificate is for", async () => {
  const other = await issue({ commonName: SERVER_NAME, dnsNames: ["a", "b"] });
  assertEquals(explain(other), 'certificate is for "a", "b", not for "quic-tunnel-server"');
  const many = await issue({ dnsNames: Array.from({ length: 8 }, (_, i) => `h${i}`) });
  assertStringIncludes(explain(many)!, '"h4" and 3 more, not for');
  const address = await issueFor(ca, anyKey, [subjectAltName({ type: "ip", value: "::1" })]);
  assertEquals(explain(address), 'certificate is for "::1", not for "quic-tunnel-server"');
  const asName = await issue({ dnsNames: ["127.0.0.1"] });
  assertEquals(
    explain(asName, { name: "127.0.0.1" }),
    'certificate is for "127.0.0.1", not for the IP address "127.0.0.1"',
  );
  const uri = await issue({ dnsNames: [], uris: ["spiffe://a"] });
  assertMatch(explain(uri)!, /^certificate is for no DNS name or IP address, not for/);
  const hostile = await issue({ commonName: "\x1b[2J\n\u202e\x9b", dnsNames: [] });
  assertMatch(explain(hostile)!, /^[\x20-\x7e]+$/);
});

Deno.test("serverCertificateFaults() knows wildcards", async () => {
  const names = ["*.b.example", "*.com"].map((value) => ({ type: "dns" as const, value }));
  const certificate = await issueFor(ca, anyKey, [subjectAltName(...names)]);
  const isFor = (name: string) => explain(certificate, { name }) === undefined;
  assertEquals(["a.b.example", "A.B.Example"].map(isFor), [true, true]);
  assertEquals(["b.example", "a.a.b.example", "x.com"].map(isFor), [false, false, false]);
});

Deno.test("serverCertificateFaults() names expiry, early use and the wrong purpose", async () => {
  assertEquals(explain(await issue(PAST)), "certificate expired on 2020-01-02T03:04:05Z");
  assertMatch(
    explain(await issue(FUTURE))!,
    /^certificate is not valid before 2090-01-02T03:04:05Z \(check the clock .* it shows 20/,
  );
  assertEquals(
    explain(await issue({ usage: "client" })),
    "certificate is not meant for servers (extendedKeyUsage)",
  );
  assertStringIncludes(
    explain(server, { now: new Date("2095-01-01T00:00:00Z") })!,
    'certificate of the CA "CN=test CA" expired on',
  );
});

Deno.test("serverCertificateFaults() tells another CA, even one of the same name", async () => {
  const foreign = "certificate is not signed by the CA, but";
  assertEquals(explain(await issue({}, otherCa)), `${foreign} issued by "CN=other CA"`);
  assertEquals(
    explain(await issue({}, namesake)),
    `${foreign} by another CA of the same name "CN=test CA"`,
  );
  const selfSigned = await createCa({ commonName: SERVER_NAME });
  assertEquals(explain(selfSigned), `${foreign} issued by "CN=quic-tunnel-server"`);
});

Deno.test("serverCertificateFaults() follows a chain to the root", async () => {
  const intermediate = await issueIntermediate(ca);
  const chain = [derOf(await issue({}, intermediate)), derOf(intermediate)];
  const explainBy = (chain: Uint8Array[], ...trusted: Issued[]) =>
    reasonsOf(serverCertificateFaults(chain, pem(...trusted), SERVER_NAME));
  assertEquals(explainBy(chain, ca), undefined);
  assertEquals(explainBy(chain.slice(0, 1), ca, intermediate), undefined);
  assertEquals(
    explainBy(chain.slice(0, 1), ca),
    'certificate is not signed by the CA, but issued by "CN=intermediate"',
  );
  // An intermediate is an anchor as a root is.
  assertEquals(explainBy(chain, intermediate), undefined);
  const expired = { ...intermediate, ...await issueIntermediate(ca, PAST, intermediate.keys) };
  assertEquals(
    serverCertificateFaults([chain[0]!, derOf(expired), chain[1]!], pem(ca), SERVER_NAME),
    [{
      kind: "chain",
      reason: 'certificate of the CA "CN=intermediate" expired on 2020-01-02T03:04:05Z',
    }],
  );
});

Deno.test("faults are blamed on a CA of the own file that has expired", async () => {
  const old = await createCa({ commonName: "test CA", ...PAST });
  const leaf = derOf(await issue({ notAfter: FUTURE.notAfter }, old));
  const reason = 'certificate of the CA "CN=test CA" expired on 2020-01-02T03:04:05Z';
  const faults = [{ kind: "ca" as const, reason }];
  const now = undefined;
  assertEquals(serverCertificateFaults([leaf], pem(ca), SERVER_NAME, now, pem(old)), faults);
  assertEquals(serverCertificateFaults([leaf], pem(ca, old), SERVER_NAME), faults);
  const client = derOf(await issue({ usage: "client", notAfter: FUTURE.notAfter }, old));
  assertEquals(clientCertificateFaults([client], false, now, { leftOut: pem(old) }), faults);
});

Deno.test("faults name what the name constraints of a CA forbid", async () => {
  const faultOf = async (options: Partial<CertificateOptions>) => {
    const chain = [derOf(await issue(options, issuer)), derOf(issuer)];
    const [asServer] = serverCertificateFaults(chain, pem(ca), SERVER_NAME)
      .filter(({ kind }) => kind === "constraint");
    const [asClient] = clientCertificateFaults(chain, true, undefined, { constraining: pem(ca) })
      .filter(({ kind }) => kind === "constraint");
    assertEquals(asServer, asClient);
    return asServer?.reason;
  };
  const constraints = nameConstraints(["example", [10, 0, 0, 0, 255, 0, 0, 0]], ["b.example"]);
  const issuer = await issueIntermediate(ca, {}, undefined, [constraints]);
  const forbid = 'the name constraints of the CA "CN=intermediate" forbid the name';
  assertEquals(await faultOf({ dnsNames: ["a.example", "EXAMPLE"] }), undefined);
  assertEquals(await faultOf({ dnsNames: ["a.example", "a.org"] }), `${forbid} "a.org"`);
  assertEquals(await faultOf({ dnsNames: ["b.example"] }), `${forbid} "b.example"`);
  assertEquals(await faultOf({ dnsNames: ["ab.example"] }), undefined);
  assertEquals(await faultOf({ dnsNames: [], ipAddresses: ["10.0.0.1"] }), undefined);
  assertEquals(await faultOf({ dnsNames: [], ipAddresses: ["11.0.0.1"] }), `${forbid} "11.0.0.1"`);
});

const signatures = {
  "RSA": {
    name: "RSASSA-PKCS1-v1_5",
    hash: "SHA-512",
    modulusLength: 2048,
    publicExponent: new Uint8Array([1, 0, 1]),
  },
  "P-384": { name: "ECDSA", namedCurve: "P-384" },
  "P-521": { name: "ECDSA", namedCurve: "P-521" },
  "Ed25519": { name: "Ed25519" },
};
for (const [kind, algorithm] of Object.entries(signatures)) {
  Deno.test(`serverCertificateFaults() checks the signature of a CA with a ${kind} key`, async () => {
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
      const certificate = await x509.X509CertificateGenerator.create({
        subject: `CN=${SERVER_NAME}`,
        issuer: name,
        publicKey: server.keys.publicKey,
        signingKey: keys.privateKey,
        signingAlgorithm,
      });
      return {
        root: new TextEncoder().encode(root.toString("pem")),
        leaf: derOf({ certificate }),
      };
    };
    const [one, other] = [await issueBy("CN=root"), await issueBy("CN=root")];
    const faultsBy = (root: Uint8Array) => serverCertificateFaults([one.leaf], root, SERVER_NAME);
    assertEquals(faultsBy(one.root), []);
    assertEquals(faultsBy(other.root).map(({ kind }) => kind), ["untrusted"]);
  });
}

Deno.test("serverCertificateFaults() copes with nothing, and with what cannot be read", () => {
  const faults = (chain: Uint8Array[] | null, ca: Uint8Array) =>
    serverCertificateFaults(chain, ca, SERVER_NAME);
  const none = { kind: "missing", reason: "the server sent no certificate" } as const;
  assertEquals(faults(null, pem(ca)), [none]);
  assertEquals(faults([], pem(ca)), [none]);
  assertMatch(
    reasonsOf(faults([new Uint8Array([1, 2])], pem(ca)))!,
    /^the certificate cannot be read: /,
  );
  const garbage = new TextEncoder().encode("-----BEGIN CERTIFICATE-----");
  assertEquals(faults([derOf(server)], garbage).map(({ kind }) => kind), ["untrusted"]);
});

Deno.test("serverCertificateFaults() gives every fault there is", async () => {
  const leaf = await issue({ usage: "client", dnsNames: [], ...PAST }, otherCa);
  const faults = serverCertificateFaults([derOf(leaf)], pem(ca), SERVER_NAME);
  assertEquals(faults.map(({ kind }) => kind), ["untrusted", "expired", "name", "purpose"]);
  assertEquals(reasonsOf(faults)!.split("; ").length, 4);
});

Deno.test("clientCertificateFaults() names issuer, validity and purpose, and verifies nothing", async () => {
  const der = async (options: Partial<CertificateOptions>) =>
    derOf(await issue({ usage: "client", ...options }));
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
