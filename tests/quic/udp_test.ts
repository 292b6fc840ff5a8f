// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertThrows } from "@std/assert";
import type { Authority } from "../../lib/net/authority.ts";
import { UdpSocket } from "../../lib/quic/udp/socket.ts";
import { headerBytes, routePayloadBytes } from "../../lib/quic/udp/route.ts";
import { eventually } from "../support/eventually.ts";
import { pattern } from "../support/bytes.ts";

const MAX_BYTES = 16_384;
const isLinux = Deno.build.os === "linux";
/** Whether this test runs with what the system can do: `tests/run.ts` runs it without as well. */
const mayBatch = isLinux &&
  Deno.permissions.querySync({ name: "ffi", path: "libc.so.6" }).state === "granted";

interface Got {
  readonly bytes: Uint8Array;
  readonly from: Authority;
}

/** A socket that keeps what it gets. */
class Receiver implements AsyncDisposable {
  readonly got: Got[] = [];
  readonly errors: unknown[] = [];
  readonly refused: Uint8Array[] = [];
  writable = 0;
  readonly socket: UdpSocket;

  constructor(batch: boolean, hostname = "127.0.0.1", maxDatagramBytes = MAX_BYTES) {
    this.socket = new UdpSocket({ hostname, port: 0, maxDatagramBytes, batch }, {
      datagram: (bytes, from) => this.got.push({ bytes: bytes.slice(), from: { ...from } }),
      sendError: (error) => this.errors.push(error),
      refused: (datagram) => this.refused.push(datagram.slice()),
      writable: () => this.writable++,
    });
  }

  get addr(): Authority {
    return { hostname: this.socket.addr.hostname, port: this.socket.addr.port };
  }

  /** Sends a datagram, as soon as there is room. */
  async send(bytes: Uint8Array, to: Authority): Promise<void> {
    const place = await eventually("room", () => this.socket.reserve(bytes.length));
    place.set(bytes);
    this.socket.commit(bytes.length, to);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.socket.close();
  }
}

for (const batch of [true, false]) {
  const test = (name: string, fn: () => Promise<void>) =>
    Deno.test(`UdpSocket ${name}, ${batch ? "many with a call" : "one by one"}`, fn);

  test("carries datagrams of all sizes, each whole and once", async () => {
    await using sender = new Receiver(batch);
    await using receiver = new Receiver(batch);
    assertEquals(sender.socket.isBatching, batch && mayBatch);
    const sizes = [1, 1350, 1350, 1350, 700, 1350, 16_376, 16_376, 16_376, 16_376, 16_376, 5, 9000];
    const all = Array.from({ length: 10 }, () => sizes).flat();
    for (const [i, size] of all.entries()) {
      await sender.send(pattern(size, i + 1), receiver.addr);
      // More would be more than the kernel keeps.
      if (i % 13 === 12) {
        sender.socket.flush();
        await eventually("they have come", () => receiver.got.length === i + 1);
      }
    }
    const key = ({ bytes }: Pick<Got, "bytes">) => `${bytes.length} ${bytes}`;
    const expected = all.map((size, i) => key({ bytes: pattern(size, i + 1) })).sort();
    assertEquals(receiver.got.map(key).sort(), expected);
    for (const { from } of receiver.got) assertEquals(from, sender.addr);
    assertEquals(sender.errors, []);
  });

  test("keeps apart what goes to several addresses", async () => {
    await using sender = new Receiver(batch);
    await using a = new Receiver(batch);
    await using b = new Receiver(batch, "::1");
    await using c = new Receiver(batch);
    for (let i = 0; i < 90; i++) {
      await sender.send(pattern(100 + i), [a, c][i % 2]!.addr);
    }
    sender.socket.flush();
    await eventually("all has come", () => a.got.length + c.got.length === 90);
    assertEquals([a, c].map(({ got }) => got.length), [45, 45]);
    assertEquals(b.got, []);
    for (const [odd, { got }] of [a, c].entries()) {
      const lengths = got.map(({ bytes }) => bytes.length).sort((x, y) => x - y);
      assertEquals(lengths, Array.from({ length: 45 }, (_, i) => 100 + 2 * i + odd));
    }
  });

  test("speaks IPv6, and IPv4 on a socket for both", async () => {
    await using both = new Receiver(batch, "::");
    await using six = new Receiver(batch, "::1");
    await using four = new Receiver(batch);
    for (const sender of [six, four]) {
      const hostname = sender === six ? "::1" : "127.0.0.1";
      for (let i = 0; i < 3; i++) {
        await sender.send(pattern(500), { hostname, port: both.addr.port });
      }
      sender.socket.flush();
    }
    await eventually("all six have come", () => both.got.length === 6);
    const ports = both.got.map(({ from }) => from.port);
    assertEquals(ports.filter((port) => port === six.addr.port).length, 3);
    for (const { from } of [...both.got]) await both.send(pattern(9), from);
    both.socket.flush();
    await eventually("answers", () => six.got.length === 3 && four.got.length === 3);
  });

  test("drops what is larger than it takes, and goes on", async () => {
    await using sender = new Receiver(batch);
    await using receiver = new Receiver(batch, "127.0.0.1", 1_500);
    for (const size of [1_500, 1_501, 9_000, 1_499]) {
      await sender.send(pattern(size), receiver.addr);
      sender.socket.flush();
    }
    const isWhole = ({ bytes }: Got) => bytes.length < 1_500 || batch;
    await eventually(
      "the last one",
      () => receiver.got.some(({ bytes }) => bytes.length === 1_499),
    );
    // Deno cuts them, and tells nobody: they fail to be decrypted then.
    const sizes = receiver.got.filter(isWhole).map(({ bytes }) => bytes.length);
    assert(sizes.every((size) => size <= 1_500), `${sizes}`);
  });

  test("tells of sends that the system refuses, and goes on", async () => {
    await using sender = new Receiver(batch);
    await using receiver = new Receiver(batch);
    await sender.send(pattern(10), { hostname: "::1", port: 9 });
    await sender.send(pattern(11), receiver.addr);
    sender.socket.flush();
    await eventually(
      "an error and a datagram",
      () => sender.errors.length + receiver.got.length === 2,
    );
    assertEquals(receiver.got.map(({ bytes }) => bytes.length), [11]);
  });

  test("has room again when its sends are over", async () => {
    await using sender = new Receiver(batch);
    await using receiver = new Receiver(batch);
    // To nobody: what the kernel would not keep does not matter.
    let sent = 0;
    for (; sent < 3_000 && sender.socket.reserve(1_350); sent++) {
      sender.socket.commit(1_350, receiver.addr);
    }
    sender.socket.flush();
    assert(sender.socket.reserve(10, true), "for what must leave there always is");
    if (sent < 3_000) await eventually("room", () => sender.writable > 0);
    assert(sender.socket.reserve(1_350));
    assertEquals(sender.errors, []);
  });

  test("sends nothing more once it is closed", async () => {
    await using receiver = new Receiver(batch);
    const sender = new Receiver(batch);
    await sender.send(pattern(10), receiver.addr);
    await sender.socket.close();
    // It has the descriptor that was the other's.
    await using heir = new Receiver(batch);
    sender.socket.reserve(11);
    sender.socket.commit(11, receiver.addr);
    sender.socket.flush();
    await heir.send(pattern(12), receiver.addr);
    heir.socket.flush();
    await eventually(
      "what the heir has sent",
      () => receiver.got.some(({ bytes }) => bytes.length === 12),
    );
    assertEquals(receiver.got.filter(({ bytes }) => bytes.length === 11), []);
    assertEquals(sender.errors, []);
  });

  for (const hostname of ["127.0.0.1", "::"]) {
    test(`loses nothing when a port is closed, and tells what was sent there, from ${hostname}`, async () => {
      await using sender = new Receiver(batch, hostname);
      await using receiver = new Receiver(batch);
      const gone = new Receiver(batch);
      const nobody = gone.addr;
      await gone.socket.close();
      const round = 20;
      for (let i = 1; i <= round; i++) {
        await sender.send(pattern(1_000 + i), nobody);
        sender.socket.flush();
        await sender.send(pattern(i), receiver.addr);
        sender.socket.flush();
        await eventually("the live one has it", () => receiver.got.length === i);
        await receiver.send(pattern(i), { hostname: "127.0.0.1", port: sender.addr.port });
        receiver.socket.flush();
        await eventually("and has answered", () => sender.got.length === i);
      }
      sender.socket.noticeErrors();
      assertEquals(sender.errors, []);
      if (!batch || !mayBatch) return assertEquals(sender.refused, []);
      // Linux may limit how often it says so.
      assert(sender.refused.length > 0, "nothing was refused");
      for (const datagram of sender.refused) {
        assertEquals(datagram, pattern(1_000).subarray(0, datagram.length));
        assert(datagram.length >= 32, `${datagram.length}`);
      }
    });
  }

  test("refuses an address that is taken", async () => {
    await using taken = new Receiver(batch);
    const events = { datagram: () => {}, sendError: () => {}, writable: () => {} };
    const options = { hostname: "127.0.0.1", maxDatagramBytes: 2_000, batch };
    assertThrows(
      () => new UdpSocket({ ...options, port: taken.addr.port }, events),
      Deno.errors.AddrInUse,
    );
  });
}

Deno.test("routePayloadBytes() tells what the route to an address carries, and headerBytes() what goes off it", () => {
  assertEquals(headerBytes({ hostname: "192.0.2.1", port: 1 }), 28);
  assertEquals(headerBytes({ hostname: "::ffff:192.0.2.1", port: 1 }), 28);
  assertEquals(headerBytes({ hostname: "2001:db8::1", port: 1 }), 48);
  assertEquals(routePayloadBytes({ hostname: "a name", port: 1 }), undefined);
  const bytes = routePayloadBytes({ hostname: "127.0.0.1", port: 9 });
  if (mayBatch) assert(bytes !== undefined && bytes >= 1_472, `${bytes}`);
  else assertEquals(bytes, undefined);
});
