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

/** Sends probes over a path that carries so much, for a time; returns the sizes. */
function search(mtu: PathMtu, carries: number, from = 0, seconds = 60): number[] {
  const probes: number[] = [];
  for (let now = from; now < from + seconds * 1_000; now += 100) {
    const bytes = mtu.probe(now);
    if (bytes === undefined) continue;
    mtu.probed(now);
    probes.push(bytes);
    if (bytes <= carries) mtu.confirmed(bytes);
  }
  return probes;
}

test("begins with what nearly every path carries", () => {
  assertEquals(new PathMtu(MAX_DATAGRAM_BYTES).bytes, BASE_DATAGRAM_BYTES);
  assertEquals(new PathMtu(1_252).bytes, 1_252);
});

test("sends no probe to a peer that tells nothing", () => {
  const mtu = new PathMtu(MAX_DATAGRAM_BYTES);
  assertEquals(search(mtu, MAX_DATAGRAM_BYTES), []);
  mtu.answering();
  assertEquals(search(mtu, MAX_DATAGRAM_BYTES), [MAX_DATAGRAM_BYTES]);
  assertEquals(mtu.bytes, MAX_DATAGRAM_BYTES);
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
    const mtu = new PathMtu(max);
    mtu.answering();
    const probes = search(mtu, carries);
    assertEquals(mtu.bytes, found, `${carries} of ${max}`);
    assert(probes.length <= 18, `${probes}`);
  }
});

test("sends one probe at a time, and two of a size before that is too large", () => {
  const mtu = new PathMtu(1_472);
  mtu.answering();
  assertEquals(mtu.probe(0), 1_472);
  mtu.probed(0);
  assertEquals([mtu.probe(0), mtu.probe(999), mtu.probe(1_000)], [undefined, undefined, 1_472]);
  mtu.probed(1_000);
  assertEquals([mtu.probe(1_999), mtu.probe(2_000)], [undefined, 1_452]);
});

test("takes an answer to more than it has asked for, up to its maximum, and none to less", () => {
  const mtu = new PathMtu(8_972);
  mtu.confirmed(1_300);
  assertEquals(mtu.bytes, BASE_DATAGRAM_BYTES);
  mtu.confirmed(65_000);
  assertEquals(mtu.bytes, 8_972);
});

test("tries larger sizes again after ten minutes", () => {
  const mtu = new PathMtu(8_972);
  mtu.answering();
  search(mtu, 1_472);
  assertEquals(mtu.bytes, 1_472);
  assertEquals(search(mtu, 8_972, 60_000, 500), []);
  search(mtu, 8_972, 600_000, 120);
  assertEquals(mtu.bytes, 8_972);
});

const counts = (sentPackets: number, lostPackets: number) => ({ sentPackets, lostPackets });

test("goes back to a safe size, step by step, when most of what is sent is lost", () => {
  const mtu = new PathMtu(8_972);
  mtu.confirmed(8_972);
  assert(mtu.wantsLook(0));
  assert(!mtu.look(0, counts(1_000, 400)), "there is nothing to compare with");
  assert(!mtu.wantsLook(499) && mtu.wantsLook(500));
  assert(!mtu.look(500, counts(2_000, 450)), "an ordinary loss");
  assert(!mtu.look(1_000, counts(2_004, 454)), "few");
  assert(mtu.look(1_500, counts(2_014, 460)));
  assertEquals(mtu.bytes, BASE_DATAGRAM_BYTES);
  mtu.look(2_000, counts(2_020, 465));
  assert(mtu.look(2_500, counts(2_040, 485)));
  assertEquals(mtu.bytes, MIN_DATAGRAM_BYTES);
  assert(!mtu.wantsLook(10_000), "nothing is smaller");
});

test("goes back when the peer falls silent at large datagrams, and knows why when it answers at once", () => {
  const mtu = new PathMtu(1_472);
  assert(!mtu.wantsSilence(599, 10) && !mtu.wantsSilence(600, 2) && mtu.wantsSilence(600, 3));
  assert(!mtu.silence(0, 600, 300), "three round trips are no silence");
  assertEquals(mtu.bytes, BASE_DATAGRAM_BYTES);
  assert(mtu.silence(0, 600, 50));
  assertEquals(mtu.bytes, MIN_DATAGRAM_BYTES);
  assert(mtu.heard(349), "within three round trips and some time");
  assert(!mtu.heard(349), "once");

  const outage = new PathMtu(1_472);
  outage.silence(0, 600, 50);
  assert(!outage.heard(350));
});

test("tries again soon after an outage, and ever later after black holes", () => {
  const mtu = new PathMtu(1_472);
  mtu.answering();
  mtu.confirmed(1_472);
  let now = 0;
  for (const pauseMs of [5_000, 10_000, 20_000]) {
    mtu.silence(now, 1_000, 10);
    assertEquals(mtu.probe(now + pauseMs - 1), undefined);
    now += pauseMs;
    assertEquals(mtu.probe(now), 1_472);
    mtu.confirmed(1_472);
  }
});

test("goes back to the usual size by itself where the peer tells nothing", () => {
  const mtu = new PathMtu(1_472);
  mtu.silence(0, 1_000, 10);
  mtu.probe(4_999);
  assertEquals(mtu.bytes, MIN_DATAGRAM_BYTES);
  mtu.probe(5_000);
  assertEquals(mtu.bytes, BASE_DATAGRAM_BYTES);
});
