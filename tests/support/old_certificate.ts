// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { derItems, encodeDer } from "../../lib/tls/der.ts";
import { toPem } from "../../lib/tls/pem.ts";
import type { Issued } from "../../lib/certs/issue.ts";

/**
 * The certificate of a root CA as one of version 1 (X.509 of 1988), which has no extensions. Its
 * signature does not fit, which nobody verifies on a trust anchor.
 */
export function oldVersionOf({ certificate }: Issued): string {
  const [signedPart, ...signature] = derItems(
    derItems(new Uint8Array(certificate.rawData))[0]!.body,
  );
  const fields = derItems(signedPart!.body).filter(({ tag }) => tag !== 0xa0 && tag !== 0xa3);
  const old = encodeDer(0x30, fields.map(({ whole }) => whole));
  const der = encodeDer(0x30, [old, ...signature.map(({ whole }) => whole)]);
  return new TextDecoder().decode(toPem("CERTIFICATE", der));
}
