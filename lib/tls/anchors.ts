// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Which CA certificates of a file are handed to the TLS library, and in which order.
 *
 * BoringSSL takes the first CA certificate with the right name or key identifier, and tries no
 * other: neither when that one has expired, nor when it has another key.
 */
import { equals } from "@std/bytes/equals";
import { type Certificate, hasSigned, isAnchor, isSelfIssued } from "./certificate.ts";
import { invalidity } from "./faults.ts";
import { asRoot } from "./trust_anchor.ts";

/** A CA certificate, and what the TLS library is handed for it. */
export interface Anchor {
  readonly certificate: Certificate;
  readonly der: Uint8Array;
}

/**
 * The trust anchors that are valid at a time, the last to expire first.
 *
 * An intermediate CA whose issuer is not among them is an anchor of its own, as in Go.
 *
 * @param cas all CA certificates of a file
 */
export function anchorsAt(cas: readonly Certificate[], now: Date): readonly Anchor[] {
  const valid = cas
    .filter(({ info }) => invalidity(info, now) === undefined)
    .toSorted((a, b) => b.info.notAfter.getTime() - a.info.notAfter.getTime());
  return valid.map((certificate) => ({
    certificate,
    der: isAnchor(certificate) && !isSelfIssued(certificate) &&
        !valid.some((other) => hasIssued(other, certificate))
      ? asRoot(certificate.der)
      : certificate.der,
  }));
}

/**
 * The anchors in the order in which the TLS library finds the one that has signed a peer's chain.
 *
 * @param chain a peer's, leaf first
 * @returns undefined when no two anchors of different keys have the name of an issuer in the chain,
 * or none of them has signed it
 */
export function anchorsFor(
  chain: readonly Certificate[],
  anchors: readonly Anchor[],
): readonly Anchor[] | undefined {
  for (const link of chain) {
    const namesakes = anchors.filter(({ certificate }) =>
      equals(certificate.subjectDer, link.issuerDer)
    );
    if (namesakes.length < 2) continue;
    const signer = namesakes.slice(0, MAX_NAMESAKES)
      .find(({ certificate }) => hasSigned(certificate, link));
    if (!signer) continue;
    return signer === namesakes[0]
      ? anchors
      : [signer, ...anchors.filter((anchor) => anchor !== signer)];
  }
  return undefined;
}

/** Strangers can cause as many verifications of signatures per handshake. */
const MAX_NAMESAKES = 8;

function hasIssued(issuer: Certificate, certificate: Certificate): boolean {
  return issuer !== certificate && equals(issuer.subjectDer, certificate.issuerDer) &&
    hasSigned(issuer, certificate);
}
