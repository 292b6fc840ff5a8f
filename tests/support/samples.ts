// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Metrics in the text format of Prometheus, read as far as the tests need. */
import { Metrics } from "../../lib/observe/metrics.ts";
import { Monitor } from "../../lib/observe/monitor.ts";
import type { ProgramName } from "../../lib/version.ts";

/** One value, with the name and labels that it has. */
export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export function samplesOf(text: string): Sample[] {
  return text.split("\n").filter((line) => line && !line.startsWith("#")).map((line) => {
    const [, name, labels = "", value] = /^(\w+)(?:\{(.*)\})? (\S+)$/.exec(line)!;
    const pairs = labels.matchAll(/(\w+)="((?:\\.|[^"\\])*)"/g);
    return {
      name: name!,
      labels: Object.fromEntries(Array.from(pairs, ([, key, text]) => [key, text])),
      value: Number(value),
    };
  });
}

/** The metrics of a program in this process, from now on. */
export class Scrapes {
  readonly monitor: Monitor;
  readonly metrics: Metrics;
  readonly #prefix: string;

  constructor(program: ProgramName) {
    const monitor = this.monitor = new Monitor(program);
    this.metrics = new Metrics(monitor);
    monitor.observe(this.metrics);
    this.#prefix = `quic_tunnel_${program === "proxy-server" ? "server" : "agent"}_`;
  }

  /** The value now of a metric by its name after the prefix; undefined when there is none with these labels. */
  async value(name: string, labels: Record<string, string> = {}): Promise<number | undefined> {
    const wanted = [`${this.#prefix}${name}`, name];
    return samplesOf(await this.metrics.text()).find((sample) =>
      wanted.includes(sample.name) &&
      Object.entries(labels).every(([key, text]) => sample.labels[key] === text)
    )?.value;
  }

  /** The values now of a metric by one of its labels, those that are 0 left out. */
  async by(label: string, name: string): Promise<Record<string, number>> {
    const samples = samplesOf(await this.metrics.text());
    return Object.fromEntries(
      samples.filter((sample) => sample.name === `${this.#prefix}${name}` && sample.value !== 0)
        .map(({ labels, value }) => [labels[label], value]),
    );
  }
}
