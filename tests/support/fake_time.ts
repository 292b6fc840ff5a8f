// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

interface Timer {
  readonly at: number;
  run(): void;
}

/** What is set for longer is over at once. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** In place of `performance.now()` and of the timers, until it is disposed of: time passes when a test says so. */
export class FakeTime implements Disposable {
  /** Timers that were started so far. */
  started = 0;
  readonly #real = {
    setTimeout: globalThis.setTimeout,
    clearTimeout: globalThis.clearTimeout,
    setInterval: globalThis.setInterval,
    clearInterval: globalThis.clearInterval,
    now: performance.now,
  };
  readonly #timers = new Map<number, Timer>();
  #now = 1_000;

  constructor() {
    const set = (callback: () => void, ms = 0): number => {
      if (ms > MAX_TIMER_MS) throw new RangeError(`a timer of ${ms} ms would be over at once`);
      const id = ++this.started;
      this.#timers.set(id, { at: this.#now + Math.max(0, ms), run: callback });
      return id;
    };
    const repeat = (callback: () => void, ms: number): number => {
      const id = set(() => {
        this.#timers.set(id, { at: this.#now + ms, run });
        callback();
      }, ms);
      const { run } = this.#timers.get(id)!;
      return id;
    };
    const clear = (id: number) => this.#timers.delete(id);
    Object.assign(globalThis, {
      setTimeout: set,
      clearTimeout: clear,
      setInterval: repeat,
      clearInterval: clear,
    });
    performance.now = () => this.#now;
  }

  get now(): number {
    return this.#now;
  }

  /** Timers under way. */
  get pending(): number {
    return this.#timers.size;
  }

  /** Lets everything happen that needs no time. */
  async settle(): Promise<void> {
    await new Promise<void>((resolve) => this.#real.setTimeout.call(globalThis, resolve, 0));
  }

  /** Lets time pass, with the timers in their order, the older one first. */
  async pass(ms: number): Promise<void> {
    const until = this.#now + ms;
    await this.settle();
    for (let next; (next = this.#nextBefore(until)) !== undefined;) {
      const [id, { at, run }] = next;
      this.#timers.delete(id);
      this.#now = at;
      run();
      await this.settle();
    }
    this.#now = until;
  }

  #nextBefore(until: number): [number, Timer] | undefined {
    let next: [number, Timer] | undefined;
    for (const entry of this.#timers) {
      if (entry[1].at <= until && (!next || entry[1].at < next[1].at)) next = entry;
    }
    return next;
  }

  [Symbol.dispose](): void {
    const { now, ...timers } = this.#real;
    Object.assign(globalThis, timers);
    performance.now = now;
  }
}
