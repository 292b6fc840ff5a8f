// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { deadline } from "@std/async/deadline";
import fc from "fast-check";
import { type Cidr, parseCidr } from "../../lib/net/cidr.ts";
import { type Client, identifyClient, ProxyHeaderError } from "../../lib/server/identify_client.ts";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { formatSocketAddress } from "../../lib/net/authority.ts";
import { socketAddress, socketAddressOf } from "../../lib/net/ip_address.ts";
import { formatProxyHeader } from "../../lib/tunnel/proxy_protocol.ts";
import { cut } from "../support/memory_carrier.ts";
import {
  type MemoryDuplex,
  MemoryDuplexError,
  memoryPair,
  readExactly,
  readToEnd,
} from "../support/memory_duplex.ts";

/** What has to be done within when nothing is left to wait for. */
const PROMPT_MS = 10_000;

function test(name: string, fn: () => void | Promise<void>): void {
  Deno.test({
    name,
    permissions: "none",
    fn: () => deadline(Promise.resolve(fn()), PROMPT_MS),
  });
}

const utf8 = new TextEncoder();
const text = new TextDecoder();

const tcp = (hostname: string, port: number): Deno.NetAddr => ({
  transport: "tcp",
  hostname,
  port,
});

const LOAD_BALANCER = tcp("10.0.0.7", 40_000);
const LISTENER = tcp("10.0.0.1", 8443);
const trusted: readonly Cidr[] = [parseCidr("10.0.0.0/8"), parseCidr("fd00::/8")];

const client = socketAddress("192.0.2.1", 50_000)!;
const service = socketAddress("198.51.100.2", 443)!;

/** Two ends of which one is to be identified by its addresses. */
function connected(
  remoteAddr: Deno.NetAddr = LOAD_BALANCER,
  localAddr: Deno.NetAddr = LISTENER,
): {
  near: MemoryDuplex;
  far: MemoryDuplex;
  identify: (networks?: readonly Cidr[], timeoutMs?: number) => Promise<Client | undefined>;
} {
  const [near, far] = memoryPair();
  return {
    near,
    far,
    identify: (networks = trusted, timeoutMs) =>
      identifyClient(
        { carrier: near, remote: socketAddressOf(remoteAddr), local: socketAddressOf(localAddr) },
        networks,
        timeoutMs,
      ),
  };
}

/** The addresses as text. */
function described({ address, listener, via }: Client) {
  return {
    address: formatSocketAddress(address!),
    listener: formatSocketAddress(listener!),
    ...(via && { via: formatSocketAddress(via) }),
  };
}

test("identifyClient() leaves the bytes of a source that is not trusted alone", async () => {
  const header = text.decode(formatProxyHeader(1, { client, listener: service }));
  for (const said of [header, "\r\n\r\n\0\r\nQUIT\n", ""]) {
    for (const networks of [[], trusted]) {
      const { near, far, identify } = connected(tcp("203.0.113.9", 1234));
      const identified = await identify(networks);
      assert(identified);
      assertStrictEquals(identified.carrier, near);
      assertEquals(described(identified), {
        address: "203.0.113.9:1234",
        listener: "10.0.0.1:8443",
      });
      await writeAll(far, utf8.encode(said));
      await far.closeWrite();
      assertEquals(text.decode(await readToEnd(identified.carrier)), said);
    }
  }
});

for (const version of [1, 2] as const) {
  const header = formatProxyHeader(version, { client, listener: service });

  test(`identifyClient() reads version ${version} of a trusted source, and carries on the rest`, async () => {
    const rest = "GET / HTTP/1.1\r\n\r\n";
    const sizes = fc.array(fc.integer({ min: 1, max: 40 }));
    const readSize = fc.integer({ min: 1, max: 40 });
    await fc.assert(
      fc.asyncProperty(sizes, readSize, fc.boolean(), async (sizes, readSize, withRest) => {
        const { far, identify } = connected();
        const identifying = identify();
        const said = Uint8Array.of(...header, ...utf8.encode(withRest ? rest : ""));
        for (const piece of cut(said, sizes)) {
          await writeAll(far, piece);
          for (let i = 0; i < 5; i++) await Promise.resolve();
        }
        const identified = await identifying;
        assert(identified);
        assertEquals(described(identified), {
          address: "192.0.2.1:50000",
          listener: "198.51.100.2:443",
          via: "10.0.0.7:40000",
        });
        await writeAll(far, utf8.encode("later"));
        await far.closeWrite();
        const read = text.decode(await readToEnd(identified.carrier, readSize));
        assertEquals(read, withRest ? `${rest}later` : "later");
        // The way back is there, too.
        await writeAll(identified.carrier, utf8.encode("answer"));
        await identified.carrier.closeWrite();
        assertEquals(text.decode(await readToEnd(far)), "answer");
      }),
      { numRuns: 50 },
    );
  });

  test(`identifyClient() refuses a connection that ends within its header of version ${version}`, async () => {
    for (let length = 1; length < header.length; length++) {
      const { far, identify } = connected();
      await writeAll(far, header.subarray(0, length));
      await far.closeWrite();
      await assertRejects(
        () => identify(),
        ProxyHeaderError,
        "the connection ends within the PROXY header",
      );
    }
  });

  test(`identifyClient() refuses a header of version ${version} that is not there in time`, async () => {
    for (const length of [0, 1, header.length - 1]) {
      const { near, far, identify } = connected();
      await writeAll(far, header.subarray(0, length));
      const error = await assertRejects(
        () => identify(trusted, 5),
        ProxyHeaderError,
        "no PROXY header within 5 ms",
      );
      assertEquals(error.name, "ProxyHeaderError");
      // Whoever is told so gives the connection up; what was waited for then is nobody's concern.
      near.abort();
      await new Promise((resolve) => setTimeout(resolve));
    }
  });
}

test("identifyClient() counts its time from the beginning, however the bytes dribble in", async () => {
  const { near, far, identify } = connected();
  const header = utf8.encode(`PROXY UNKNOWN ${"x".repeat(80)}`);
  const dribble = async () => {
    for (const byte of [...header, ...Array<number>(1_000).fill(0x78)]) {
      await writeAll(far, Uint8Array.of(byte));
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  };
  const dribbled = dribble().catch(() => {});
  await assertRejects(
    () => identify(trusted, 30),
    ProxyHeaderError,
    "no PROXY header within 30 ms",
  );
  near.abort();
  await dribbled;
});

test("identifyClient() refuses a trusted source that sends something else", async () => {
  for (
    const [said, problem] of [
      ["GET / HTTP/1.1\r\n\r\n", "no PROXY header"],
      ["\x16\x03\x01", "no PROXY header"],
      ["PROXY TCP4 1.2.3.4\r\n", "does not have 5 fields"],
      ["PROXY TCP4 1.2.3.4 5.6.7.8 99999 1\r\n", "invalid source address or port"],
      [`PROXY UNKNOWN ${"x".repeat(200)}`, "longer than 107 bytes"],
      ["\r\n\r\n\0\r\nQUIT\n\x31", "version or command"],
    ] as const
  ) {
    const { far, identify } = connected();
    await writeAll(far, utf8.encode(said));
    await assertRejects(() => identify(), ProxyHeaderError, problem);
  }
});

test("identifyClient() gives nothing for a trusted source that leaves without a byte", async () => {
  const { far, identify } = connected();
  const identified = identify();
  await far.closeWrite();
  assertEquals(await identified, undefined);
});

test("identifyClient() takes a client without an address, and none of its bytes", async () => {
  const [carrier] = memoryPair();
  assertEquals(await identifyClient({ carrier }, trusted), {
    address: undefined,
    listener: undefined,
    carrier,
  });
});

test("identifyClient() throws what the carrier throws", async () => {
  for (const said of ["", "PROXY "]) {
    const { far, identify } = connected();
    const identified = identify();
    await writeAll(far, utf8.encode(said));
    far.abort(9);
    await assertRejects(() => identified, MemoryDuplexError, "code 9");
  }
});

const local = Uint8Array.of(...utf8.encode("\r\n\r\n\0\r\nQUIT\n"), 0x20, 0, 0, 0);
const v6 = {
  client: socketAddress("2001:db8::1", 1)!,
  listener: socketAddress("2001:db8::2", 2)!,
};

/** Who the client is, by the header and the addresses of its connection. */
const identified: readonly {
  readonly what: string;
  readonly headers: readonly Uint8Array[];
  /** Of the client's end of the connection, and of the server's. */
  readonly from?: Deno.NetAddr;
  readonly to?: Deno.NetAddr;
  readonly trusted?: string;
  readonly said: { readonly address: string; readonly listener: string; readonly via: string };
}[] = [
  {
    what: "the addresses of the header, also of IPv6",
    headers: [formatProxyHeader(1, v6), formatProxyHeader(2, v6)],
    from: tcp("fd00::1", 5),
    said: { address: "[2001:db8::1]:1", listener: "[2001:db8::2]:2", via: "[fd00::1]:5" },
  },
  {
    what: "those of the connection where the header has none",
    headers: [
      utf8.encode("PROXY UNKNOWN\r\n"),
      utf8.encode("PROXY UNKNOWN ffff::1 ::2 1 2\r\n"),
      formatProxyHeader(2, {}),
      local,
      Uint8Array.of(...local.subarray(0, 13), 0x11, 0, 3, 1, 2, 3),
    ],
    said: { address: "10.0.0.7:40000", listener: "10.0.0.1:8443", via: "10.0.0.7:40000" },
  },
  {
    what: "IPv4-mapped addresses of the connection as IPv4",
    headers: [formatProxyHeader(1, {})],
    from: tcp("::ffff:10.1.2.3", 9),
    to: tcp("::ffff:a00:1", 8443),
    said: { address: "10.1.2.3:9", listener: "10.0.0.1:8443", via: "10.1.2.3:9" },
  },
  {
    // Version 2 writes the first as a mapped one, as both are of one family there.
    what: "IPv4-mapped addresses of the header as IPv4",
    headers: [formatProxyHeader(2, { client, listener: v6.listener })],
    said: { address: "192.0.2.1:50000", listener: "[2001:db8::2]:2", via: "10.0.0.7:40000" },
  },
  {
    what: "link-local addresses without their zones",
    headers: [formatProxyHeader(1, {})],
    from: tcp("fe80::1%eth0", 9),
    to: tcp("fe80::2%2", 10),
    trusted: "fe80::/10",
    said: { address: "[fe80::1]:9", listener: "[fe80::2]:10", via: "[fe80::1]:9" },
  },
];

for (const { what, headers, from, to, trusted: network, said } of identified) {
  test(`identifyClient() takes ${what}`, async () => {
    for (const header of headers) {
      const { far, identify } = connected(from, to);
      await writeAll(far, Uint8Array.of(...header, 0x78));
      const identified = (await identify(network ? [parseCidr(network)] : trusted))!;
      assertEquals(described(identified), said);
      assertEquals(await readExactly(identified.carrier, 1), Uint8Array.of(0x78));
    }
  });
}

test("identifyClient() takes a mapped address for one that no IPv6 network holds", async () => {
  const { near, identify } = connected(tcp("::ffff:10.1.2.3", 9));
  const identified = (await identify([parseCidr("::/0")]))!;
  assertStrictEquals(identified.carrier, near);
  assertEquals(identified.address?.ip.length, 4);
});
