// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Status, StatusCheck, StatusHistory, StatusPeer } from "../status.ts";
import { chart } from "./chart.ts";
import { type Element, element } from "./element.ts";
import {
  formatDuration,
  formatLatency,
  formatNumber,
  formatRate,
  formatTime,
  shorten,
  visible,
} from "./format.ts";
import {
  certificateTable,
  groupTable,
  nameOf,
  peerTable,
  peerWord,
  tunnelTable,
} from "./tables.ts";

/** All of the page that changes with the status. */
export function view(status: Status): Element[] {
  return [
    head(status),
    element(
      "main",
      { "data-key": "main" },
      figures(status),
      charts(status.history),
      groupTable(status),
      peerTable(status),
      tunnelTable(status),
      certificateTable(status),
    ),
  ];
}

/** The document's title. A problem comes first, so that a narrow tab shows it. */
export function titleOf({ program, name, ready }: Status): string {
  return `${ready ? "" : "✗ not ready: "}${program}${
    name === undefined ? "" : ` ${visible(name)}`
  }`;
}

export function head({ program, name, version, at, startedAt, ready, checks }: Status): Element {
  const uptime = formatDuration(Date.parse(at) - Date.parse(startedAt));
  return element(
    "header",
    { "data-key": "head" },
    element(
      "div",
      { class: "heading" },
      element("h1", {}, program, name === undefined ? undefined : [" ", nameOf(name)]),
      element(
        "p",
        { class: `badge ${ready ? "good" : "bad"}`, role: "status" },
        ready ? "✓ Ready" : "✗ Not ready",
      ),
    ),
    element(
      "p",
      { class: "muted" },
      `Version ${visible(version)} · up ${uptime}, since `,
      element("time", { datetime: startedAt }, formatTime(startedAt)),
      " · as of ",
      element("time", { datetime: at }, formatTime(at)),
    ),
    checks.length === 0 ? undefined : checkList(checks),
  );
}

function checkList(checks: readonly StatusCheck[]): Element {
  return element(
    "ul",
    { class: "checks", "aria-label": "Checks" },
    checks.map(({ name, ok, problem }) =>
      element(
        "li",
        { class: ok ? "good" : "bad" },
        `${ok ? "✓" : "✗"} `,
        element("span", {}, nameOf(name)),
        ok ? undefined : [": ", element("bdi", {}, shorten(visible(problem ?? "failed"), 300))],
      )
    ),
  );
}

export function figures({ program, peers, tunnels, history }: Status): Element {
  const latency = latest(history);
  return element(
    "section",
    { "data-key": "figures", "aria-label": "Key figures" },
    element(
      "dl",
      { class: "figures" },
      figure(`${peerWord(program)}s connected`, formatNumber(peers.length), peerNote(peers)),
      figure("Tunnels open", formatNumber(tunnels.open)),
      figure("From clients", formatRate(history.sentBytesPerSecond.at(-1) ?? 0), "now"),
      figure("From targets", formatRate(history.receivedBytesPerSecond.at(-1) ?? 0), "now"),
      figure("Connect latency, p50", latency.p50, latency.note),
      figure("Connect latency, p99", latency.p99, latency.note),
    ),
  );
}

export function figure(name: string, value: string, note = ""): Element {
  return element(
    "div",
    {},
    element("dt", {}, name),
    element("dd", {}, element("b", {}, value), element("span", { class: "muted" }, note)),
  );
}

function peerNote(peers: readonly StatusPeer[]): string {
  return (["draining", "silent"] as const)
    .map((state) => [state, peers.filter((peer) => peer.state === state).length] as const)
    .filter(([, count]) => count > 0)
    .map(([state, count]) => `${formatNumber(count)} ${state}`)
    .join(", ");
}

/** The connect latency of the last interval with a value: few programs have one in each. */
export function latest({ connectP50Ms, connectP99Ms, intervalMs }: StatusHistory) {
  const index = connectP50Ms.findLastIndex((value) => value !== null);
  const write = (value: number | null | undefined) =>
    value === null || value === undefined ? "–" : formatLatency(value);
  const agoMs = (connectP50Ms.length - 1 - index) * intervalMs;
  return {
    p50: write(connectP50Ms[index]),
    p99: write(connectP99Ms[index]),
    note: index < 0 ? "no tunnel yet" : agoMs === 0 ? "now" : `${formatDuration(agoMs)} ago`,
  };
}

function charts(history: StatusHistory): Element {
  const { intervalMs } = history;
  return element(
    "section",
    { "data-key": "charts", "aria-labelledby": "charts" },
    element("h2", { id: "charts" }, "Last minutes"),
    element(
      "div",
      { class: "charts" },
      chart({
        title: "Throughput",
        series: [
          { name: "from clients", values: history.sentBytesPerSecond },
          { name: "from targets", values: history.receivedBytesPerSecond },
        ],
        intervalMs,
        format: formatRate,
        atLeast: 1_000,
        empty: "No data yet.",
      }),
      chart({
        title: "Connect latency",
        series: [
          { name: "median (p50)", values: history.connectP50Ms },
          { name: "p99", values: history.connectP99Ms },
        ],
        intervalMs,
        format: formatLatency,
        atLeast: 1,
        empty: "No tunnel was connected in this period.",
      }),
      chart({
        title: `Tunnels started per ${formatDuration(intervalMs)}`,
        series: [
          { name: "connected", values: history.connected },
          { name: "failed", values: history.failed },
        ],
        intervalMs,
        format: formatNumber,
        atLeast: 4,
        empty: "No data yet.",
      }),
      chart({
        title: "Tunnels open",
        series: [{ name: "open", values: history.open }],
        intervalMs,
        format: formatNumber,
        atLeast: 4,
        empty: "No data yet.",
      }),
    ),
  );
}
