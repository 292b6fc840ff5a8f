// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { cpuUsage } from "node:process";
import { Counter, Gauge, type Registry } from "prom-client";
import { version } from "../version.ts";
import { MetricSet } from "./metric_set.ts";

/**
 * Adds metrics of the process and its runtime, named as in Prometheus' client libraries.
 *
 * @param prefix of metrics that are specific to this project
 * @param startedAt when the program started, in ms since 1970
 */
export function addProcessMetrics(registry: Registry, prefix: string, startedAt: number): void {
  const registers = [registry];
  const metrics = new MetricSet(registry);
  new Counter({
    name: "process_cpu_seconds_total",
    help: "User and system CPU time.",
    registers,
    collect() {
      this.reset();
      const { user, system } = cpuUsage();
      this.inc((user + system) / 1e6);
    },
  });
  metrics.gauge(
    "process_start_time_seconds",
    "Start time of the process, as a Unix timestamp.",
    () => startedAt / 1_000,
  );
  const memory = (name: string, help: string, of: keyof Deno.MemoryUsage) =>
    metrics.gauge(name, help, () => Deno.memoryUsage()[of]);
  memory("process_resident_memory_bytes", "Resident memory.", "rss");
  memory("deno_heap_used_bytes", "Memory used by JavaScript objects.", "heapUsed");
  memory("deno_heap_size_bytes", "Size of the JavaScript heap.", "heapTotal");
  memory(
    "deno_external_memory_bytes",
    "Memory of buffers outside the JavaScript heap.",
    "external",
  );
  new Gauge({
    name: "deno_event_loop_lag_seconds",
    help: "Delay until a callback that is due immediately runs.",
    registers,
    async collect() {
      const asked = performance.now();
      await new Promise((resolve) => setTimeout(resolve, 0));
      this.set((performance.now() - asked) / 1_000);
    },
  });
  new Gauge({
    name: `${prefix}build_info`,
    help: "Always 1; versions of the program and of Deno, and the target platform.",
    labelNames: ["version", "deno", "target"],
    registers,
  }).set({ version, deno: Deno.version.deno, target: Deno.build.target }, 1);
}
