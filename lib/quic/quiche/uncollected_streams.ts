// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { NO_BYTES } from "../../bytes.ts";
import { type NativeConnection, nativeErrorOf } from "./native.ts";

/** Time between two looks at the streams. */
const INTERVAL_MS = 250;

/** Time in which a reset of ours has been acknowledged. */
const SETTLE_MS = 1_000;

/** Time after which a peer that never ended its direction is no longer waited for. */
const GIVE_UP_MS = 60_000;

interface Uncollected {
  readonly how: "reset" | "stopped";
  readonly since: number;
  /** When the peer was found to have ended its direction. */
  endedAt?: number;
}

/**
 * Makes quiche 0.18.0 drop streams that are over but were not read to their end.
 *
 * By itself, it drops a complete stream, and gives the peer credit for another, only when
 * - the application reads the last of it: a stream that the peer has reset counts as unread for
 *   ever, so it is read again once this end's direction is complete too;
 * - an acknowledgement for it arrives: none does when the peer's RESET_STREAM is the last to come
 *   on a stream that was stopped, and can no longer be read. An empty STREAM frame at the final
 *   size, which peers ignore, gets one.
 *
 * Can go when quiche drops them by itself.
 */
export class UncollectedStreams {
  readonly #streams = new Map<number, Uncollected>();
  #lookedAt = 0;

  /** @param how the peer has reset its direction, or it was stopped */
  add(id: number, how: "reset" | "stopped"): void {
    const now = performance.now();
    if (this.#streams.size === 0) this.#lookedAt = now;
    this.#streams.set(id, { how, since: now });
  }

  /** When to look again. */
  get nextLookAt(): number {
    return this.#streams.size > 0 ? this.#lookedAt + INTERVAL_MS : Infinity;
  }

  /** Returns whether there is something to send. */
  release(native: NativeConnection, now: number): boolean {
    if (now < this.nextLookAt) return false;
    this.#lookedAt = now;
    let written = false;
    for (const [id, stream] of this.#streams) {
      if (!isKnown(native, id) || now - stream.since > GIVE_UP_MS) {
        this.#streams.delete(id);
      } else if (stream.how === "reset") {
        readReset(native, id);
        written = true;
      } else if (stream.endedAt === undefined) {
        if (native.streamFinished(id)) stream.endedAt = now;
      } else if (now - stream.endedAt > SETTLE_MS) {
        this.#streams.delete(id);
        poke(native, id);
        written = true;
      }
    }
    return written;
  }
}

function isKnown(native: NativeConnection, id: number): boolean {
  try {
    native.streamCapacity(id);
    return true;
  } catch (error) {
    return nativeErrorOf(error).name !== "InvalidStreamState";
  }
}

function readReset(native: NativeConnection, id: number): void {
  try {
    native.streamRecv(id, NO_BYTES);
  } catch {
    // The reset, again.
  }
}

function poke(native: NativeConnection, id: number): void {
  try {
    native.streamSend(id, NO_BYTES, true);
  } catch {
    // The peer has stopped it, which has made quiche send another RESET_STREAM already.
  }
}
