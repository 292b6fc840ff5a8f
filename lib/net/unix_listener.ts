// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Unix sockets that nobody can connect to before they have their permissions. */
import { messageOf } from "../errors.ts";
import { unlink } from "./libc.ts";

export interface UnixSocketOptions {
  readonly path: string;
  /** Permissions of the file, such as `0o660`; to connect takes the one to write. */
  readonly mode: number;
  /** Name or number of the group of the file. @default {that of new files in the folder} */
  readonly group?: string | undefined;
}

/** What fits into an address (unix(7)), with the NUL at its end. */
const MAX_PATH_BYTES = Deno.build.os === "linux" ? 107 : 103;

/** Name of the private folder, and of the sockets in it. */
const privateName = () => `.${crypto.getRandomValues(new Uint8Array(4)).toHex()}`;
const SOCKET = "s";
const STALE = "o";

/** A Unix socket cannot be bound. */
export class UnixSocketError extends Error {
  override readonly name = "UnixSocketError";
}

/** A Unix socket that listens. */
export class UnixSocket {
  readonly #listener: Deno.UnixListener;
  readonly path: string;
  /** Its file, when it was bound. */
  readonly file: Deno.FileInfo;
  #isClosed = false;

  /** @internal */
  constructor(listener: Deno.UnixListener, path: string) {
    this.#listener = listener;
    this.path = path;
    this.file = Deno.lstatSync(path);
  }

  accept(): Promise<Deno.UnixConn> {
    return this.#listener.accept();
  }

  /** Removes the file if it is still the own one: nobody can connect from then on. */
  remove(): void {
    if (isSame(lookAt(this.path), this.file)) unlink(this.path);
  }

  /** Stops listening, and removes the file. Idempotent. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#listener.close();
    this.remove();
  }
}

/**
 * Binds a Unix socket in a private folder beside its path, and moves it there once it has its
 * permissions. The file of a program that was killed is replaced.
 *
 * @throws {UnixSocketError} when the path is in use, or not that of a socket, when the folder does
 * not let this program create files, or the group is not known
 */
export async function listenUnix(options: UnixSocketOptions): Promise<UnixSocket> {
  const { path, mode } = options;
  if (Deno.build.os === "windows") {
    throw new UnixSocketError("there are no Unix sockets on Windows");
  }
  const gid = options.group === undefined ? undefined : groupId(options.group);
  const folder = folderOf(path);
  const there = `${folder}/${privateName()}`;
  const socket = `${there}/${SOCKET}`;
  for (const name of [path, socket]) refuseLong(name);
  try {
    const stale = await staleFile(path);
    Deno.mkdirSync(there, { mode: 0o700 });
    const listener = Deno.listen({ transport: "unix", path: socket });
    try {
      if (gid !== undefined) changeGroup(socket, gid);
      Deno.chmodSync(socket, mode);
      if (stale) await take(path, `${there}/${STALE}`);
      put(socket, path);
      return new UnixSocket(listener, path);
    } catch (error) {
      listener.close();
      throw error;
    }
  } catch (error) {
    throw error instanceof UnixSocketError ? error : explained(error, folder);
  } finally {
    removeFolder(there);
  }
}

/**
 * The first folder of a path, from the root, that keeps users out who are in the group of the file
 * at most: these cannot connect, whatever the file's permissions are.
 */
export function closedFolder(path: string, gid: number | null): string | undefined {
  const parts = Deno.realPathSync(folderOf(path)).split("/");
  return parts.map((_, i) => parts.slice(0, i + 1).join("/") || "/").find((folder) => {
    const { mode, gid: ofFolder } = Deno.statSync(folder);
    return (mode! & (ofFolder === gid ? 0o011 : 0o001)) === 0;
  });
}

/** `0660`, from all that a file's mode says. */
export function formatMode(mode: number): string {
  return (mode & 0o7777).toString(8).padStart(4, "0");
}

/**
 * The file at a path, if it is that of a socket whose program has gone.
 *
 * @throws {UnixSocketError} when it is anything else
 */
async function staleFile(path: string): Promise<Deno.FileInfo | undefined> {
  const file = lookAt(path);
  if (!file) return undefined;
  if (!file.isSocket) throw new UnixSocketError("the file is no socket, and is left alone");
  if (await isListening(path)) throw inUse();
  return file;
}

async function isListening(path: string): Promise<boolean> {
  try {
    (await Deno.connect({ transport: "unix", path })).close();
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.ConnectionRefused) return false;
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/**
 * Takes a stale file away. Of several programs that have found it, one does; if another one's socket
 * is there by then, it is put back.
 */
async function take(path: string, to: string): Promise<void> {
  if (await isListening(path)) throw inUse();
  try {
    Deno.renameSync(path, to);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    throw error;
  }
  if (!await isListening(to)) return;
  put(to, path);
  throw inUse();
}

/** Puts a socket at a path where there is none: a link takes the place of no other file. */
function put(socket: string, path: string): void {
  try {
    Deno.linkSync(socket, path);
  } catch (error) {
    if (error instanceof Deno.errors.AlreadyExists) throw inUse();
    throw error;
  }
}

/** Clients could not connect to it. */
function refuseLong(path: string): void {
  const { length } = new TextEncoder().encode(path);
  if (length <= MAX_PATH_BYTES) return;
  throw new UnixSocketError(
    `${path} has ${length} bytes, and the address of a socket has at most ${MAX_PATH_BYTES}`,
  );
}

function inUse(): UnixSocketError {
  return new UnixSocketError(
    "another program listens on it, perhaps a proxy-server: stop it, or choose another path",
  );
}

function lookAt(path: string): Deno.FileInfo | undefined {
  try {
    return Deno.lstatSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** Removes the private folder, if it was made. */
function removeFolder(path: string): void {
  try {
    Deno.removeSync(path, { recursive: true });
  } catch {
    // It was not, and the error that is on its way says why.
  }
}

function isSame(a: Deno.FileInfo | undefined, b: Deno.FileInfo | undefined): boolean {
  return a?.ino === b?.ino && a?.dev === b?.dev;
}

function folderOf(path: string): string {
  const end = path.lastIndexOf("/");
  return end < 0 ? "." : path.slice(0, end) || "/";
}

function groupId(group: string): number {
  if (/^[0-9]+$/.test(group)) {
    // -1 would leave it as it is.
    if (Number(group) < 2 ** 32 - 1) return Number(group);
    throw new UnixSocketError(`${group} is no number of a group`);
  }
  let groups: string;
  try {
    groups = Deno.readTextFileSync("/etc/group");
  } catch (error) {
    throw new UnixSocketError(
      `the group ${group} is not known: ${messageOf(error)}; use its number`,
    );
  }
  const [, , gid] = groups.split("\n").map((line) => line.split(":"))
    .find(([name]) => name === group) ?? [];
  if (gid === undefined) {
    throw new UnixSocketError(`/etc/group has no group ${group}; use its number`);
  }
  return Number(gid);
}

function changeGroup(path: string, gid: number): void {
  try {
    Deno.chownSync(path, null, gid);
  } catch (error) {
    throw new UnixSocketError(
      `cannot give it to group ${gid}: ${messageOf(error)}; the program has to be a member of it`,
    );
  }
}

/** Says what to do about an error of the system. */
function explained(error: unknown, folder: string): UnixSocketError {
  const problem = messageOf(error);
  const because = (hint: string) => new UnixSocketError(`${problem}; ${hint}`, { cause: error });
  if (error instanceof Deno.errors.NotCapable) {
    return because(`the permission is --allow-write=${folder}`);
  }
  if (error instanceof Deno.errors.NotFound) {
    return because(`the folder ${folder} has to exist, and to let the program create files`);
  }
  const isDenied = error instanceof Deno.errors.PermissionDenied;
  const isReadOnly = (error as { readonly code?: string }).code === "EROFS";
  if (!isDenied && !isReadOnly) return new UnixSocketError(problem, { cause: error });
  return because(`the program needs write and search permission in ${describe(folder)}`);
}

function describe(folder: string): string {
  try {
    const { mode, uid, gid } = Deno.statSync(folder);
    return `${folder}, which has mode ${formatMode(mode!)}, uid ${uid} and gid ${gid}`;
  } catch {
    return `${folder}, and search permission in the folders above it`;
  }
}
