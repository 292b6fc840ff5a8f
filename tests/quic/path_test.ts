// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals } from "@std/assert";
import type { DatagramSocket } from "../../lib/quic/datagram_socket.ts";
import { KeepAlive } from "../../lib/quic/path/keep_alive.ts";
import { PacketSender } from "../../lib/quic/path/packet_sender.ts";
import { PathMtu } from "../../lib/quic/path/path_mtu.ts";
import { PeerAddress } from "../../lib/quic/path/peer_address.ts";
import type { NativeConnection } from "../../lib/quic/quiche/native.ts";

const socket = fakeSocket();
const home = { hostname: "192.0.2.1", port: 1000, socket };
const away = { hostname: "192.0.2.1", port: 2000, socket };
const stranger = { hostname: "198.51.100.1", port: 3000, socket };

/** A socket that has room for some datagrams. */
function fakeSocket({ room = Infinity, sent = [] as number[] } = {}): DatagramSocket {
  return {
    addr: { hostname: "192.0.2.2", port: 4000 },
    isCarrier: false,
    maxDatagramBytes: () => undefined,
    reserve: (bytes) => sent.length < room ? new Uint8Array(bytes) : undefined,
    commit: (bytes) => void sent.push(bytes),
    flush: () => {},
    noticeErrors: () => {},
    close: () => Promise.resolve(),
  };
}

Deno.test("PeerAddress follows a peer that moves, and trusts the address from its second packet on", () => {
  const address = new PeerAddress(home);
  assert(!address.concerns(home, socket));
  assert(address.concerns(away, socket));
  assert(address.authentic(away, socket, 100, 0));
  assertEquals([address.current, address.previous], [away, home]);
  assertEquals(address.maxPacketBytes, 300);
  address.sent(280);
  assertEquals(address.maxPacketBytes, 0);
  assert(!address.authentic(away, socket, 50, 10));
  assertEquals(address.maxPacketBytes, Infinity);
  address.settle(address.movingUntil);
  assertEquals([address.current, address.previous], [away, undefined]);
  assert(!address.concerns(away, socket));
});

Deno.test("PeerAddress goes back when the new address does not prove itself", () => {
  const address = new PeerAddress(home);
  address.authentic(stranger, socket, 1200, 0);
  address.settle(address.movingUntil - 1);
  assertEquals(address.current, stranger);
  address.settle(address.movingUntil);
  assertEquals([address.current, address.previous], [home, undefined]);
  assertEquals(address.maxPacketBytes, Infinity);
});

Deno.test("PeerAddress goes back at once, without a limit, when the old address speaks", () => {
  const address = new PeerAddress(home);
  address.authentic(stranger, socket, 1200, 0);
  assert(!address.authentic(home, socket, 40, 1));
  assertEquals([address.current, address.maxPacketBytes], [home, Infinity]);
});

Deno.test("PeerAddress keeps the last proven address through several moves", () => {
  const address = new PeerAddress(home);
  address.authentic(away, socket, 100, 0);
  address.authentic(stranger, socket, 100, 1);
  assertEquals([address.current, address.previous], [stranger, home]);
  address.settle(address.movingUntil);
  assertEquals(address.current, home);
});

/** A sender whose connection has packets of these sizes, cut to the room that there is, and the datagrams it sends. */
function senderOf(packets: number[], { room = Infinity, sent = [] as number[] } = {}) {
  const socket = fakeSocket({ room, sent });
  const peer = new PeerAddress({ ...home, socket });
  const starved: DatagramSocket[] = [];
  let turns = 0;
  const sender = new PacketSender({
    native: {
      send: (buffer: Uint8Array) => {
        const next = packets.shift();
        return next === undefined ? null : [Math.min(next, buffer.length), { at: null } as never];
      },
    },
    peer,
    path: new PathMtu(1400),
    more: () => turns++,
    starved: (socket) => starved.push(socket),
  });
  return { sender, sent, peer, socket, starved, turns: () => turns };
}

Deno.test("PacketSender sends until there is nothing more, and tells the largest", () => {
  const { sender, sent, turns } = senderOf([1400, 9000, 70]);
  assertEquals(sender.send(0), 1400);
  assertEquals([sent, sender.isCut, turns()], [[1400, 1400, 70], false, 0]);
  assertEquals(sender.send(0), 0);
});

Deno.test("PacketSender leaves what is more than 88 packets to another turn", () => {
  const { sender, sent, turns } = senderOf(new Array(100).fill(1000));
  sender.send(0);
  assertEquals([sent.length, sender.isCut, turns()], [88, true, 1]);
  sender.send(0);
  assertEquals([sent.length, sender.isCut, turns()], [100, false, 1]);
});

Deno.test("PacketSender is cut where the socket has no room, or the peer's address may get no more", () => {
  const full = senderOf([1000, 1000, 1000], { room: 2 });
  full.sender.send(0);
  assertEquals([full.sent.length, full.sender.isCut, full.turns()], [2, true, 0]);
  assertEquals(full.starved, [full.socket]);
  const unproven = senderOf([1000, 1000]);
  unproven.peer.authentic(stranger, unproven.socket, 100, 0);
  unproven.sender.tryOne(301);
  assertEquals(unproven.sent, []);
  unproven.sender.send(0);
  // And once more to the address that it had before.
  assertEquals([unproven.sent, unproven.sender.isCut], [[300, 300], true]);
  assertEquals(unproven.starved, []);
});

Deno.test("PacketSender sends to a peer that comes through another carrier by both", () => {
  const { sender, sent, peer } = senderOf([1000, 1000]);
  const other: number[] = [];
  peer.authentic(home, fakeSocket({ sent: other }), 1000, 0);
  sender.send(0);
  assertEquals([other, sent], [[1000, 1000], [1000, 1000]]);
  peer.settle(peer.movingUntil);
});

Deno.test("PacketSender sends small datagrams once when an acknowledgement is missing", () => {
  const packets = [1400, 1400, 1400];
  const { sender, sent } = senderOf(packets);
  sender.late();
  sender.send(0);
  assertEquals(sent, [1200, 1200, 1200]);
  packets.push(1400);
  sender.send(0);
  assertEquals(sent.at(-1), 1400);
});

Deno.test("KeepAlive is due when nothing of the peer's came for the interval, nor a PING went", () => {
  const keepAlive = new KeepAlive(100, 0);
  let recv = 0;
  const native = { stats: () => ({ recv }) as ReturnType<NativeConnection["stats"]> };
  assertEquals(keepAlive.dueAt, 100);
  assert(!keepAlive.isDue(99, native, 50));
  recv = 1;
  assert(!keepAlive.isDue(100, native, 60));
  assertEquals(keepAlive.dueAt, 160);
  // What came since was not the peer's.
  assert(keepAlive.isDue(160, native, 159));
  assertEquals(keepAlive.dueAt, 260);
  recv = 2;
  assert(keepAlive.isDue(300, native, 190));
});

Deno.test("KeepAlive without an interval is never due", () => {
  assertEquals(new KeepAlive(0, 0).dueAt, Infinity);
});
