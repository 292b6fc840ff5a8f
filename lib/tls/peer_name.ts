// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { createHash } from "node:crypto";
import { formatIp, isIpAddress } from "../net/ip_address.ts";
import { allowedName } from "./agent_names.ts";
import { type Certificate, readCertificate } from "./certificate.ts";

/** The names in a peer's certificate, and whether they are admitted. */
export interface PeerNames {
  /** DNS names, URIs, common names and IP addresses. */
  readonly names: readonly string[];
  /**
   * What it is entitled by: its alternative names, and common names only where it has none (RFC
   * 9525, section 6.3). A name in the form of an IP address stands for none.
   */
  readonly entitled: readonly string[];
  /** Whether one of them is admitted. */
  readonly isAllowed: boolean;
  /** The admitted one, else the first, else the certificate's fingerprint. */
  readonly name: string;
}

/**
 * @param certificate of the peer, in DER, which the TLS layer has verified
 * @param allowed patterns of admitted names; if empty, every peer is admitted
 */
export function peerNamesOf(certificate: Uint8Array, allowed: readonly string[]): PeerNames {
  const { names, first, entitled } = namesOf(certificate);
  const admitted = allowedName(names, allowed);
  const isAllowed = allowed.length === 0 || admitted !== undefined;
  return { names, entitled, isAllowed, name: admitted ?? first ?? fingerprintOf(certificate) };
}

/** All names, and the first one that is more than an IP address among the alternative names. */
function namesOf(
  der: Uint8Array,
): Pick<PeerNames, "names" | "entitled"> & { first?: string | undefined } {
  try {
    const certificate = readCertificate(der);
    const { info, ipAddresses, commonNames } = certificate;
    const names = info.names.filter((name) => name !== "");
    const addresses = ipAddresses.map(formatIp);
    const first = names.find((name) => !addresses.includes(name) || commonNames.includes(name));
    return { names, first, entitled: entitledNames(certificate) };
  } catch {
    // The TLS layer has accepted it, but its names cannot be read here.
    return { names: [], entitled: [] };
  }
}

function entitledNames(
  { hasAlternativeNames, dnsNames, uris, ipAddresses, commonNames }: Certificate,
): readonly string[] {
  const named = (hasAlternativeNames ? dnsNames : commonNames)
    .filter((name) => name !== "" && !isIpAddress(name));
  return hasAlternativeNames ? [...named, ...uris, ...ipAddresses.map(formatIp)] : named;
}

/** SHA-256 of a certificate in DER, as OpenSSL writes it. */
export function fingerprintOf(certificate: Uint8Array): string {
  const digest = createHash("sha256").update(certificate).digest("hex").toUpperCase();
  return digest.match(/../g)!.join(":");
}
