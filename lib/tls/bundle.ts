// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * All that an agent needs, in one text: the server's address, the agent's certificate with its key,
 * and the CA. It is a PEM file with a line `Server: host:port` before its first block. Written as a
 * string, it is base64url of that, behind a prefix.
 */
import { NotParsedError, UsageError } from "../errors.ts";
import { type Authority, formatAuthority, parseAuthority } from "../net/authority.ts";

/** What a bundle as a string begins with. */
const PREFIX = "qrht-agent:";

/** Such a string as it may arrive: with quotes of an env file, with line breaks of a terminal. */
const BEGINNING = new RegExp(`^\\s*["']?${PREFIX}`);
const WHOLE = new RegExp(`^\\s*(["']?)${PREFIX}([\\w\\s-]+)\\1\\s*$`);

const KEY_END = /^-----END (?:[A-Z]+ )?PRIVATE KEY-----\r?\n/m;
const SERVER_LINE = /^Server: (\S+)[ \t]*\r?$/m;

/** What is in a bundle. */
export interface Bundle {
  /** Where the server is. */
  readonly server: Authority;
  /** The agent's certificate and its key, PEM. */
  readonly identity: string;
  /** CA certificates, PEM. */
  readonly ca: string;
}

/** Writes a bundle as a file. */
export function formatBundle({ server, identity, ca }: Bundle): string {
  return [
    "All that an agent needs to connect, its private key too: keep it secret.",
    `Server: ${formatAuthority(server)}`,
    "",
    identity.trimEnd(),
    ca.trimEnd(),
    "",
  ].join("\n");
}

/** Writes a bundle as a string without spaces. */
export function formatBundleString(bundle: Bundle): string {
  const bytes = new TextEncoder().encode(formatBundle(bundle));
  return PREFIX + bytes.toBase64({ alphabet: "base64url", omitPadding: true });
}

/** Whether a value is a bundle as a string, not the path of a file, nor its text. */
export function isBundleString(value: string): boolean {
  return BEGINNING.test(value);
}

/**
 * The file that a bundle as a string stands for.
 *
 * @throws {UsageError} when it is incomplete; the message has nothing of it
 */
export function decodeBundleString(value: string): string {
  try {
    const bytes = Uint8Array.fromBase64(WHOLE.exec(value)![2]!, { alphabet: "base64url" });
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new UsageError("--join: the string is damaged or incomplete; copy all of it");
  }
}

/**
 * Reads a bundle from a file's text, which may be the string. What is in the blocks is not checked.
 *
 * @throws {UsageError} when it is none; the message has nothing of it
 */
export function parseBundle(contents: string): Bundle {
  const text = isBundleString(contents) ? decodeBundleString(contents) : contents;
  const [, address] = SERVER_LINE.exec(text) ?? [];
  const end = KEY_END.exec(text);
  if (!address || !end) {
    const missing = address ? "private key" : "line with the server's address";
    throw new UsageError(`--join: there is no ${missing}; use a file of proxy-server --make-certs`);
  }
  try {
    const identity = text.slice(text.indexOf("-----BEGIN"), end.index + end[0].length);
    const ca = text.slice(end.index + end[0].length);
    return { server: parseAuthority(address), identity, ca };
  } catch (error) {
    if (!(error instanceof NotParsedError)) throw error;
    throw new UsageError(`--join: the server's address: ${error.message}`);
  }
}
