// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals } from "@std/assert";
import {
  BASE_DATAGRAM_BYTES,
  MAX_DATAGRAM_BYTES,
  MIN_DATAGRAM_BYTES,
  PathMtu,
} from "../../lib/quic/path/path_mtu.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name: `PathMtu ${name}`, permissions: "none", fn });
}

const counts = (sentPackets: number, lostPackets: number, rttMs = 10) => ({
  stats: () => ({ sentPackets, lostPackets, rttMs }),
});

/** Of a connection whose peer takes so much, and whether it reports what it receives. */
function searching(max: number, { reports }: { reports: boolean }): PathMtu {
  const path = new PathMtu(MAX_DATAGRAM_BYTES);
  path.search(max);
  if (reports) path.allowProbes();
  return path;
}

/** Counts how often large datagrams were found to be lost. */
function blackHoles(path: PathMtu): { count: number } {
  const found = { count: 0 };
  path.onBlackHole = () => found.count++;
  return found;
}

/** Sends full datagrams over a path that carries so much, for a time; returns the sizes of the probes. */
function search(path: PathMtu, carries: number, from = 0, seconds = 60): number[] {
  const probes: number[] = [];
  for (let now = from; now < from + seconds * 1_000; now += 100) {
    const bytes = path.probe(now);
    if (bytes === undefined) continue;
    path.sent(bytes, now);
    probes.push(bytes);
    if (bytes <= carries) path.confirmed(bytes);
  }
  return probes;
}

/** Sends so many datagrams that are large, and hears nothing of the peer. */
function sendUnheard(path: PathMtu, count: number): void {
  for (let i = 0; i < count; i++) path.sent(path.datagramBytes, 0);
}

test("begins with what nearly every path carries", () => {
  const sizeFor = (max: number) => searching(max, { reports: true }).datagramBytes;
  assertEquals([sizeFor(MAX_DATAGRAM_BYTES), sizeFor(1_252)], [BASE_DATAGRAM_BYTES, 1_252]);
});

test("keeps to the size that it is given, unless it is to search", () => {
  const path = new PathMtu(1_400);
  path.confirmed(9_000);
  sendUnheard(path, 10);
  for (const now of [0, 1_000]) path.look(now, 2_000, counts(now, now));
  assertEquals([path.datagramBytes, path.probe(0)], [1_400, undefined]);
});

test("calls onLargerReceived when a larger datagram than before has come", () => {
  const path = new PathMtu(1_400);
  const sizes: number[] = [];
  path.onLargerReceived = () => sizes.push(path.largestReceived);
  assertEquals(path.largestReceived, MIN_DATAGRAM_BYTES);
  path.received(1_300);
  assertEquals(sizes, [1_300]);
});

test("sends no probe to a peer that reports nothing", () => {
  const path = searching(MAX_DATAGRAM_BYTES, { reports: false });
  assertEquals(search(path, MAX_DATAGRAM_BYTES), []);
  path.allowProbes();
  assertEquals(search(path, MAX_DATAGRAM_BYTES), [MAX_DATAGRAM_BYTES]);
  assertEquals(path.datagramBytes, MAX_DATAGRAM_BYTES);
});

test("finds the largest of the usual sizes that gets through, with few probes", () => {
  for (
    const [max, carries, found] of [
      [16_376, 16_376, 16_376],
      [16_376, 9_000, 8_972],
      [8_972, 1_472, 1_472],
      [1_472, 1_472, 1_472],
      [1_472, 1_460, 1_452],
      [1_452, 1_452, 1_452],
      [1_472, 1_420, 1_412],
      [1_472, 1_360, 1_350],
    ] as const
  ) {
    const path = searching(max, { reports: true });
    const probes = search(path, carries);
    assertEquals(path.datagramBytes, found, `${carries} of ${max}`);
    assert(probes.length <= 18, `${probes}`);
  }
});

test("sends one probe at a time, and two of a size before that is too large", () => {
  const path = searching(1_472, { reports: true });
  assertEquals(path.probe(0), 1_472);
  path.sent(1_472, 0);
  assertEquals([path.probe(0), path.probe(999), path.probe(1_000)], [undefined, undefined, 1_472]);
  path.sent(1_472, 1_000);
  assertEquals([path.probe(1_999), path.probe(2_000)], [undefined, 1_452]);
});

test("takes an answer to more than it has asked for, up to its maximum, and none to less", () => {
  const path = searching(8_972, { reports: false });
  path.confirmed(1_300);
  assertEquals(path.datagramBytes, BASE_DATAGRAM_BYTES);
  path.confirmed(65_000);
  assertEquals(path.datagramBytes, 8_972);
});

test("tries larger sizes again after ten minutes", () => {
  const path = searching(8_972, { reports: true });
  search(path, 1_472);
  assertEquals(path.datagramBytes, 1_472);
  assertEquals(search(path, 8_972, 60_000, 500), []);
  search(path, 8_972, 600_000, 120);
  assertEquals(path.datagramBytes, 8_972);
});

test("goes back to a safe size, step by step, when most of what is sent is lost", () => {
  const path = searching(8_972, { reports: true });
  const found = blackHoles(path);
  path.confirmed(8_972);
  for (
    const [now, sent, lost, bytes, why] of [
      [0, 1_000, 400, 8_972, "there is nothing to compare with"],
      [500, 2_000, 450, 8_972, "an ordinary loss"],
      [1_000, 2_004, 454, 8_972, "few"],
      [1_499, 2_100, 554, 8_972, "too early for a look"],
      [1_500, 2_014, 460, BASE_DATAGRAM_BYTES, "most"],
      [2_000, 2_020, 465, BASE_DATAGRAM_BYTES, "there is nothing to compare with"],
      [2_500, 2_040, 485, MIN_DATAGRAM_BYTES, "most"],
      [3_000, 2_040, 485, MIN_DATAGRAM_BYTES, "nothing is smaller"],
      [3_500, 2_060, 505, MIN_DATAGRAM_BYTES, "nothing is smaller"],
    ] as const
  ) {
    path.look(now, 0, counts(sent, lost));
    assertEquals(path.datagramBytes, bytes, `${why} (at ${now})`);
  }
  assertEquals(found.count, 2);
});

test("goes back when the peer falls silent at large datagrams, and knows why when it answers at once", () => {
  const silent = (large: number, silentForMs: number, rttMs: number) => {
    const path = searching(1_472, { reports: true });
    const found = blackHoles(path);
    sendUnheard(path, large);
    path.look(0, silentForMs, counts(0, 0, rttMs));
    return { path, found };
  };
  for (
    const [large, silentForMs, rttMs] of [[2, 600, 50], [3, 599, 50], [3, 600, 300]] as const
  ) {
    const { datagramBytes } = silent(large, silentForMs, rttMs).path;
    assertEquals(datagramBytes, BASE_DATAGRAM_BYTES, `${large}, ${silentForMs} ms, ${rttMs} ms`);
  }
  const { path, found } = silent(3, 600, 50);
  assertEquals([path.datagramBytes, found.count], [MIN_DATAGRAM_BYTES, 0]);
  path.heard(349);
  assertEquals(found.count, 1, "within three round trips and some time");
  path.heard(349);
  assertEquals(found.count, 1);

  const outage = silent(3, 600, 50);
  outage.path.heard(350);
  assertEquals(outage.found.count, 0);
});

test("counts the large datagrams since the peer was heard of", () => {
  const path = searching(1_472, { reports: true });
  sendUnheard(path, 2);
  path.heard(0);
  sendUnheard(path, 2);
  path.look(0, 600, counts(0, 0));
  assertEquals(path.datagramBytes, BASE_DATAGRAM_BYTES);
});

test("tries again soon after an outage, and ever later after black holes", () => {
  const path = searching(1_472, { reports: true });
  path.confirmed(1_472);
  let now = 0;
  for (const pauseMs of [5_000, 10_000, 20_000]) {
    sendUnheard(path, 3);
    path.look(now, 1_000, counts(0, 0));
    assertEquals(path.probe(now + pauseMs - 1), undefined);
    now += pauseMs;
    assertEquals(path.probe(now), 1_472);
    path.confirmed(1_472);
  }
});

test("goes back to the usual size by itself where the peer reports nothing", () => {
  const path = searching(1_472, { reports: false });
  sendUnheard(path, 3);
  path.look(0, 1_000, counts(0, 0));
  path.probe(4_999);
  assertEquals(path.datagramBytes, MIN_DATAGRAM_BYTES);
  path.probe(5_000);
  assertEquals(path.datagramBytes, BASE_DATAGRAM_BYTES);
});
