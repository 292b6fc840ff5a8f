// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What Prometheus' own tool says of the metrics and of the rules for alerts. */
import { assert, assertEquals } from "@std/assert";
import { fileURLToPath } from "node:url";
import { fakeCertificate, fakePeer } from "../support/peers.ts";
import { Scrapes } from "../support/samples.ts";
import { checkMetrics, checkRules, testRules } from "./support/promtool.ts";

const folder = new URL("../../deploy/prometheus/", import.meta.url);
const pathOf = (name: string) => fileURLToPath(new URL(name, folder));

Deno.test("alerts.yaml is taken by promtool", async () => {
  assertEquals(await checkRules(pathOf("alerts.yaml")), "");
});

Deno.test("alerts.yaml alerts as alerts_test.yaml says", async () => {
  assertEquals(await testRules(pathOf("alerts_test.yaml")), "");
});

for (const program of ["proxy-server", "proxy-agent", "proxy-passthrough"] as const) {
  Deno.test(`promtool has nothing to say about the metrics of ${program}`, async () => {
    const gauges = new Scrapes(program);
    const { monitor } = gauges;
    monitor.readFrom({
      capacity: () => ({ connections: 1, agents: 2, pending_opens: 3 }),
      certificates: () => [fakeCertificate(new Date())],
    });
    monitor.peers.add(fakePeer("a", { sentBytes: 1 }));
    const tunnel = monitor.begin();
    tunnel.connected();
    tunnel.end({ by: "client", reason: "end" });
    assertEquals(await checkMetrics(await gauges.metrics.text()), "");
  });
}

Deno.test("promtool has something to say about metrics that are not as they should be", async () => {
  const text = "# TYPE a_count gauge\na_count 1\n";
  assert((await checkMetrics(text)).includes("a_count"));
});
