// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { Counter, Gauge, Histogram, type Registry } from "prom-client";

/** The values of a metric now, each with that of its label. */
export type ReadLabelled = () => Iterable<readonly [label: string, value: number]>;

/** Metrics of one registry whose names have the same beginning. */
export class MetricSet {
  readonly #registers: Registry[];
  readonly #prefix: string;

  constructor(registry: Registry, prefix = "") {
    this.#registers = [registry];
    this.#prefix = prefix;
  }

  /** A gauge that is read when it is asked for. */
  gauge(name: string, help: string, read: () => number): void {
    new Gauge({
      ...this.#options(name, help),
      collect() {
        this.set(read());
      },
    });
  }

  /** The same with a label. Series that are no longer read disappear. */
  gauges(name: string, help: string, label: string, read: ReadLabelled): void {
    new Gauge({
      ...this.#options(name, help, [label]),
      collect() {
        this.reset();
        for (const [text, value] of read()) this.set({ [label]: text }, value);
      },
    });
  }

  /** A counter of what is counted elsewhere. */
  total(name: string, help: string, read: () => number): void {
    new Counter({
      ...this.#options(name, help),
      collect() {
        this.reset();
        this.inc(read());
      },
    });
  }

  /** A counter with a label, of what is counted elsewhere. */
  counters(name: string, help: string, label: string, read: ReadLabelled): void {
    new Counter({
      ...this.#options(name, help, [label]),
      collect() {
        this.reset();
        for (const [text, value] of read()) this.inc({ [label]: text }, value);
      },
    });
  }

  /**
   * A counter that callers increment.
   *
   * @param known all values of its labels, if they are few: these start at 0
   */
  counter<Label extends string = never>(
    name: string,
    help: string,
    labelNames: Label[] = [],
    known: readonly Record<Label, string>[] = [],
  ): Counter<Label> {
    const counter = new Counter({ ...this.#options(name, help), labelNames });
    for (const labels of known) counter.inc(labels, 0);
    return counter;
  }

  /** @param buckets their upper ends */
  histogram(name: string, help: string, buckets: number[]): Histogram {
    return new Histogram({ ...this.#options(name, help), buckets });
  }

  #options(name: string, help: string, labelNames: string[] = []) {
    return { name: this.#prefix + name, help, labelNames, registers: this.#registers };
  }
}
