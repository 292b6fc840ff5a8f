// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Resets of TCP connections (RST, RFC 9293 §3.10.5), for which Deno has no call: its `close()`
 * always sends FIN first, after which a peer takes what it got for all there was.
 *
 * On Linux, `connect()` to an address of no family breaks a connection off by RST (connect(2)).
 * Elsewhere, and without `--allow-ffi`, there are no resets.
 */
import { equals } from "@std/bytes/equals";
import { firstReserved, TooManyFilesError } from "./descriptors.ts";
import { ipBytes } from "./ip_address.ts";
import {
  getOption,
  IPPROTO_TCP,
  libc,
  nextDescriptor,
  readSocketAddress,
  setOption,
  SOL_SOCKET,
  TCP_NODELAY,
} from "./libc.ts";

/** `struct sockaddr` of the family AF_UNSPEC. */
const NO_ADDRESS = new Uint8Array(16);

/** socket(7) */
const SO_LINGER = 13;

/**
 * Descriptors that may have been opened between the look at the next one and a connection's own.
 */
const OPENED_MEANWHILE = 1024;

/** Descriptors that may have been freed, below that of a connection, before one was looked at. */
const FREED_MEANWHILE = 64;

/** Descriptors of open connections that come from {@linkcode connectTcp}, each shown to be it. */
const descriptors = new WeakMap<Deno.TcpConn, number>();

/** The descriptor that was next when such a connection was made, until its own is known. */
const guesses = new WeakMap<Deno.TcpConn, number>();

/** Connections that are about to be closed: their descriptors are soon those of others. */
const over = new WeakSet<Deno.TcpConn>();

/** Whether what Deno tells of accepted connections is known to be their descriptor. */
let areAcceptedKnown = false;

/** No descriptor of a connection that was opened here is higher than this and a few. */
let highest = 0;

/**
 * `Deno.connect` by TCP to an IP address, for a connection that {@linkcode resetTcp} can reset.
 *
 * @throws {TooManyFilesError} when only the reserved descriptors are left
 */
export async function connectTcp(options: Deno.ConnectOptions): Promise<Deno.TcpConn> {
  const next = nextDescriptor();
  if (next === undefined ? libc !== undefined : next >= firstReserved) {
    throw new TooManyFilesError();
  }
  const connection = await Deno.connect(options);
  if (next !== undefined) {
    highest = Math.max(highest, next);
    guesses.set(connection, next);
  }
  return connection;
}

/**
 * Turns off Nagle's algorithm. The descriptor of a connection that comes from
 * {@linkcode connectTcp} is recognized by that: it is off there from this moment on. Reading its
 * addresses would take longer.
 */
export function setNoDelay(connection: Deno.TcpConn): void {
  const guess = guesses.get(connection);
  const isOn = guess !== undefined && getOption(guess, IPPROTO_TCP, TCP_NODELAY) === 0;
  connection.setNoDelay(true);
  if (isOn && getOption(guess, IPPROTO_TCP, TCP_NODELAY) === 1) {
    guesses.delete(connection);
    descriptors.set(connection, guess);
  }
}

/**
 * Resets a connection that is open, and was accepted or comes from {@linkcode connectTcp}. It has
 * to be closed all the same, and at once.
 *
 * @returns whether the peer gets RST; if not, nothing was done
 */
export function resetTcp(connection: Deno.TcpConn): boolean {
  const fd = descriptorOf(connection);
  over.add(connection);
  return fd !== undefined && libc!.connect(fd, NO_ADDRESS, NO_ADDRESS.length) === 0;
}

/**
 * Resets a connection of a listener for TLS, whose descriptor Deno does not tell: it is looked for,
 * which takes a call for each that may be it.
 *
 * @param next {@linkcode nextDescriptor} when it was accepted
 * @returns whether the peer gets RST; if not, nothing was done
 */
export function resetTls(connection: Deno.TlsConn, next: number | undefined): boolean {
  if (next === undefined) return false;
  for (let fd = next + FREED_MEANWHILE; fd >= 0; fd--) {
    const isIt = hasAddress(fd, "peer", connection.remoteAddr) &&
      hasAddress(fd, "socket", connection.localAddr);
    if (isIt) return libc!.connect(fd, NO_ADDRESS, NO_ADDRESS.length) === 0;
  }
  return false;
}

/**
 * Has the system reset such a connection, or not any more, when this process ends without having
 * closed it, as when it is killed: by itself it would say that this was all. To be taken back right
 * before the connection is closed in order.
 */
export function resetTcpAtExit(connection: Deno.TcpConn, reset: boolean): void {
  const fd = descriptorOf(connection);
  if (!reset) over.add(connection);
  if (fd !== undefined) setLinger(fd, reset);
}

/** Whether a close of a descriptor, by whoever, resets its connection. */
export function setLinger(fd: number, reset: boolean): void {
  // struct linger: on, and for 0 s.
  setOption(fd, SOL_SOCKET, SO_LINGER, reset ? 1 : 0, 0);
}

/**
 * Whether the peer of such a connection has reset it, or no longer exists, which nobody is told who
 * has read its end and writes nothing. Always false where the system cannot tell.
 */
export function isTcpReset(connection: Deno.TcpConn): boolean {
  const fd = descriptorOf(connection);
  return fd !== undefined && readSocketAddress(fd, "peer") === undefined;
}

/**
 * The descriptor of a connection that is open, and was accepted or comes from
 * {@linkcode connectTcp}; undefined where it is not known.
 */
export function descriptorOf(connection: Deno.TcpConn): number | undefined {
  if (over.has(connection)) return undefined;
  const known = descriptors.get(connection);
  if (known !== undefined) return known;
  const guess = guesses.get(connection);
  if (guess !== undefined) return search(connection, guess);
  const fd = libc && acceptedDescriptorOf(connection);
  if (fd === undefined) return undefined;
  areAcceptedKnown ||= hasAddresses(connection, fd);
  return areAcceptedKnown ? fd : undefined;
}

/**
 * Makes sure that the descriptor of a connection that has just been accepted is known when it ends:
 * then its addresses may be gone.
 */
export function learnDescriptor(connection: Deno.TcpConn): void {
  if (!areAcceptedKnown) descriptorOf(connection);
}

/** What Deno tells of a connection that was accepted. */
function acceptedDescriptorOf(connection: Deno.TcpConn): number | undefined {
  const key = Object.getOwnPropertySymbols(connection)
    .find(({ description }) => description === "Deno.internal.fd");
  const fd: unknown = key && Reflect.get(connection, key);
  return typeof fd === "number" ? fd : undefined;
}

/**
 * Looks for the descriptor of a connection that comes from {@linkcode connectTcp}, once, by its
 * addresses.
 */
function search(connection: Deno.TcpConn, guess: number): number | undefined {
  guesses.delete(connection);
  const isIt = (fd: number) => {
    if (!hasAddresses(connection, fd)) return false;
    descriptors.set(connection, fd);
    return true;
  };
  for (let fd = guess; fd <= highest + OPENED_MEANWHILE; fd++) if (isIt(fd)) return fd;
  for (let fd = guess - 1; fd >= 0; fd--) if (isIt(fd)) return fd;
  return undefined;
}

function hasAddresses({ localAddr, remoteAddr }: Deno.TcpConn, fd: number): boolean {
  return hasAddress(fd, "socket", localAddr) && hasAddress(fd, "peer", remoteAddr);
}

function hasAddress(fd: number, of: "socket" | "peer", { hostname, port }: Deno.NetAddr): boolean {
  const address = readSocketAddress(fd, of);
  if (address?.port !== port) return false;
  const ip = ipBytes(hostname.replace(/%.*$/, ""));
  return ip !== undefined && equals(ip, address.ip);
}
