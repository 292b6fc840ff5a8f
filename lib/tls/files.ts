// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The files with certificates and keys of a program, as they are read. */

import type { Authority } from "../net/authority.ts";
import { messageOf, UsageError } from "../errors.ts";
import { oneLine, quote } from "../printable.ts";
import { decodeBundleString, isBundleString, parseBundle } from "./bundle.ts";

/** Far more than any real bundle of CAs needs: the system's own has a fifth of it. */
const MAX_FILE_BYTES = 1024 * 1024;

const JOIN = "--join";

const READABLE_BY_OTHERS = 0o004;

/** Longest path, and longest name of a file, of the systems that the programs run on. */
const MAX_PATH = 4096;
const MAX_NAME = 255;

/** Where {@linkcode readTlsFiles} reads from: files, or the value of `--join`. */
export type TlsFiles = SeparateFiles | { readonly bundle: string };

interface SeparateFiles {
  readonly caFile: string;
  /** The flag that named `caFile`, for messages: `--ca-file` or `--client-ca-file`. */
  readonly caFlag: string;
  /** May hold a chain, leaf first, and the private key as well. */
  readonly certFile: string;
  /** The flag that named `certFile`; ends in `cert-file`. @default {"--cert-file"} */
  readonly certFlag?: string;
  readonly keyFile: string;
  /** The flag that named `keyFile`. @default {"--cert-key"} */
  readonly keyFlag?: string;
}

/** What was in the files of a program. */
export interface TlsFileContents {
  readonly ca: FileContent;
  readonly cert: FileContent;
  readonly key: FileContent;
  /** The server's address, if a bundle has it. */
  readonly server?: Authority;
}

/** What was in one of them. */
export interface FileContent {
  /** What it is, by the flag that names such a file. */
  readonly flag: string;
  /** The flag that it was given with, if that is another one. */
  readonly givenWith?: string | undefined;
  readonly path: string;
  readonly bytes: Uint8Array;
  /** Whether it can be read again; a pipe cannot. */
  readonly isFile: boolean;
  /** Whether every user of this machine may read it. */
  readonly isPublic?: boolean;
}

/**
 * Reads the files of a program, each up to 1 MiB.
 *
 * @param before the previous contents; what was no regular file then, such as a pipe, is not read
 * @throws {UsageError} when one cannot be read: one line that names its flag and path
 */
export async function readTlsFiles(
  files: TlsFiles,
  before?: TlsFileContents,
): Promise<TlsFileContents> {
  if ("bundle" in files) return await readBundle(files.bundle, before);
  const { certFlag = "--cert-file", keyFlag = "--cert-key" } = files;
  const ca = await readFile(files.caFlag, files.caFile, before?.ca);
  const cert = await readFile(certFlag, files.certFile, before?.cert);
  const key = files.keyFile === files.certFile
    ? { ...cert, flag: keyFlag } // a pipe can be read only once
    : await readFile(keyFlag, files.keyFile, before?.key);
  return { ca, cert, key };
}

async function readBundle(value: string, before?: TlsFileContents): Promise<TlsFileContents> {
  if (before && !before.key.isFile) return before;
  const file = isBundleString(value)
    ? { path: "", bytes: new TextEncoder().encode(decodeBundleString(value)), isFile: false }
    : await readFile(JOIN, value, before?.key);
  const { server, identity, ca } = parseBundle(new TextDecoder().decode(file.bytes));
  const part = (flag: string, text: string) => {
    return { ...file, flag, givenWith: JOIN, bytes: new TextEncoder().encode(text) };
  };
  return {
    ca: part("--ca-file", ca),
    cert: part("--cert-file", identity),
    key: part("--cert-key", identity),
    server,
  };
}

async function readFile(flag: string, path: string, before?: FileContent): Promise<FileContent> {
  if (before && !before.isFile) return before;
  try {
    // What has become a pipe must not be opened: that would wait for a writer.
    if (before && !(await Deno.stat(path)).isFile) throw new TypeError("no longer a regular file");
    return { flag, path, ...await readBounded(path) };
  } catch (error) {
    throw new UsageError(`cannot read ${place({ flag, path })}: ${fileFault(error, path)}`);
  }
}

/** @throws {RangeError} when the file is larger than 1 MiB */
export async function readBounded(
  path: string,
): Promise<Pick<FileContent, "bytes" | "isFile" | "isPublic">> {
  using file = await Deno.open(path);
  const { isFile, mode } = await file.stat();
  const isPublic = isFile && ((mode ?? 0) & READABLE_BY_OTHERS) !== 0;
  // Not by the size in stat(): a pipe has none, and a secret may well come through one.
  const buffer = new Uint8Array(MAX_FILE_BYTES + 1);
  let length = 0;
  while (length < buffer.length) {
    const count = await file.read(buffer.subarray(length));
    if (count === null) return { bytes: buffer.slice(0, length), isFile, isPublic };
    length += count;
  }
  throw new RangeError("larger than 1 MiB");
}

/** Why a file cannot be read, without its path. */
export function fileFault(error: unknown, path: string): string {
  if (error instanceof Deno.errors.NotCapable) {
    return "Deno lacks the permission --allow-read for it";
  }
  const message = messageOf(error).replace(/ \(os error \d+\).*$/s, "").replaceAll(path, "");
  const fault = oneLine(message);
  return error instanceof Deno.errors.PermissionDenied
    ? `${fault}; the user that runs this program needs read access`
    : fault;
}

/** A file in an error message: the flag that named it, and its path. */
export function place(
  { flag, givenWith, path }: Pick<FileContent, "flag" | "givenWith" | "path">,
): string {
  const shown = path === "" ? "" : ` ${isPath(path) ? quote(path) : "(too long for a path)"}`;
  return `${givenWith ?? flag}${shown}`;
}

/** Whether a path is not longer than systems allow: what is longer may be a key. */
function isPath(text: string): boolean {
  return text.length <= MAX_PATH && text.split(/[\\/]/).every((part) => part.length <= MAX_NAME);
}
