// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

interface Waiter<S> {
  resolve(stream: S): void;
  reject(error: Error): void;
}

/**
 * The streams of one type that the peer opens (RFC 9000 §2.1), from their first packet to their
 * acceptance.
 *
 * How many there can be is bounded by the credit that the peer has.
 */
export class IncomingStreams<S> {
  readonly #type: number;
  readonly #queue: S[] = [];
  readonly #waiters: Waiter<S>[] = [];
  /** Ids below the next that later streams have overtaken. */
  readonly #skippedIds = new Set<number>();
  #nextId: number;

  /** @param type the two low bits of the ids */
  constructor(type: number) {
    this.#type = type;
    this.#nextId = type;
  }

  /** The id of the stream that is to come next. */
  get nextId(): number {
    return this.#nextId;
  }

  /** Whether the id is one of a stream of this type that was not seen before; it is from now on. */
  isNew(id: number): boolean {
    if ((id & 0b11) !== this.#type) return false;
    if (id < this.#nextId) return this.#skippedIds.delete(id);
    for (; this.#nextId < id; this.#nextId += 4) this.#skippedIds.add(this.#nextId);
    this.#nextId += 4;
    return true;
  }

  /** Hands a new stream to who waits for one, or keeps it. */
  add(stream: S): void {
    const waiter = this.#waiters.shift();
    if (waiter) waiter.resolve(stream);
    else this.#queue.push(stream);
  }

  /** The stream that has been here for longest, or the next to come. */
  take(): Promise<S> {
    const stream = this.#queue.shift();
    if (stream) return Promise.resolve(stream);
    return new Promise((resolve, reject) => this.#waiters.push({ resolve, reject }));
  }

  /** Nothing will come any more. Returns what was not taken, which is of no use. */
  end(error: Error): S[] {
    for (const waiter of this.#waiters.splice(0)) waiter.reject(error);
    this.#skippedIds.clear();
    return this.#queue.splice(0);
  }
}
