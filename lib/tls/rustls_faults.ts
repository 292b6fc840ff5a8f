// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { quote } from "../printable.ts";
import type { CertificateFault } from "./faults.ts";

/** What rustls, the TLS library of Deno, says of a certificate; the first that fits counts. */
const words: readonly (readonly [RegExp, CertificateFault["kind"], string])[] = [
  [/UnknownIssuer|BadSignature/, "untrusted", "certificate is not of a CA in --ca-file"],
  [/not ?valid ?for ?name/i, "name", "certificate is not for"],
  [/not ?valid ?yet/i, "early", "certificate is not valid yet"],
  [/expired/i, "expired", "certificate has expired"],
  [/purpose/i, "purpose", "certificate is not meant for servers (extendedKeyUsage)"],
  [/constraint/i, "constraint", "certificate has a name that its CA may not issue"],
  [/version/i, "version", "certificate is of an old version of X.509"],
];

/**
 * Why Deno's QUIC has not accepted a server's certificate, which it does not show; empty where its
 * words do not tell.
 *
 * @param serverName name that the certificate must have
 */
export function serverFaultsInWords(said: string, serverName: string): CertificateFault[] {
  const found = words.find(([pattern]) => pattern.test(said));
  if (!found) return [];
  const [, kind, reason] = found;
  return [{ kind, reason: kind === "name" ? `${reason} ${quote(serverName)}` : reason }];
}
