// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Awaitable } from "../wait.ts";

/**
 * The contract that every carrier of a tunnel fulfils: a QUIC stream, a TCP connection, a pair in
 * memory.
 *
 * At most one `read` and one `write` may be pending at a time; each direction ends on its own. What
 * can be done at once may be: then a call returns its result, or throws, without a promise.
 */
export interface Duplex extends AsyncDisposable {
  /**
   * Reads up to `buffer.length` bytes into `buffer`.
   *
   * @returns the number of bytes read (at least 1), or `null` at the end of the peer's bytes.
   * @throws when the peer reset its direction or the carrier failed; every later read throws too.
   */
  read(buffer: Uint8Array): Awaitable<number | null>;
  /**
   * Hands bytes to the carrier, waiting until it has room for at least one of them.
   *
   * @returns the number of bytes taken from the front of `bytes` (at least 1 unless it is empty).
   * @throws when the peer takes no more bytes, or the carrier failed.
   */
  write(bytes: Uint8Array): Awaitable<number>;
  /** Ends the writing direction in order: the peer reads all that was written and then the end. */
  closeWrite(): Awaitable<void>;
  /**
   * Ends both directions at once, dropping what is under way. Pending calls throw. Idempotent. The
   * peer sees a reset, not an end, unless this end had finished writing or the carrier has no
   * resets.
   *
   * @param code application error code shown to the peer where the carrier has one
   * @default {0}
   */
  abort(code?: number): void;
  /**
   * Ends the reading direction only: the peer is told to send no more. Carriers that cannot tell
   * leave it out.
   *
   * @param code application error code shown to the peer
   */
  stop?(code: number): void;
  /**
   * Whether the peer has reset the carrier. Only needed between the end of its bytes and the next
   * write: reads and writes report it as well. Carriers that always report it leave it out.
   */
  isReset?(): boolean;
}

/** Writes all of `bytes`, in as many writes as it takes. */
export function writeAll(duplex: Pick<Duplex, "write">, bytes: Uint8Array): Awaitable<void> {
  if (bytes.length === 0) return;
  const written = duplex.write(bytes);
  if (written !== bytes.length) return writeRest(duplex, bytes, written);
}

async function writeRest(
  duplex: Pick<Duplex, "write">,
  bytes: Uint8Array,
  written: Awaitable<number>,
): Promise<void> {
  for (let offset = await written; offset < bytes.length;) {
    offset += await duplex.write(bytes.subarray(offset));
  }
}

/** A carrier whose first bytes have been read already: reads give them before all others. */
export function prepend(first: Uint8Array, carrier: Duplex): Duplex {
  if (first.length === 0) return carrier;
  let left = first;
  const drop = () => left = left.subarray(left.length);
  const { stop, isReset } = carrier;
  return {
    read(buffer) {
      if (left.length === 0) return carrier.read(buffer);
      const n = Math.min(left.length, buffer.length);
      buffer.set(left.subarray(0, n));
      left = left.subarray(n);
      return n;
    },
    write: (bytes) => carrier.write(bytes),
    closeWrite: () => carrier.closeWrite(),
    abort(code) {
      drop();
      carrier.abort(code);
    },
    ...(stop && {
      stop(code: number) {
        drop();
        stop.call(carrier, code);
      },
    }),
    ...(isReset && { isReset: () => isReset.call(carrier) }),
    [Symbol.asyncDispose]() {
      drop();
      return carrier[Symbol.asyncDispose]();
    },
  };
}
