// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { Buffer } from "node:buffer";
import { X509Certificate } from "node:crypto";
import { formatIp, ipBytes, mapIp } from "../../net/ip_address.ts";

/**
 * Whether a certificate is for an IP address: that is an iPAddress among its alternative names (RFC
 * 9525, section 6.5). DNS names and common names do not count.
 *
 * @param der a server's certificate, the chain of which has been verified
 * @param address in any notation
 */
export function isForAddress(der: Uint8Array, address: string): boolean {
  const bytes = ipBytes(address);
  if (bytes === undefined) return false;
  try {
    const certificate = new X509Certificate(Buffer.from(der));
    return [bytes, mapIp(bytes)].some((bytes) =>
      certificate.checkIP(formatIp(bytes)) !== undefined
    );
  } catch {
    return false;
  }
}
