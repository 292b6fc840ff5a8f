// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Certificates of kinds that `certs/issue.ts` does not make. */
import { generateKeyPairSync, type KeyObject } from "node:crypto";
import "reflect-metadata"; // before @peculiar/x509
import * as x509 from "@peculiar/x509";
import { createCa, type Issued, type Validity } from "../../lib/certs/issue.ts";
import { encodeDer } from "../../lib/tls/der.ts";

export const SERVER_NAME = "quic-tunnel-server";

/** Times of validity that are over, or have not come. */
export const PAST = {
  notBefore: new Date("2019-01-01T00:00:00Z"),
  notAfter: new Date("2020-01-02T03:04:05Z"),
};
export const FUTURE = {
  notBefore: new Date("2090-01-02T03:04:05Z"),
  notAfter: new Date("2091-01-01T00:00:00Z"),
};

export type KeyKind = "RSA" | "P-256" | "P-384" | "P-521" | "Ed25519" | "secp256k1";

export function generateKeys(kind: KeyKind): { publicKey: KeyObject; privateKey: KeyObject } {
  if (kind === "RSA") return generateKeyPairSync("rsa", { modulusLength: 2048 });
  if (kind === "Ed25519") return generateKeyPairSync("ed25519");
  return generateKeyPairSync("ec", { namedCurve: kind });
}

/** A certificate for a key of any kind, named `any kind`. */
export async function issueFor(
  issuer: Issued,
  publicKey: KeyObject,
  extensions: x509.Extension[] = [],
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

export function subjectAltName(...names: x509.JsonGeneralName[]): x509.Extension {
  return new x509.SubjectAlternativeNameExtension(names);
}

/** A DNS name, or an IP address with its mask. */
type Subtree = string | readonly number[];

/** Name constraints of a CA (RFC 5280, section 4.2.1.10). */
export function nameConstraints(
  permitted: readonly Subtree[],
  excluded: readonly Subtree[] = [],
): x509.Extension {
  const subtrees = (tag: number, bases: readonly Subtree[]) => {
    const names = bases.map((base) =>
      typeof base === "string"
        ? encodeDer(0x82, [new TextEncoder().encode(base)])
        : encodeDer(0x87, [Uint8Array.from(base)])
    );
    return names.length === 0 ? [] : [encodeDer(tag, names.map((name) => encodeDer(0x30, [name])))];
  };
  const der = encodeDer(0x30, [...subtrees(0xa0, permitted), ...subtrees(0xa1, excluded)]);
  return new x509.Extension("2.5.29.30", true, Uint8Array.from(der));
}

/** A CA named `intermediate`, issued by another one. */
export async function issueIntermediate(
  ca: Issued,
  validity: Validity = {},
  keys?: CryptoKeyPair,
  extensions: x509.Extension[] = [],
): Promise<Issued> {
  const made = await createCa({ commonName: "intermediate" });
  const intermediate = keys ? { ...made, keys } : made;
  const certificate = await x509.X509CertificateGenerator.create({
    subject: intermediate.certificate.subjectName,
    issuer: ca.certificate.subjectName,
    publicKey: intermediate.keys.publicKey,
    signingKey: ca.keys.privateKey,
    ...validity,
    extensions: [new x509.BasicConstraintsExtension(true, 0, true), ...extensions],
  });
  return { ...intermediate, certificate, certPem: certificate.toString("pem") + "\n" };
}

export function derOf({ certificate }: { certificate: x509.X509Certificate }): Uint8Array {
  return new Uint8Array(certificate.rawData);
}
