// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** How good the figures ought to be, each in terms of another one of the same run. */
import type { Figures } from "./figures.ts";
import { curvesOf } from "./growth.ts";
import { differenceOf, ratioOf, type Spread, spreadOf } from "./statistics.ts";

interface Bar {
  readonly name: string;
  readonly unit: string;
  /** None for what is there to compare with. */
  readonly bar?: number;
  /** Whether more is better. */
  readonly isLeast: boolean;
  /** What is held against the bar; undefined when it was not measured. */
  readonly spread: (figures: Figures) => Spread | undefined;
}

/** A bar and what was held against it. */
export interface Judged extends Omit<Bar, "spread"> {
  readonly spread: Spread | undefined;
  /** How far the median is from the bar, 0 when it is met. */
  readonly missedBy: number;
}

type Compare = (a: readonly number[], b: readonly number[]) => Spread;

/** Compares two figures. */
const compared = (compare: Compare, a: string, b: string) => (figures: Figures) => {
  const [x, y] = [figures.get(a), figures.get(b)];
  return x && y && compare(x.values, y.values);
};

/** CPU time that both programs together take for a GB. */
const bothEnds = (id: string) => (figures: Figures) =>
  figures.get(id)?.cpu.map(({ server, agent }) => server + (agent ?? 0)) ?? [];

/** The same of one program that is both ends and never waits. */
const allOfOneCore = (id: string) => (figures: Figures) =>
  figures.get(id)?.values.map((megabytesPerSecond) => 1000 / megabytesPerSecond) ?? [];

type CpuTimes = ReturnType<typeof bothEnds>;

const cpuRatio = (a: CpuTimes, b: CpuTimes) => (figures: Figures) => {
  const [x, y] = [a(figures), b(figures)];
  return x.length > 0 && y.length > 0 ? ratioOf(x, y) : undefined;
};

const ratio = (name: string, a: string, b: string) => ({
  name,
  unit: "",
  spread: compared(ratioOf, a, b),
});

const above = (name: string, unit: string, a: string, b: string) => ({
  name,
  unit,
  spread: compared(differenceOf, a, b),
});

const own = (name: string, unit: string, id: string) => ({
  name,
  unit,
  spread: (figures: Figures) => {
    const figure = figures.get(id);
    return figure && spreadOf(figure.values);
  },
});

/** The figure of the row that is worst by its median, with the extremes of them all. */
const largest = (row: string) => (figures: Figures) => {
  const spreads = figures.list(row).map(({ values }) => spreadOf(values));
  if (spreads.length === 0) return undefined;
  return {
    median: Math.max(...spreads.map(({ median }) => median)),
    min: Math.min(...spreads.map(({ min }) => min)),
    max: Math.max(...spreads.map(({ max }) => max)),
  };
};

const atLeast = (bar: number) => ({ bar, isLeast: true });
const atMost = (bar: number) => ({ bar, isLeast: false });
const toCompare = { isLeast: false };

const ends = ["server", "agent"] as const;

export const bars: readonly Bar[] = [
  {
    ...ratio("1 tunnel at 1500 / in memory", "bulk/1500/down/1", "bulk/memory/1350"),
    ...atLeast(1.6),
  },
  {
    ...ratio("1 tunnel at 1500 / portable path", "bulk/1500/down/1", "bulk/portable/down/1"),
    ...atLeast(1.8),
  },
  {
    name: "its CPU a byte / portable path's",
    unit: "",
    spread: cpuRatio(bothEnds("bulk/1500/down/1"), bothEnds("bulk/portable/down/1")),
    ...atMost(0.5),
  },
  {
    name: "in memory: CPU a byte / portable path's",
    unit: "",
    spread: cpuRatio(allOfOneCore("bulk/memory/1350"), bothEnds("bulk/portable/down/1")),
    ...toCompare,
  },
  {
    ...ratio("loopback's size / portable path", "bulk/auto/down/1", "bulk/portable/down/1"),
    ...atLeast(4),
  },
  {
    ...ratio("8 tunnels / 1, at 1500", "bulk/1500/down/8", "bulk/1500/down/1"),
    ...atLeast(0.95),
  },
  {
    ...ratio("8 tunnels / 1, loopback's size", "bulk/auto/down/8", "bulk/auto/down/1"),
    ...atLeast(0.95),
  },
  {
    name: "tunnels of one agent: most / least",
    unit: "",
    spread: largest("fairness/tunnels"),
    ...atMost(1.5),
  },
  {
    name: "tunnels of two agents: most / least",
    unit: "",
    spread: largest("fairness/agents"),
    ...atMost(1.5),
  },
  {
    ...ratio("20 MB at 50 ms / plain TCP", "lossy/tunnel/0", "lossy/tcp/0"),
    ...atMost(1.3),
  },
  {
    ...ratio("with 1 % loss / plain TCP without", "lossy/tunnel/1", "lossy/tcp/0"),
    ...atMost(2.5),
  },
  {
    ...ratio("GET p50 / direct", "gets/tunnel/p50", "gets/direct/p50"),
    ...atMost(4),
  },
  {
    ...ratio("TCP relays: GET p50 / direct", "gets/relays/p50", "gets/direct/p50"),
    ...toCompare,
  },
  {
    ...ratio("GET p50 / TCP relays'", "gets/tunnel/p50", "gets/relays/p50"),
    ...atMost(1.5),
  },
  {
    ...ratio("GET p50 with 1 route / without", "groups/routes/1", "groups/alone"),
    ...atMost(1.1),
  },
  {
    ...ratio("with 1000 routes / without", "groups/routes/1000", "groups/alone"),
    ...atMost(1.1),
  },
  {
    ...ratio("beside a group without agents / alone", "groups/beside", "groups/alone"),
    ...atMost(1.1),
  },
  {
    ...ratio("GET p99 / its p50", "gets/tunnel/p99", "gets/tunnel/p50"),
    ...atMost(3),
  },
  {
    ...ratio("GET p99 under load / p50 without", "gets/loaded/tunnel/p99", "gets/tunnel/p50"),
    ...atMost(5),
  },
  {
    ...ratio("TCP relays: p99 under load / p50", "gets/loaded/relays/p99", "gets/relays/p50"),
    ...toCompare,
  },
  {
    ...ratio(
      "200 at once / TCP relays'",
      "clients/tunnel/at-once/200",
      "clients/relays/at-once/200",
    ),
    ...atMost(1.2),
  },
  {
    ...ratio(
      "1 000 at once / direct",
      "clients/tunnel/at-once/1000",
      "clients/direct/at-once/1000",
    ),
    ...atMost(5),
  },
  {
    ...ratio(
      "TCP relays: 1 000 at once",
      "clients/relays/at-once/1000",
      "clients/direct/at-once/1000",
    ),
    ...toCompare,
  },
  ...([["server", "relay 1"], ["agent", "relay 2"]] as const).flatMap(([end, relay]) => [
    {
      ...own(`datagrams of the ${end} for a tunnel`, "", `counts/datagrams sent/${end}`),
      ...atMost(3.3),
    },
    ...["getsockname", "getpeername"].map((call) => ({
      ...own(`${call} of the ${end} for a tunnel`, "", `counts/${call}/${end}`),
      ...atMost(1),
    })),
    {
      ...ratio(
        `CPU of the ${end} for a tunnel / relay's`,
        `counts/CPU time/${end}`,
        `counts/CPU time/${relay}`,
      ),
      ...atMost(1.8),
    },
  ]),
  {
    name: "costs of a connection or of bytes that grow",
    unit: "",
    spread: (figures) => {
      const curves = curvesOf(figures.list("growth"));
      if (curves.length === 0) return undefined;
      return spreadOf([curves.filter(({ grows }) => grows).length]);
    },
    ...atMost(0),
  },
  ...ends.map((end) => ({
    ...above(
      `${end} at rest above an empty program`,
      " MiB",
      `memory/rest/${end}`,
      "memory/empty",
    ),
    ...atMost(30),
  })),
  ...ends.map((end) => ({
    ...above(
      `${end} after load above that`,
      " MiB",
      `memory/loaded/${end}`,
      `memory/rest/${end}`,
    ),
    ...atMost(60),
  })),
  ...ends.map((end) => ({
    ...own(`${end} after load`, " MiB", `memory/loaded/${end}`),
    ...atMost(90),
  })),
  ...ends.map((end) => ({
    ...own(`an idle tunnel at the ${end}`, " KiB", `memory/each/${end}`),
    ...atMost(20),
  })),
  ...ends.map((end) => ({
    ...own(`idle CPU of the ${end}`, " %", `idle/${end}`),
    ...atMost(0.2),
  })),
  ...["down", "up"].flatMap((direction) => [
    {
      ...own(`1 ${direction} over TCP`, " MB/s", `carrier/tcp/${direction}/1`),
      ...atLeast(150),
    },
    {
      ...ratio(
        `1 ${direction} over TCP / TLS relays'`,
        `carrier/tcp/${direction}/1`,
        `carrier/relays/${direction}/1`,
      ),
      ...toCompare,
    },
  ]),
  {
    ...above("GET p50 over TCP above UDP's", " ms", "carrier/tcp/p50", "carrier/udp/p50"),
    ...atMost(1),
  },
  {
    ...ratio("GET p50 over TCP / TLS relays'", "carrier/tcp/p50", "carrier/relays/p50"),
    ...toCompare,
  },
];

/** Holds what was measured against the bars. */
export function judge(figures: Figures, against: readonly Bar[] = bars): Judged[] {
  return against.map(({ spread: of, ...bar }) => {
    const spread = of(figures);
    const distance = spread === undefined || bar.bar === undefined
      ? 0
      : (bar.bar - spread.median) * (bar.isLeast ? 1 : -1);
    return { ...bar, spread, missedBy: Math.max(0, distance) };
  });
}
