// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The transfers that are measured: a client asks for a number of bytes, the origin sends as many of a pattern and closes;
 * or it says how many it will send, sends them, and the origin answers when it has them all.
 *
 * The pattern repeats at no power of two, so that a block that is lost, doubled or moved shows.
 */
import { Buffer } from "node:buffer";
import { writeAll } from "../lib/tunnel/duplex.ts";
import { openWay, type Way, type WayConn } from "./way.ts";

/** The request: the number of bytes as 64 bits, big-endian and signed, negative when the client sends them. */
const REQUEST_BYTES = 8;

const MAX_TRANSFER_BYTES = 1e9;
const PERIOD_BYTES = 1_000_003;
const CHUNK_BYTES = 256 << 10;

/** A transfer that gets no byte for so long has failed. */
const STALL_MS = 10_000;

/** The period, and one chunk more, so that a chunk from anywhere in the period is one piece. */
const pattern = makePattern();

function makePattern(): Buffer {
  const bytes = Buffer.alloc(PERIOD_BYTES + CHUNK_BYTES);
  for (let i = 0, x = 1; i < PERIOD_BYTES; i++) {
    x = (Math.imul(x, 1_103_515_245) + 12_345) >>> 0;
    bytes[i] = x >>> 24;
  }
  bytes.copy(bytes, PERIOD_BYTES, 0, CHUNK_BYTES);
  return bytes;
}

function patternAt(offset: number, length: number): Buffer {
  const start = offset % PERIOD_BYTES;
  return pattern.subarray(start, start + length);
}

/** Bytes came that are not the right ones. */
export class WrongBytesError extends Error {
  override readonly name = "WrongBytesError";
}

export type Direction = "down" | "up";

export interface TransferOptions {
  readonly way: Way;
  readonly bytes: number;
  /** @default {"down"} */
  readonly direction?: Direction;
  /** What has come until then counts, and no more is waited for. @default {Infinity} */
  readonly timeLimitMs?: number;
  readonly signal: AbortSignal;
}

export interface Transferred {
  readonly bytes: number;
  /** Time from connecting to the last byte. */
  readonly seconds: number;
}

/**
 * Serves one connection of a client.
 *
 * @param first the bytes that were read already
 */
export async function serveTransfer(connection: Deno.TcpConn, first: Uint8Array): Promise<void> {
  const request = Buffer.alloc(Math.max(REQUEST_BYTES, first.length));
  request.set(first);
  for (let n = first.length; n < REQUEST_BYTES;) {
    const read = await connection.read(request.subarray(n));
    if (read === null) return;
    n += read;
  }
  const bytes = Number(request.readBigInt64BE());
  if (Math.abs(bytes) > MAX_TRANSFER_BYTES) return;
  if (bytes < 0) {
    // Whoever sent wrong bytes gets no answer.
    await receive(connection, -bytes, request.subarray(REQUEST_BYTES));
    await writeAll(connection, Uint8Array.of(1));
  } else await send(connection, bytes);
  await connection.closeWrite();
  // What the client sends is over when it has read everything.
  while (await connection.read(new Uint8Array(1)) !== null);
}

async function send(
  connection: WayConn,
  bytes: number,
  onProgress: (sent: number) => void = () => {},
): Promise<void> {
  for (let sent = 0; sent < bytes; onProgress(sent)) {
    sent += await connection.write(patternAt(sent, Math.min(CHUNK_BYTES, bytes - sent)));
  }
}

async function receive(
  connection: WayConn,
  bytes: number,
  first: Uint8Array,
  onProgress: (received: number) => void = () => {},
): Promise<void> {
  const buffer = Buffer.alloc(CHUNK_BYTES);
  let received = 0;
  const take = (chunk: Uint8Array) => {
    if (!patternAt(received, chunk.length).equals(chunk)) {
      throw new WrongBytesError(`wrong bytes after ${received} of ${bytes}`);
    }
    received += chunk.length;
    if (received > bytes) throw new WrongBytesError(`${received} bytes instead of ${bytes}`);
  };
  for (take(first); received < bytes; onProgress(received)) {
    const n = await connection.read(buffer);
    if (n === null) throw new Error(`${received} of ${bytes} bytes, then the end of the stream`);
    take(buffer.subarray(0, n));
  }
}

async function expectEnd(connection: WayConn): Promise<void> {
  if (await connection.read(new Uint8Array(1)) !== null) {
    throw new WrongBytesError("more bytes instead of an end");
  }
}

/**
 * Moves bytes between this process and an origin, each of which is verified where it arrives.
 *
 * @throws {WrongBytesError} when one is wrong, or there are too many
 * @throws {Error} when bytes are missing
 * @throws the signal's reason when it aborts
 */
export async function transfer(options: TransferOptions): Promise<Transferred> {
  const { way, bytes, direction = "down", timeLimitMs = Infinity, signal } = options;
  signal.throwIfAborted();
  const since = performance.now();
  let moved = 0, last = since;
  let stopped: unknown, isOver = false;
  using connection = await openWay(way);
  const stop = (reason: unknown) => {
    stopped ??= reason;
    try {
      connection.close();
    } catch {
      // It is closed.
    }
  };
  const onAbort = () => stop(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  const watch = setInterval(() => {
    const now = performance.now();
    isOver ||= now - since >= timeLimitMs;
    if (isOver) stop(undefined);
    else if (now - last >= STALL_MS) {
      stop(new Error(`no byte for ${STALL_MS} ms after ${moved} of ${bytes}`));
    }
  }, Math.min(STALL_MS / 10, timeLimitMs / 50));
  const onProgress = (bytes: number) => {
    moved = bytes;
    last = performance.now();
  };
  try {
    const request = new DataView(new ArrayBuffer(REQUEST_BYTES));
    request.setBigInt64(0, BigInt(direction === "up" ? -bytes : bytes));
    await writeAll(connection, new Uint8Array(request.buffer));
    if (direction === "up") {
      await send(connection, bytes, onProgress);
      const answer = await connection.read(new Uint8Array(1));
      if (answer === null) throw new WrongBytesError(`not all of ${bytes} bytes arrived unchanged`);
    } else await receive(connection, bytes, new Uint8Array(), onProgress);
    last = performance.now();
    await expectEnd(connection);
  } catch (error) {
    if (!isOver) throw stopped ?? error;
  } finally {
    clearInterval(watch);
    signal.removeEventListener("abort", onAbort);
  }
  return { bytes: moved, seconds: (last - since) / 1000 };
}

/** Downloads at once, and returns the time until the last one is done, in seconds. */
export async function transferMany(count: number, options: TransferOptions): Promise<number> {
  const since = performance.now();
  await Promise.all(Array.from({ length: count }, () => transfer(options)));
  return (performance.now() - since) / 1_000;
}
