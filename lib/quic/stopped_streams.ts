// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { type NativeConnection, nativeErrorOf } from "./native.ts";

/** Time between two looks at the streams. */
const INTERVAL_MS = 250;

/** Time in which a reset of ours has been acknowledged. */
const SETTLE_MS = 1_000;

/** Time after which a peer that never ended its direction is no longer waited for. */
const GIVE_UP_MS = 60_000;

const nothing = new Uint8Array(0);

/**
 * Makes quiche 0.18.0 let go of streams whose reading direction was stopped.
 *
 * It drops a complete stream, and gives the peer credit for another, only when an acknowledgement for it arrives or
 * the application reads its end. A stopped stream is never read again; when the peer's RESET_STREAM is the last thing to
 * come, nothing triggers it. An empty STREAM frame at the final size, which peers ignore, gets acknowledged and does.
 */
export class StoppedStreams {
  /** Stream id → when it was stopped, and when the peer had ended its direction. */
  readonly #streams = new Map<number, { stoppedAt: number; endedAt?: number }>();
  #lookedAt = 0;

  add(id: number): void {
    this.#streams.set(id, { stoppedAt: performance.now() });
  }

  release(native: NativeConnection, now: number): void {
    if (this.#streams.size === 0 || now - this.#lookedAt < INTERVAL_MS) return;
    this.#lookedAt = now;
    for (const [id, times] of this.#streams) {
      if (times.endedAt === undefined) {
        if (native.streamFinished(id)) times.endedAt = now;
        else if (now - times.stoppedAt > GIVE_UP_MS) this.#streams.delete(id);
      } else if (now - times.endedAt > SETTLE_MS) {
        this.#streams.delete(id);
        if (isKnown(native, id)) poke(native, id);
      }
    }
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

function poke(native: NativeConnection, id: number): void {
  try {
    native.streamSend(id, nothing, true);
  } catch {
    // The peer has stopped it, which has made quiche send another RESET_STREAM already.
  }
}
