// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals } from "@std/assert";
import { checkUdp, probeUdp } from "../../lib/cli/check/udp.ts";
import { isVersionNegotiation, unknownVersion } from "../../lib/cli/check/version_probe.ts";
import { listen } from "../support/quic.ts";

Deno.test("isVersionNegotiation() takes the answer to this datagram and no other", () => {
  const probe = unknownVersion();
  assertEquals(probe.length, 1200);
  // A long header of version 0, with the connection ids of the probe the other way round.
  const answer = new Uint8Array(27);
  answer.set([0x80, 0, 0, 0, 0, 8]);
  answer.set(probe.subarray(15, 23), 6);
  answer[14] = 8;
  answer.set(probe.subarray(6, 14), 15);
  assert(isVersionNegotiation(answer, probe));
  assert(!isVersionNegotiation(answer, unknownVersion()), "another's");
  assert(!isVersionNegotiation(probe, probe), "the probe itself");
  assert(!isVersionNegotiation(answer.subarray(0, 20), probe), "cut");
  assert(!isVersionNegotiation(new Uint8Array(0), probe), "empty");
});

Deno.test("probeUdp() has an answer of a server, which takes it for no connection", async () => {
  await using server = listen();
  assertEquals(await probeUdp(server.address), "answers");
  assertEquals([server.endpoint.stats.halfOpen, server.failures], [0, []]);
});

Deno.test("probeUdp() gives up on an address that does not answer", async () => {
  const silent = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  using _ = { [Symbol.dispose]: () => silent.close() };
  const { port } = silent.addr as Deno.NetAddr;
  assertEquals(await probeUdp({ hostname: "127.0.0.1", port }, 100), "silent");
});

Deno.test({
  name: "probeUdp() learns that nothing listens, by IPv4 and IPv6",
  ignore: Deno.build.os !== "linux",
  fn: async () => {
    assertEquals(await probeUdp({ hostname: "127.0.0.1", port: 1 }), "refused");
    const outcome = await probeUdp({ hostname: "::1", port: 1 });
    // A machine without IPv6 cannot send at all.
    assert(outcome === "refused" || typeof outcome === "object");
  },
});

Deno.test({
  name: "checkUdp() goes on with the addresses that answer, and warns of the others",
  ignore: Deno.build.os !== "linux",
  fn: async () => {
    await using server = listen();
    const nobody = { hostname: "127.0.0.1", port: 1 };
    const { found, value, isWarning } = await checkUdp([nobody, server.address]);
    assertEquals([value, isWarning], [[server.address], true]);
    assertEquals(
      found,
      "127.0.0.1:1: port closed (ICMP port unreachable); " +
        `127.0.0.1:${server.address.port}: a QUIC server answers`,
    );
  },
});
