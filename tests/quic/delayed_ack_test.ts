// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals } from "@std/assert";
import { DelayedAck, MAX_ACK_DELAY_MS } from "../../lib/quic/path/delayed_ack.ts";
import type { NativeConnection } from "../../lib/quic/quiche/native.ts";

const SMALL = 60;
const LARGE = 1_350;

/** On a connection on which a small datagram was sent, and of which nothing is under way. */
function setUp() {
  const network = { lost: 0, nothingInFlight: true };
  const native = { stats: () => network } as unknown as NativeConnection;
  const ack = new DelayedAck();
  ack.sent(SMALL);
  return {
    ack,
    network,
    putOff: (now: number) => ack.putOff(now, native, () => network.nothingInFlight),
  };
}

const test = (name: string, fn: () => void) =>
  Deno.test({ name: `DelayedAck ${name}`, permissions: "none", fn });

test("puts off what answers a small datagram, for a time", () => {
  const { ack, putOff } = setUp();
  ack.received(SMALL);
  assert(putOff(0));
  assertEquals(ack.dueAt, MAX_ACK_DELAY_MS);
  ack.received(SMALL);
  assert(putOff(5));
  assertEquals(ack.dueAt, MAX_ACK_DELAY_MS);
  assert(!putOff(MAX_ACK_DELAY_MS));
  ack.sent(SMALL);
  assertEquals(ack.dueAt, Infinity);
});

test("puts off nothing when there may be something else to send", () => {
  const { ack, putOff } = setUp();
  ack.received(SMALL);
  assert(putOff(0));
  ack.news();
  assert(!putOff(1));
  ack.sent(SMALL);
  ack.received(SMALL);
  assert(putOff(2));
});

test("puts off nothing when much has come", () => {
  const { ack, putOff } = setUp();
  ack.received(LARGE);
  assert(!putOff(0));
  ack.sent(SMALL);
  for (let i = 0; i < 20; i++) ack.received(SMALL);
  assert(!putOff(1));
});

test("puts off nothing while something of this end's is under way", () => {
  const { ack, network, putOff } = setUp();
  network.nothingInFlight = false;
  ack.received(SMALL);
  assert(!putOff(0));
  assertEquals(ack.dueAt, Infinity);
});

test("puts off nothing when packets were lost, whose frames are to be sent again", () => {
  const { ack, network, putOff } = setUp();
  network.lost = 1;
  ack.received(SMALL);
  assert(!putOff(0));
  ack.sent(SMALL);
  ack.received(SMALL);
  assert(putOff(1));
});

test("puts off nothing after much was sent, of which some may have found no room", () => {
  const { ack, putOff } = setUp();
  ack.sent(LARGE);
  ack.received(SMALL);
  assert(!putOff(0));
  // The window was full.
  ack.sent(0);
  ack.received(SMALL);
  assert(!putOff(1));
  ack.sent(SMALL);
  ack.received(SMALL);
  assert(putOff(2));
});

test("puts off nothing on a new connection", () => {
  const ack = new DelayedAck();
  ack.received(SMALL);
  assert(!ack.putOff(0, { stats: () => ({ lost: 0 }) } as unknown as NativeConnection, () => true));
});

test("asks for losses only where something was sent after something else", () => {
  let asked = 0;
  const native = { stats: () => (asked++, { lost: 0 }) } as unknown as NativeConnection;
  const ack = new DelayedAck();
  for (const datagrams of [2, 1, 0, 1, 2]) {
    for (let i = 0; i < datagrams; i++) ack.sent(SMALL);
    const before = asked;
    ack.received(SMALL);
    assert(ack.putOff(0, native, () => true));
    assertEquals(asked - before, datagrams > 1 ? 1 : 0);
  }
});
