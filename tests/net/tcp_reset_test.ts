// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertRejects } from "@std/assert";
import { addressReads } from "../support/address_reads.ts";
import {
  connectTcp,
  isTcpReset,
  resetTcp,
  resetTcpAtExit,
  setNoDelay,
} from "../../lib/net/tcp_reset.ts";
import { canResetTcp } from "../support/can_reset_tcp.ts";
import { eventually } from "../support/eventually.ts";
import { readExactly } from "../support/memory_duplex.ts";
import { tcpPair } from "../support/tcp_pair.ts";

/** What the peer of a connection that was reset reads, where there are resets. */
async function assertWasReset(peer: Deno.TcpConn): Promise<void> {
  const read = () => peer.read(new Uint8Array(1));
  if (canResetTcp) await assertRejects(read, Deno.errors.ConnectionReset);
  else assertEquals(await read(), null);
}

Deno.test("resetTcp() is there on Linux", () => {
  assertEquals(canResetTcp, Deno.build.os === "linux");
});

for (const [name, index] of [["connected", 0], ["accepted", 1]] as const) {
  Deno.test(`resetTcp() has the peer of a connection that was ${name} read its bytes and then a reset`, async () => {
    const pair = await tcpPair();
    const own = pair[index], peer = pair[1 - index]!;
    const pending = assertRejects(async () => await own.read(new Uint8Array(1)));
    await own.write(new TextEncoder().encode("hello"));
    assertEquals(resetTcp(own), canResetTcp);
    own.close();
    await pending;
    assertEquals(new TextDecoder().decode(await readExactly(peer, 5)), "hello");
    await assertWasReset(peer);
    peer.close();
  });
}

Deno.test("resetTcp() resets the connection that it is given, and no other", async () => {
  const pairs = await Promise.all(Array.from({ length: 40 }, tcpPair));
  // Leaves holes between descriptors.
  for (const pair of pairs.splice(0, 10)) for (const end of pair) end.close();
  pairs.push(...await Promise.all(Array.from({ length: 20 }, tcpPair)));
  for (let i = 0; pairs.length > 0; i++) {
    const [pair] = pairs.splice(i * 7 % pairs.length, 1);
    const own = pair![i % 2]!, peer = pair![1 - i % 2]!;
    assertEquals(resetTcp(own), canResetTcp);
    own.close();
    await assertWasReset(peer);
    peer.close();
    for (const [a, b] of pairs) {
      await a.write(Uint8Array.of(i));
      assertEquals(await readExactly(b, 1), Uint8Array.of(i));
    }
  }
});

for (const end of ["reset", "closed in order"]) {
  Deno.test(`resetTcpAtExit() and resetTcp() read the addresses once of a connection that was connected, and is ${end}`, async () => {
    // Of accepted ones, the first has shown that Deno tells their descriptors.
    const [earlier, accepted] = await tcpPair();
    resetTcpAtExit(accepted, true);
    for (const connection of [earlier, accepted]) connection.close();
    const before = addressReads();
    const ends = await tcpPair();
    for (const connection of ends) resetTcpAtExit(connection, true);
    for (const connection of ends) {
      if (end === "reset") resetTcp(connection);
      else resetTcpAtExit(connection, false);
      connection.close();
    }
    assertEquals(addressReads() - before, canResetTcp ? 2 : 0);
  });
}

Deno.test("setNoDelay() recognizes connections by it, and reads no address", async () => {
  const pairs = await Promise.all(Array.from({ length: 40 }, tcpPair));
  const before = addressReads();
  for (const [own] of pairs) setNoDelay(own);
  for (const [own, peer] of pairs) {
    assertEquals(resetTcp(own), canResetTcp);
    own.close();
    await assertWasReset(peer);
    peer.close();
  }
  assertEquals(addressReads(), before);
});

for (const isOff of [false, true]) {
  Deno.test(`setNoDelay() takes no other connection for its own, which has Nagle's algorithm ${isOff ? "off" : "on"}`, async () => {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr as Deno.NetAddr;
    const address = { hostname: "127.0.0.1", port };
    // Gets the descriptor that was next.
    let other: Deno.TcpConn | undefined;
    const { connect } = Deno;
    const stub = async (options: Deno.ConnectOptions) => {
      other = await connect(address);
      other.setNoDelay(isOff);
      return await connect(options);
    };
    Object.assign(Deno, { connect: stub });
    const connecting = connectTcp(address);
    Object.assign(Deno, { connect });
    const [peerOfOther, peer, own] = [
      await listener.accept(),
      await listener.accept(),
      await connecting,
    ];
    setNoDelay(own);
    assertEquals(resetTcp(own), canResetTcp);
    own.close();
    await assertWasReset(peer);
    await other!.write(Uint8Array.of(1));
    assertEquals(await readExactly(peerOfOther, 1), Uint8Array.of(1));
    for (const connection of [other!, peerOfOther, peer]) connection.close();
  });
}

Deno.test("resetTcp() leaves the connection alone that has the descriptor of one that is over", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  const open = async () => {
    const pair = await Promise.all([
      connectTcp({ hostname: "127.0.0.1", port }),
      listener.accept(),
    ]);
    setNoDelay(pair[0]);
    return pair;
  };
  for (const end of [resetTcp, (own: Deno.TcpConn) => resetTcpAtExit(own, false)]) {
    const over = await open();
    for (const own of over) {
      end(own);
      own.close();
    }
    // These get the lowest descriptors that are free.
    const [own, peer] = await open();
    assertEquals(over.map(resetTcp), [false, false]);
    await own.write(Uint8Array.of(1));
    assertEquals(await readExactly(peer, 1), Uint8Array.of(1));
    own.close();
    peer.close();
  }
});

Deno.test("resetTcp() finds connections of both families", async () => {
  for (
    const [listening, dialled] of [
      ["127.0.0.1", "127.0.0.1"],
      ["::1", "::1"],
      ["::", "127.0.0.1"],
    ] as const
  ) {
    for (const index of [0, 1] as const) {
      using listener = Deno.listen({ hostname: listening, port: 0 });
      const { port } = listener.addr as Deno.NetAddr;
      const pair = await Promise.all([connectTcp({ hostname: dialled, port }), listener.accept()]);
      const own = pair[index], peer = pair[1 - index]!;
      assertEquals(resetTcp(own), canResetTcp, `${dialled} at ${listening}`);
      own.close();
      await assertWasReset(peer);
      peer.close();
    }
  }
});

Deno.test("isTcpReset() tells of a reset after the peer's end, which reads do not", async () => {
  const [peer, own] = await tcpPair();
  resetTcpAtExit(own, true);
  await peer.closeWrite();
  const read = () => own.read(new Uint8Array(1));
  assertEquals(await read(), null);
  assertEquals(isTcpReset(own), false);
  assertEquals(resetTcp(peer), canResetTcp);
  peer.close();
  if (canResetTcp) await eventually("it is reset", () => isTcpReset(own));
  assertEquals(await read(), null);
  own.close();
});

Deno.test("resetTcp() does nothing to a connection that is closed, or that it does not know", async () => {
  const [connected, accepted] = await tcpPair();
  connected.close();
  assert(!resetTcp(connected));
  assertEquals(await accepted.read(new Uint8Array(1)), null);
  accepted.close();
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  const [own, peer] = await Promise.all([
    Deno.connect({ hostname: "127.0.0.1", port }),
    listener.accept(),
  ]);
  assert(!resetTcp(own));
  await own.write(Uint8Array.of(1));
  assertEquals(await readExactly(peer, 1), Uint8Array.of(1));
  own.close();
  peer.close();
});
