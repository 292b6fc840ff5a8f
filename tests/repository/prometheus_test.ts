// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Documentation, alert rules and dashboard know the metrics that the programs expose, all of them and no others. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { parse } from "yaml";
import { noDrops } from "../../lib/quic/endpoint_stats.ts";
import { fakeCertificate, fakePeer } from "../support/peers.ts";
import { read } from "../support/repository.ts";
import { samplesOf, Scrapes } from "../support/samples.ts";

const docs = read("docs/metrics.md");
const operations = read("docs/operations.md");

/** What Prometheus gives every metric. */
const TARGET_LABELS = ["job", "instance"];

interface Metric {
  readonly type: string;
  readonly labels: ReadonlySet<string>;
  /** The values of labels that are there from the start. */
  readonly values: ReadonlyMap<string, ReadonlySet<string>>;
}

/** What a program exposes, by name, once each of its metrics has a value. */
async function exposedBy(program: "proxy-server" | "proxy-agent"): Promise<Map<string, Metric>> {
  const gauges = new Scrapes(program);
  const { monitor } = gauges;
  monitor.readFrom({
    capacity: () => ({ connections: 1, agents: 1, pending_opens: 1 }),
    certificates: () => [fakeCertificate(new Date())],
    datagrams: () => ({ received: 1, dropped: noDrops(), retries: 1, halfOpen: 1 }),
  });
  monitor.peers.add(fakePeer("a"));
  const groups = [{ name: "a", waiting: 0, listeners: [], routes: [] }];
  if (program === "proxy-server") monitor.readFrom({ groups: () => groups });
  monitor.begin().end({ by: "client", reason: "end" });
  const text = await gauges.metrics.text();
  const samples = samplesOf(text);
  const metrics = new Map<string, Metric>();
  for (const [, name, type] of text.matchAll(/^# TYPE (\w+) (\w+)$/gm)) {
    const own = samples.filter((sample) =>
      sample.name.replace(type === "histogram" ? /_(?:bucket|sum|count)$/ : "", "") === name
    );
    const values = new Map<string, Set<string>>();
    for (const [label, value] of own.flatMap(({ labels }) => Object.entries(labels))) {
      if (label === "le") continue;
      values.set(label, (values.get(label) ?? new Set()).add(value));
    }
    metrics.set(name!, { type: type!, labels: new Set(values.keys()), values });
  }
  return metrics;
}

const server = await exposedBy("proxy-server");
const agent = await exposedBy("proxy-agent");
const exposed = new Map([...server, ...agent]);

/** What is wrong with the names, labels and values of an expression of PromQL. */
function problemsOf(expression: string): string[] {
  const problems: string[] = [];
  const known = new Set<string>([...TARGET_LABELS, "le"]);
  // By a regular expression as well as by their names.
  const selector = /\b([a-z_]\w*)(?:\{([^{}]*)\})?|\{([^{}]*)\}/g;
  for (const [whole, name, own, anonymous] of expression.matchAll(selector)) {
    const matchers = own ?? anonymous ?? "";
    const isMetric = name !== undefined && /^(?:quic_tunnel|process|deno)_/.test(name);
    if (!isMetric && !whole.includes("{")) continue;
    const pattern = /__name__=~"([^"]*)"/.exec(matchers)?.[1];
    const metrics = isMetric
      ? [metricOf(name)]
      : [...exposed].filter(([name]) => new RegExp(`^(?:${pattern})$`).test(name))
        .map(([, metric]) => metric);
    if (metrics.length === 0 || metrics.includes(undefined)) problems.push(`unknown: ${whole}`);
    for (const metric of metrics) {
      if (!metric) continue;
      for (const label of metric.labels) known.add(label);
      for (
        const [, label, operator, value] of matchers.matchAll(/(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"/g)
      ) {
        if (label === "__name__" || TARGET_LABELS.includes(label!)) continue;
        const values = metric.values.get(label!);
        if (!values) problems.push(`no label ${label} in ${whole}`);
        if (["by", "reason", "agent", "server"].includes(label!) && isOpen(name ?? "")) continue;
        for (const asked of operator!.includes("~") ? value!.split("|") : [value!]) {
          if (values && !values.has(asked)) problems.push(`no value ${asked} in ${whole}`);
        }
      }
    }
  }
  const clauses = /\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)/g;
  for (const [, list] of expression.matchAll(clauses)) {
    for (const label of list!.split(",").map((text) => text.trim()).filter(Boolean)) {
      if (!known.has(label)) problems.push(`no label ${label}`);
    }
  }
  return problems;
}

/** Whether a metric's values of labels come to be as they happen. */
function isOpen(name: string): boolean {
  return /_tunnels_total$|_quic_|_group_/.test(name);
}

function metricOf(name: string): Metric | undefined {
  return exposed.get(name) ??
    [exposed.get(name.replace(/_(?:bucket|sum|count)$/, ""))].find((metric) =>
      metric?.type === "histogram"
    );
}

/** The names of metrics in a text, those of histograms without their endings. */
function namesIn(text: string): Set<string> {
  return new Set(
    [...exposed.keys()].filter((name) => {
      const end = exposed.get(name)!.type === "histogram" ? "(?:_bucket|_sum|_count)?" : "";
      return new RegExp(`\\b${name}${end}\\b`).test(text);
    }),
  );
}

Deno.test("docs/metrics.md describes every metric with its type and labels, and no others", () => {
  const described = new Map<string, { type: string; labels: string[] }>();
  const rows = docs.matchAll(/^\| `([\w…]+)` +\| (counter|gauge|histogram) +\| ([^|]*)\|/gm);
  for (const [, name, type, labels] of rows) {
    const names = name!.startsWith("…")
      ? ["quic_tunnel_server", "quic_tunnel_agent"].map((end) => name!.replace("…", end))
      : [name!];
    const all = Array.from(labels!.matchAll(/`(\w+)`/g), ([, label]) => label!);
    const isEither = labels!.includes(" or ");
    for (const name of names) {
      assert(!described.has(name), `${name} is described twice`);
      const own = name.includes("_server_") ? "agent" : "server";
      described.set(name, { type: type!, labels: isEither ? all.filter((x) => x === own) : all });
    }
  }
  const sorted = (metrics: ReadonlyMap<string, { type: string; labels: Iterable<string> }>) =>
    Object.fromEntries(
      Array.from(
        metrics,
        ([name, { type, labels }]) => [name, { type, labels: [...labels].sort() }],
      ),
    );
  assertEquals(sorted(described), sorted(exposed));
});

Deno.test("docs/metrics.md names the values that labels have from the start", () => {
  for (const [name, { values }] of exposed) {
    for (const [label, own] of values) {
      if (isOpen(name) || ["version", "deno", "target"].includes(label)) continue;
      for (const value of own) assert(!value || docs.includes(`\`${value}\``), `${label} ${value}`);
    }
  }
});

Deno.test("docs/metrics.md has queries and names of metrics that there are", () => {
  const queries = Array.from(docs.matchAll(/```promql\n([\s\S]*?)```/g), ([, query]) => query!);
  assert(queries.length > 3);
  for (const query of queries) assertEquals(problemsOf(query), [], query);
  for (const text of [docs, operations]) {
    for (
      const [, name] of text.matchAll(/`((?:quic_tunnel_(?:server|agent)|process|deno)_\w+)`/g)
    ) {
      if (name!.endsWith("_")) continue;
      assert(metricOf(name!), `unknown: ${name}`);
    }
  }
});

// Alert rules

interface Rule {
  readonly alert: string;
  readonly expr: string;
  readonly for?: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

const { groups }: { groups: { name: string; rules: Rule[] }[] } = parse(
  read("deploy/prometheus/alerts.yaml"),
);
const rules = groups.flatMap(({ rules }) => rules);

Deno.test("alerts_test.yaml tests that every alert comes, and that it does not come too early", () => {
  interface Expectation {
    readonly alertname: string;
    readonly exp_alerts: readonly unknown[];
  }
  const { tests }: { tests: { alert_rule_test: Expectation[] }[] } = parse(
    read("deploy/prometheus/alerts_test.yaml"),
  );
  const expectations = tests.flatMap(({ alert_rule_test }) => alert_rule_test);
  for (const comes of [true, false]) {
    const tested = expectations.filter(({ exp_alerts }) => exp_alerts.length > 0 === comes)
      .map(({ alertname }) => alertname);
    assertEquals(new Set(tested), new Set(rules.map(({ alert }) => alert)));
  }
});

Deno.test("alerts.yaml watches metrics that there are, by their labels", () => {
  for (const { alert, expr } of rules) assertEquals(problemsOf(expr), [], alert);
});

Deno.test("alerts.yaml says of each alert how bad it is, and what to do", () => {
  const headings = Array.from(operations.matchAll(/^### (.*)$/gm), ([, text]) => text!);
  assertEquals(
    headings.filter((text) => text.startsWith("QuicTunnel")),
    rules.map(({ alert }) => alert),
  );
  for (const { alert, labels, annotations } of rules) {
    assertMatch(alert, /^QuicTunnel[A-Z]/);
    assertEquals(Object.keys(labels), ["severity"], alert);
    assertMatch(labels.severity!, /^(?:critical|warning)$/);
    assertEquals(Object.keys(annotations), ["summary", "description", "runbook"], alert);
    assertEquals(annotations.runbook, `docs/operations.md#${alert.toLowerCase()}`);
    assertMatch(annotations.summary!, /\.$/);
  }
});

Deno.test("alerts.yaml is held to what there is by its test", () => {
  assertEquals(problemsOf("quic_tunnel_server_nope == 0").length, 1);
  assertEquals(problemsOf('quic_tunnel_server_ready{agent="a"}').length, 1);
  assertEquals(problemsOf('quic_tunnel_server_handshakes_total{result=~"ok|bad"}').length, 1);
  assertEquals(problemsOf("sum by (agent) (quic_tunnel_server_ready)").length, 1);
  assertEquals(problemsOf("quic_tunnel_server_ready_count").length, 1);
  assertEquals(problemsOf('{__name__=~"quic_tunnel_(server|agent)_nope"}').length, 1);
  assertEquals(problemsOf("quic_tunnel_agent_dial_duration_seconds_count").length, 0);
});

// Dashboard

interface Panel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly datasource?: { readonly type: string; readonly uid: string };
  readonly gridPos: Readonly<Record<"h" | "w" | "x" | "y", number>>;
  readonly targets?: readonly {
    readonly expr: string;
    readonly legendFormat?: string;
    readonly datasource: { readonly uid: string };
  }[];
}

interface Dashboard {
  readonly title: string;
  readonly uid: string;
  readonly schemaVersion: number;
  readonly templating: { readonly list: readonly { name: string; type: string }[] };
  readonly panels: readonly Panel[];
}

const dashboard: Dashboard = JSON.parse(read("deploy/prometheus/dashboard.json"));
const targets = dashboard.panels.flatMap(({ targets = [] }) => targets);

Deno.test("dashboard.json is a dashboard whose data source is chosen in Grafana", () => {
  const { title, uid, schemaVersion, templating, panels } = dashboard;
  assert(title && uid && schemaVersion > 30);
  assertEquals(templating.list.map(({ name, type }) => `${type} ${name}`), [
    "datasource datasource",
    "query job",
    "query instance",
  ]);
  assertEquals(new Set(panels.map(({ id }) => id)).size, panels.length);
  for (const { type, title, datasource, targets } of panels) {
    assert(title, "a panel without a title");
    if (type === "row") continue;
    assert(targets && targets.length > 0, title);
    assertEquals([datasource!.type, datasource!.uid], ["prometheus", "${datasource}"], title);
    for (const { datasource } of targets) assertEquals(datasource.uid, "${datasource}", title);
  }
});

Deno.test("dashboard.json has panels side by side and below each other", () => {
  const taken = new Set<string>();
  for (const { title, gridPos: { h, w, x, y } } of dashboard.panels) {
    assert(x + w <= 24, title);
    for (let i = x; i < x + w; i++) {
      for (let j = y; j < y + h; j++) {
        assert(!taken.has(`${i} ${j}`), `${title} lies on another panel`);
        taken.add(`${i} ${j}`);
      }
    }
  }
});

Deno.test("dashboard.json shows metrics that there are, by their labels, and all of them", () => {
  for (const { expr, legendFormat = "" } of targets) {
    assertEquals(problemsOf(expr), [], expr);
    const labels = [...namesIn(expr)].flatMap((name) => [...exposed.get(name)!.labels]);
    for (const [, label] of legendFormat.matchAll(/\{\{(\w+)\}\}/g)) {
      assert([...labels, ...TARGET_LABELS].includes(label!), `${legendFormat} of ${expr}`);
    }
    assert(expr.includes('instance=~"$instance"'), expr);
  }
  const shown = namesIn(targets.map(({ expr }) => expr).join("\n"));
  // Those of connections that a server has a panel for, and that tell an agent's operator little.
  const left = [
    "quic_tunnel_agent_quic_congestion_window_bytes",
    "quic_tunnel_agent_quic_stream_credit",
    "quic_tunnel_agent_quic_received_packets_total",
    "quic_tunnel_agent_quic_library",
  ];
  assertEquals([...exposed.keys()].filter((name) => !shown.has(name)).sort(), left.sort());
});
