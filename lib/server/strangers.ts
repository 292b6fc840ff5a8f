// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { maxTunnels } from "../net/descriptors.ts";
import { formatIp, type SocketAddress } from "../net/ip_address.ts";
import { addressKey, HalfOpen } from "../quic/handshake/half_open.ts";
import { HandshakeError } from "../tls/tls_carrier.ts";
import type { Duplex } from "../tunnel/duplex.ts";

export interface StrangersOptions {
  /** How long a handshake may take: until the peer is known. */
  readonly timeoutMs: number;
  /**
   * Connections at a time, of one address half as many. For a further one, the oldest gives way if
   * it has taken longer than a second; else the further one is closed.
   */
  readonly maxConnections: number;
}

/** Time that no connection is denied for the sake of others. */
const GRACE_MS = 1_000;

/** Share of the file descriptors that the strangers of one listener may take. */
const DESCRIPTOR_SHARE = 1 / 8;

/** What a peer may send before it is known: a long certificate chain fits many times. */
const MAX_BYTES_EACH = 64 << 10;
/** The same of all together. */
const MAX_BYTES = 16 << 20;

/** A connection exceeds a limit. */
export class LimitError extends Error {
  override readonly name: string = "LimitError";
  /** Whether there were too many, and not too much of one. */
  readonly isByNumber: boolean;
  constructor(message: string, isByNumber = false) {
    super(message);
    this.isByNumber = isByNumber;
  }
}

/** A peer has not become known in time. */
export class LateError extends LimitError {
  override readonly name = "LateError";
}

/** A connection of a stranger, for who serves it. */
export interface Stranger {
  /** Bytes of it so far. */
  readonly received: number;
  /**
   * Counts bytes that have come.
   *
   * @throws {LimitError} when they are too many
   */
  receive(bytes: number): void;
  /**
   * It is of this address, as a load balancer says.
   *
   * @throws {LimitError} when there are too many of it
   */
  isOf(address: SocketAddress): void;
}

interface Entry {
  /** Its address, for the limits. */
  readonly key: string;
  /** When it began, by `performance.now()`. */
  readonly since: number;
  readonly giveUp: (problem: LimitError) => void;
}

/** Whether a peer has just left, in order or by a reset, as health checks do. */
export function hasLeft(error: unknown): boolean {
  const isEnd = error instanceof HandshakeError && error.kind === "closed";
  return isEnd || error instanceof Deno.errors.ConnectionReset;
}

/** As many as asked for, or what there are file descriptors for. */
export function withinDescriptors(connections: number): number {
  return Math.min(connections, Math.max(2, Math.floor(maxTunnels() * DESCRIPTOR_SHARE)));
}

/**
 * Connections whose peers have not shown yet who they are: bounds what they cost in number, bytes
 * and time, so that they do not keep others out.
 */
export class Strangers {
  readonly #options: StrangersOptions;
  readonly #limits: HalfOpen<Duplex>;
  /** The oldest first. */
  readonly #open = new Map<Duplex, Entry>();

  constructor(options: StrangersOptions) {
    this.#options = options;
    const { maxConnections } = options;
    this.#limits = new HalfOpen({
      maxHandshakes: maxConnections,
      maxPerAddress: Math.ceil(maxConnections / 2),
      maxBytes: MAX_BYTES,
    });
  }

  get size(): number {
    return this.#open.size;
  }

  /**
   * Serves a connection until its peer is known. The connection is aborted when that fails.
   *
   * @param host its address, as {@linkcode hostOf} tells
   * @param serve does what it takes to know the peer
   * @returns what `serve` does; undefined as well if the peer leaves without a byte
   * @throws {LimitError} when there are too many, or it sends too much or takes too long
   * @throws what `serve` throws
   */
  async admit<T>(
    carrier: Duplex,
    host: string,
    serve: (stranger: Stranger) => Promise<T>,
  ): Promise<T | undefined> {
    const { timeoutMs } = this.#options;
    let problem: LimitError | undefined;
    const giveUp = (why: LimitError) => {
      problem = why;
      carrier.abort();
    };
    const late = () => new LateError(`handshake not complete within ${timeoutMs} ms`);
    const timer = setTimeout(() => giveUp(late()), timeoutMs);
    const limits = this.#limits;
    let received = 0;
    try {
      this.#begin(carrier, host, performance.now(), giveUp);
      return await serve({
        get received() {
          return received;
        },
        receive(bytes) {
          received += bytes;
          if (received > MAX_BYTES_EACH || !limits.receive(carrier, bytes)) {
            throw new LimitError(`more than ${received - bytes} bytes in a handshake`);
          }
        },
        isOf: ({ ip }) => {
          const since = this.#open.get(carrier)?.since ?? performance.now();
          this.#end(carrier);
          this.#begin(carrier, formatIp(ip), since, giveUp);
        },
      });
    } catch (error) {
      carrier.abort();
      if (!problem && received === 0 && hasLeft(error)) return undefined;
      throw problem ?? error;
    } finally {
      clearTimeout(timer);
      this.#end(carrier);
    }
  }

  /** Aborts all connections. */
  abort(): void {
    for (const carrier of this.#open.keys()) carrier.abort();
  }

  #begin(carrier: Duplex, host: string, since: number, giveUp: Entry["giveUp"]): void {
    const verdict = this.#limits.judge(host, 0);
    if (verdict !== "yes") this.#makeRoom(verdict === "too many" ? undefined : host);
    this.#limits.add(carrier, host);
    this.#open.set(carrier, { key: addressKey(host), since, giveUp });
  }

  /**
   * Gives up the oldest connection.
   *
   * @param host of whose connections; if undefined, of all
   * @throws {LimitError} when its peer may still become known
   */
  #makeRoom(host: string | undefined): void {
    const wanted = host === undefined ? undefined : addressKey(host);
    const oldest = this.#open.entries()
      .find(([, { key }]) => wanted === undefined || key === wanted);
    const problem = `too many handshakes${host === undefined ? "" : " of the address"}`;
    const age = oldest ? performance.now() - oldest[1].since : 0;
    if (!oldest || age < GRACE_MS) throw new LimitError(problem, true);
    oldest[1].giveUp(new LateError(`${problem}, of which this was the oldest`));
    this.#end(oldest[0]);
  }

  #end(carrier: Duplex): void {
    this.#limits.complete(carrier);
    this.#open.delete(carrier);
  }
}
