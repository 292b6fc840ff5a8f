// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The transfer that is measured: a client asks for a number of bytes, the origin sends as many of a pattern and closes.
 *
 * The pattern repeats at no power of two, so that a block that is lost, doubled or moved shows.
 */
import { Buffer } from "node:buffer";
import { writeAll } from "../lib/duplex.ts";

/** The request: the number of bytes as 64 bits, big-endian. */
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

/** Serves one connection of a client. */
export async function serveTransfer(connection: Deno.TcpConn): Promise<void> {
  using _connection = connection;
  const request = new DataView(new ArrayBuffer(REQUEST_BYTES));
  for (let n = 0; n < REQUEST_BYTES;) {
    const read = await connection.read(new Uint8Array(request.buffer, n));
    if (read === null) return;
    n += read;
  }
  const bytes = Number(request.getBigUint64(0));
  if (bytes > MAX_TRANSFER_BYTES) return;
  for (let sent = 0; sent < bytes;) {
    sent += await connection.write(patternAt(sent, Math.min(CHUNK_BYTES, bytes - sent)));
  }
  await connection.closeWrite();
  // What the client sends is over when it has read everything.
  while (await connection.read(new Uint8Array(1)) !== null);
}

/**
 * Downloads `bytes` from a port on 127.0.0.1 and verifies every one of them.
 *
 * @returns the time from connecting to the last byte, in seconds
 * @throws {WrongBytesError} when one is wrong, or there are too many
 * @throws {Error} when bytes are missing
 * @throws the signal's reason when it aborts
 */
export async function download(port: number, bytes: number, signal: AbortSignal): Promise<number> {
  signal.throwIfAborted();
  const since = performance.now();
  let received = 0, last = since;
  let stopped: unknown;
  using connection = await Deno.connect({ hostname: "127.0.0.1", port });
  const stop = (reason: unknown) => {
    stopped ??= reason;
    connection.close();
  };
  const onAbort = () => stop(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  const watch = setInterval(() => {
    if (performance.now() - last < STALL_MS) return;
    stop(new Error(`no byte for ${STALL_MS} ms after ${received} of ${bytes}`));
  }, STALL_MS / 10);
  try {
    const request = new DataView(new ArrayBuffer(REQUEST_BYTES));
    request.setBigUint64(0, BigInt(bytes));
    await writeAll(connection, new Uint8Array(request.buffer));
    const buffer = Buffer.alloc(CHUNK_BYTES);
    for (;;) {
      const n = await connection.read(buffer);
      if (n === null) break;
      if (!patternAt(received, n).equals(buffer.subarray(0, n))) {
        throw new WrongBytesError(`wrong bytes after ${received} of ${bytes}`);
      }
      received += n;
      last = performance.now();
    }
  } catch (error) {
    throw stopped ?? error;
  } finally {
    clearInterval(watch);
    signal.removeEventListener("abort", onAbort);
  }
  if (stopped) throw stopped;
  if (received < bytes) throw new Error(`${received} of ${bytes} bytes, and an end`);
  if (received > bytes) throw new WrongBytesError(`${received} bytes instead of ${bytes}`);
  return (last - since) / 1000;
}
