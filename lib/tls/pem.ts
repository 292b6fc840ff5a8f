// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** PEM text to DER and back (RFC 7468), lenient about what stands around and between the blocks. */

/** A labelled part of a PEM text. */
export interface PemBlock {
  readonly label: string;
  /** Counted from 1. */
  readonly line: number;
  /** What is between the edges, unchecked. */
  readonly base64: string;
  /** Encrypted by old header lines (RFC 1421); in PKCS#8, the label shows it. */
  readonly encrypted: boolean;
}

/**
 * Splits a text into its PEM blocks, taking time in proportion to its length.
 *
 * @throws {SyntaxError} If a block does not end.
 */
export function pemBlocks(text: string): PemBlock[] {
  const blocks: PemBlock[] = [];
  let open: { label: string; line: number; encrypted: boolean; body: string[] } | undefined;
  for (const [index, untrimmed] of text.split(/\r\n|\r|\n/).entries()) {
    const line = untrimmed.trim();
    const [, edge, label] = /^-----(BEGIN|END) ([A-Z0-9 ]{1,64})-----$/.exec(line) ?? [];
    if (edge === "BEGIN") {
      if (open !== undefined) throw unended(open);
      open = { label: label!, line: index + 1, encrypted: false, body: [] };
    } else if (open === undefined) {
      continue; // text between the blocks is allowed
    } else if (edge === "END") {
      if (label !== open.label) throw unended(open);
      blocks.push({ ...open, base64: open.body.join("") });
      open = undefined;
    } else if (line.includes(":")) {
      if (/^Proc-Type:.*ENCRYPTED/i.test(line)) open.encrypted = true;
    } else {
      open.body.push(line);
    }
  }
  if (open !== undefined) throw unended(open);
  return blocks;
}

function unended({ label, line }: { label: string; line: number }): SyntaxError {
  return new SyntaxError(`the ${label} block that begins in line ${line} has no END line`);
}

/**
 * The DER in a block.
 *
 * @throws {SyntaxError} If it is not valid base64.
 */
export function decodeBlock({ base64 }: PemBlock): Uint8Array {
  if (base64.length % 4 !== 0 || !/^[A-Za-z0-9+/]+={0,2}$/.test(base64)) {
    throw new SyntaxError("not valid base64");
  }
  return Uint8Array.fromBase64(base64);
}

/** Writes DER as one PEM block, in lines of 64 characters. */
export function toPem(label: string, der: Uint8Array): Uint8Array {
  const lines = der.toBase64().match(/.{1,64}/g) ?? [];
  const text = [`-----BEGIN ${label}-----`, ...lines, `-----END ${label}-----`, ""].join("\n");
  return new TextEncoder().encode(text);
}
