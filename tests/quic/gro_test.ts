// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Authority } from "../../lib/net/authority.ts";
import { libc } from "../../lib/net/libc.ts";
import { GRO_CMSG_BYTES, segmentBytes, split } from "../../lib/quic/udp/gro.ts";
import { UdpSocket } from "../../lib/quic/udp/socket.ts";
import { pattern } from "../support/bytes.ts";
import { eventually } from "../support/eventually.ts";

Deno.test("split() hands out all bytes in order, and all datagrams but the last of the size", () => {
  fc.assert(fc.property(
    fc.uint8Array({ minLength: 1, maxLength: 5_000 }),
    fc.integer({ min: 1, max: 6_000 }),
    (message, size) => {
      const got: Uint8Array[] = [];
      split(message, size, (bytes) => got.push(bytes));
      assertEquals(Uint8Array.from(got.flatMap((bytes) => [...bytes])), message);
      const last = got.pop()!;
      assert(last.length > 0 && last.length <= size);
      for (const { length } of got) assertEquals(length, size);
    },
  ));
});

Deno.test("segmentBytes() believes only what is told of UDP_GRO, and in full", () => {
  const control = (level: number, type: number, size: number) => {
    const view = new DataView(new ArrayBuffer(2 * GRO_CMSG_BYTES));
    [level, type, size].forEach((value, i) =>
      view.setInt32(GRO_CMSG_BYTES + 8 + 4 * i, value, true)
    );
    return view;
  };
  const told = control(17, 104, 1_350);
  assertEquals(segmentBytes(told, GRO_CMSG_BYTES, GRO_CMSG_BYTES), 1_350);
  assertEquals(segmentBytes(told, GRO_CMSG_BYTES, 20), 1_350);
  assertEquals(segmentBytes(told, GRO_CMSG_BYTES, 0), undefined);
  assertEquals(segmentBytes(told, GRO_CMSG_BYTES, 18), undefined);
  for (const [level, type, size] of [[17, 103, 9], [1, 104, 9], [17, 104, 0], [17, 104, -1]]) {
    const other = control(level!, type!, size!);
    assertEquals(segmentBytes(other, GRO_CMSG_BYTES, GRO_CMSG_BYTES), undefined);
  }
});

/** A socket that keeps the sizes of what it gets, and whether each was right. */
class Receiver implements AsyncDisposable {
  readonly sizes: number[] = [];
  readonly wrong: number[] = [];
  readonly socket: UdpSocket;

  constructor(hostname: string, maxDatagramBytes = 16_384, port = 0) {
    this.socket = new UdpSocket({ hostname, port, maxDatagramBytes }, {
      datagram: (bytes) => {
        this.sizes.push(bytes.length);
        const expected = pattern(bytes.length, bytes.length % 251);
        if (bytes.some((byte, i) => byte !== expected[i])) this.wrong.push(bytes.length);
      },
      sendError: (error) => {
        throw error;
      },
      writable: () => {},
    });
  }

  /** Sends datagrams of these sizes as one burst. */
  send(sizes: readonly number[], to: Authority): void {
    for (const size of sizes) {
      this.socket.reserve(size)!.set(pattern(size, size % 251));
      this.socket.commit(size, to);
    }
    this.socket.flush();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.socket.close();
  }
}

const of = (count: number, size: number) => Array.from({ length: count }, () => size);

const bursts = [
  of(44, 1_350),
  [...of(43, 1_350), 1],
  [...of(20, 1_200), 700, ...of(20, 1_472), 5, 1_472, 16_376, 16_376, 9_000, 1],
  [9],
  of(4, 16_376),
  [...of(40, 1_200), 1_199],
];

const test = (name: string, fn: () => Promise<void>) =>
  Deno.test({ name: `UdpSocket that gets bursts ${name}`, fn, ignore: !libc });

for (const [from, at, to] of [["127.0.0.1"], ["::1"], ["127.0.0.1", "::", "127.0.0.1"]] as const) {
  test(`hands out each datagram whole, once and in order, from ${from} at ${at ?? from}`, async () => {
    await using sender = new Receiver(from);
    await using receiver = new Receiver(at ?? from);
    const address = { hostname: to ?? from, port: receiver.socket.addr.port };
    const sent: number[] = [];
    for (let round = 0; round < 20; round++) {
      for (const burst of bursts) {
        sender.send(burst, address);
        sent.push(...burst);
        await eventually("all of it", () => receiver.sizes.length === sent.length);
      }
      assert(receiver.socket.isBursting);
    }
    assertEquals(receiver.sizes, sent);
    assertEquals(receiver.wrong, []);
  });
}

test("goes back to single ones when there are few, and to bursts again", async () => {
  await using sender = new Receiver("127.0.0.1");
  await using receiver = new Receiver("127.0.0.1");
  const { hostname, port } = receiver.socket.addr;
  let sent = 0;
  for (let round = 0; round < 2; round++) {
    await eventually("bursts", async () => {
      sender.send(bursts[0]!, { hostname, port });
      sent += bursts[0]!.length;
      await eventually("all of it", () => receiver.sizes.length === sent);
      return receiver.socket.isBursting;
    });
    await eventually("single ones", async () => {
      sender.send([7], { hostname, port });
      sent++;
      await eventually("it", () => receiver.sizes.length === sent);
      return !receiver.socket.isBursting;
    });
  }
  assertEquals(receiver.wrong, []);
});

test("drops those that are larger than it takes, and frees its port when it is closed", async () => {
  await using sender = new Receiver("127.0.0.1");
  const receiver = new Receiver("127.0.0.1", 1_400);
  const { hostname, port } = receiver.socket.addr;
  await eventually("bursts", () => {
    sender.send(bursts[0]!, { hostname, port });
    return receiver.socket.isBursting;
  });
  sender.send([...of(20, 1_401), ...of(3, 1_400), 33], { hostname, port });
  await eventually("the last", () => receiver.sizes.at(-1) === 33);
  assertEquals(receiver.sizes.filter((size) => size > 1_400), []);
  await receiver.socket.close();
  await using heir = new Receiver("127.0.0.1", 1_400, port);
  sender.send([8], { hostname, port });
  await eventually("what comes to the heir", () => heir.sizes.length === 1);
  assertEquals(receiver.wrong, []);
});
