// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * A trust anchor as a root certificate.
 *
 * For path validation an anchor is a name and a key (RFC 5280, section 6.1.1 d); who issued the
 * certificate that they come in does not matter. BoringSSL wants that certificate to name itself as
 * its issuer, unless `X509_V_FLAG_PARTIAL_CHAIN` is set, which the binding cannot do.
 */
import { type DerItem, derItems, encodeDer } from "./der.ts";

/** Context tag of the extensions in a TBSCertificate. */
const EXTENSIONS = 0xa3;
const VERSION = 0xa0;
const AUTHORITY_KEY_IDENTIFIER = "551d23";

/**
 * A CA certificate with itself as its issuer: what the TLS library ends a chain at. Name, key,
 * validity and constraints stay. The signature no longer fits, which is not verified on an anchor.
 *
 * @param der of a certificate that has been read
 */
export function asRoot(der: Uint8Array): Uint8Array {
  const [signedPart, ...signature] = derItems(derItems(der)[0]!.body) as [DerItem, ...DerItem[]];
  const fields = derItems(signedPart.body);
  const issuerAt = fields[0]!.tag === VERSION ? 3 : 2;
  const subject = fields[issuerAt + 2]!;
  const rewritten = fields.map((field, at) =>
    at === issuerAt
      ? subject.whole
      : field.tag === EXTENSIONS
      ? withoutKeyIdentifier(field)
      : field.whole
  );
  return encodeDer(0x30, [encodeDer(0x30, rewritten), ...signature.map(({ whole }) => whole)]);
}

/** Extensions without the identifier of the issuer's key, which would contradict the new issuer. */
function withoutKeyIdentifier({ body }: DerItem): Uint8Array {
  const kept = derItems(derItems(body)[0]!.body)
    .filter((extension) => derItems(extension.body)[0]!.body.toHex() !== AUTHORITY_KEY_IDENTIFIER);
  return encodeDer(EXTENSIONS, [encodeDer(0x30, kept.map(({ whole }) => whole))]);
}
