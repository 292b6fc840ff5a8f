// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What the driver reads and writes itself: headers, connection ids, tokens, and the binding's errors. */

import { assert, assertEquals, assertNotEquals, assertStrictEquals } from "@std/assert";
import { equals } from "@std/bytes/equals";
import fc from "fast-check";
import {
  connectionIdKey,
  hasLongHeader,
  initialToken,
  parseLongHeader,
} from "../../lib/quic/handshake/packet.ts";
import { AddressValidator } from "../../lib/quic/handshake/token.ts";
import { nativeErrorOf, quiche } from "../../lib/quic/quiche/native.ts";
import { runs } from "../support/fuzz.ts";

/** A test that needs nothing of the system. */
function pureTest(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

const bytes = (minLength: number, maxLength: number) => fc.uint8Array({ minLength, maxLength });

// Headers

interface Header {
  /** The first byte without its highest bit. */
  readonly flags: number;
  readonly version: number;
  readonly dcid: Uint8Array;
  readonly scid: Uint8Array;
  readonly rest: Uint8Array;
}

const headerOf = (id: fc.Arbitrary<Uint8Array>): fc.Arbitrary<Header> =>
  fc.record({
    flags: fc.nat({ max: 0x7f }),
    version: fc.nat({ max: 0xffffffff }),
    dcid: id,
    scid: id,
    rest: bytes(0, 60),
  });

const header = headerOf(bytes(0, 20));

/** A long header and what follows it (RFC 8999 §5.1). */
function build({ flags, version, dcid, scid, rest }: Header): Uint8Array {
  const v = [version >>> 24, version >>> 16, version >>> 8, version].map((byte) => byte & 0xff);
  return new Uint8Array([
    0x80 | flags,
    ...v,
    dcid.length,
    ...dcid,
    scid.length,
    ...scid,
    ...rest,
  ]);
}

pureTest("parseLongHeader() reads what was built, as views, wherever the datagram lies", () => {
  fc.assert(
    fc.property(header, fc.nat({ max: 50 }), (header, offset) => {
      const datagram = build(header);
      const buffer = new Uint8Array(offset + datagram.length + 10).fill(0xee);
      buffer.set(datagram, offset);
      const parsed = parseLongHeader(buffer.subarray(offset, offset + datagram.length));
      assert(parsed);
      assertEquals(parsed.version, header.version);
      assertEquals(parsed.initial, (header.flags & 0x30) === 0);
      assertEquals([parsed.dcid, parsed.scid], [header.dcid, header.scid]);
      for (const id of [parsed.dcid, parsed.scid]) assertStrictEquals(id.buffer, buffer.buffer);
    }),
    runs(1000),
  );
});

pureTest("parseLongHeader() never throws, and never reads beyond the datagram", () => {
  // Half of these begin as a long header of version 1 does.
  const likely = bytes(0, 100).map((tail) => new Uint8Array([0xc0, 0, 0, 0, 1, ...tail]));
  fc.assert(
    fc.property(fc.oneof(bytes(0, 1500), likely), (datagram) => {
      const parsed = parseLongHeader(datagram);
      if (!parsed) return;
      assert(hasLongHeader(datagram));
      assert(parsed.dcid.length <= 20 && parsed.scid.length <= 20);
      assertEquals(parsed.dcid.length, datagram[5]);
      assertEquals(parsed.scid.length, datagram[6 + parsed.dcid.length]);
      assert(7 + parsed.dcid.length + parsed.scid.length <= datagram.length);
    }),
    runs(5000),
  );
});

pureTest("parseLongHeader() takes no short header, none that is cut off, and no longer ids", () => {
  fc.assert(
    fc.property(header, fc.nat(), bytes(21, 255), (header, seed, longId) => {
      const datagram = build({ ...header, rest: new Uint8Array(0) });
      assert(parseLongHeader(datagram));
      assertEquals(parseLongHeader(datagram.subarray(0, seed % datagram.length)), undefined);
      datagram[0]! &= 0x7f;
      assertEquals(parseLongHeader(datagram), undefined);
      for (const id of ["dcid", "scid"]) {
        assertEquals(parseLongHeader(build({ ...header, [id]: longId })), undefined);
      }
    }),
  );
});

pureTest("hasLongHeader() looks at the highest bit alone", () => {
  fc.assert(
    fc.property(bytes(0, 10), (datagram) => {
      assertEquals(hasLongHeader(datagram), datagram.length > 0 && datagram[0]! >= 0x80);
    }),
  );
});

/** An integer in any of its forms that are long enough (RFC 9000 §16). */
const varint = (value: fc.Arbitrary<number>) =>
  fc.tuple(value, fc.integer({ min: 1, max: 3 })).map(([value, exponent]) => {
    const bytes = new Uint8Array(1 << exponent);
    new DataView(bytes.buffer).setUint16(bytes.length - 2, value);
    bytes[0]! |= exponent << 6;
    return bytes;
  });

// Not without permissions: this calls the addon.
Deno.test("initialToken() reads what quiche reads, and nothing beyond the datagram", () => {
  const whole = fc.record({ header, token: bytes(0, 100), cut: fc.nat({ max: 300 }) });
  const length = varint(fc.nat({ max: 200 }));
  fc.assert(
    fc.property(whole, length, ({ header, token, cut }, length) => {
      const rest = new Uint8Array([...length, ...token]);
      const initial = { ...header, flags: 0x40, version: 1, rest };
      const buffer = new Uint8Array([9, 9, 9, ...build(initial)]);
      const datagram = buffer.subarray(3, Math.max(3, buffer.length - Math.max(0, cut - 200)));
      const parsed = parseLongHeader(datagram);
      if (!parsed) return;
      let expected: Uint8Array | undefined;
      try {
        expected = quiche.Header.fromSlice(datagram, 16).token ?? new Uint8Array(0);
      } catch {
        // It ends too soon.
      }
      const read = initialToken(datagram, parsed);
      assertEquals(read && new Uint8Array(read), expected && new Uint8Array(expected));
    }),
    runs(2000),
  );
});

// Connection ids

pureTest(
  "connectionIdKey() is the same for the same bytes, wherever they lie, and for no others",
  () => {
    fc.assert(
      fc.property(bytes(0, 20), bytes(0, 20), bytes(0, 20), (id, other, before) => {
        const key = connectionIdKey(id);
        const all = new Uint8Array([...before, ...id, ...other]);
        assertEquals(connectionIdKey(all.subarray(before.length, before.length + id.length)), key);
        assertEquals(key === connectionIdKey(other), equals(id, other));
      }),
    );
    fc.assert(
      fc.property(
        bytes(1, 20),
        fc.nat(),
        fc.integer({ min: 1, max: 255 }),
        (id, at, difference) => {
          const other = id.slice();
          other[at % id.length]! ^= difference;
          assertNotEquals(connectionIdKey(id), connectionIdKey(other));
          assertNotEquals(connectionIdKey(id), connectionIdKey(id.subarray(1)));
        },
      ),
    );
  },
);

// Tokens

const peer = fc.record({
  hostname: fc.oneof(fc.ipV4(), fc.ipV6()),
  port: fc.integer({ min: 1, max: 65535 }),
});
const cid = bytes(8, 20);
const LOCAL = { hostname: "127.0.0.1", port: 1 };

pureTest("AddressValidator gives back the original connection id that a token was made for", () => {
  const validator = new AddressValidator();
  fc.assert(
    fc.property(peer, cid, cid, (peer, retryCid, originalDcid) => {
      const token = validator.mint(peer, retryCid, originalDcid);
      assertEquals(validator.verify(token, { ...peer }, retryCid.slice()), originalDcid);
      // Wherever it lies in the datagram.
      const datagram = new Uint8Array([1, 2, 3, ...token, 4, 5]);
      const part = datagram.subarray(3, 3 + token.length);
      assertEquals(validator.verify(part, peer, retryCid), originalDcid);
    }),
  );
});

pureTest(
  "AddressValidator refuses a token of which any bit was changed, or any byte is missing",
  () => {
    const validator = new AddressValidator();
    fc.assert(
      fc.property(peer, cid, cid, bytes(0, 200), (peer, retryCid, originalDcid, arbitrary) => {
        const token = validator.mint(peer, retryCid, originalDcid);
        for (let bit = 0; bit < token.length * 8; bit++) {
          token[bit >> 3]! ^= 1 << (bit & 7);
          assertEquals(validator.verify(token, peer, retryCid), undefined);
          token[bit >> 3]! ^= 1 << (bit & 7);
        }
        for (let length = 0; length < token.length; length++) {
          assertEquals(validator.verify(token.subarray(0, length), peer, retryCid), undefined);
          assertEquals(
            validator.verify(token.subarray(token.length - length), peer, retryCid),
            undefined,
          );
        }
        for (const wrong of [new Uint8Array([...token, 0]), arbitrary]) {
          assertEquals(validator.verify(wrong, peer, retryCid), undefined);
        }
        assertEquals(validator.verify(token, peer, retryCid), originalDcid);
      }),
      runs(20),
    );
  },
);

pureTest("AddressValidator refuses a token of another address, connection id or endpoint", () => {
  const validator = new AddressValidator();
  const other = new AddressValidator();
  fc.assert(
    fc.property(peer, peer, cid, cid, cid, (peer, elsewhere, retryCid, otherCid, original) => {
      fc.pre(peer.hostname !== elsewhere.hostname && peer.port !== elsewhere.port);
      fc.pre(connectionIdKey(retryCid) !== connectionIdKey(otherCid));
      const token = validator.mint(peer, retryCid, original);
      const { hostname, port } = elsewhere;
      assertEquals(validator.verify(token, { hostname, port: peer.port }, retryCid), undefined);
      assertEquals(validator.verify(token, { hostname: peer.hostname, port }, retryCid), undefined);
      assertEquals(validator.verify(token, peer, otherCid), undefined);
      assertEquals(other.verify(token, peer, retryCid), undefined);
    }),
  );
});

pureTest("AddressValidator cannot be led to take bytes of one field for another's", () => {
  const validator = new AddressValidator();
  fc.assert(
    fc.property(cid, cid, fc.integer({ min: 1, max: 7 }), (retryCid, original, shift) => {
      const token = validator.mint(LOCAL, retryCid, original);
      // The same bytes in the same order, with the border between id and token elsewhere.
      const moved = new Uint8Array([...retryCid.subarray(-shift), ...token]);
      assertEquals(validator.verify(moved, LOCAL, retryCid.subarray(0, -shift)), undefined);
      const longer = new Uint8Array([...retryCid, ...token.subarray(0, shift)]);
      assertEquals(validator.verify(token.subarray(shift), LOCAL, longer), undefined);
    }),
  );
});

pureTest("AddressValidator takes a token until its lifetime is over, 10 seconds by default", () => {
  const time = fc.integer({ min: 0, max: 2 ** 45 });
  const lifetime = fc.option(fc.integer({ min: 1, max: 1e6 }), { nil: undefined });
  fc.assert(
    fc.property(time, lifetime, (start, lifetimeMs) => {
      let now = start;
      const clock = { now: () => now };
      const validator = new AddressValidator(lifetimeMs ? { lifetimeMs, ...clock } : clock);
      const id = new Uint8Array(8);
      const token = validator.mint(LOCAL, id, id);
      const end = start + (lifetimeMs ?? 10_000);
      for (
        const [at, isTaken] of [[start, true], [end - 1, true], [end, false], [2 * end, false]]
      ) {
        now = at as number;
        assertEquals(validator.verify(token, LOCAL, id) !== undefined, isTaken);
      }
    }),
  );
});

pureTest(
  "AddressValidator redeem() takes a connection id once, until its token has expired",
  () => {
    let now = 1e12;
    const validator = new AddressValidator({ now: () => now });
    fc.assert(
      fc.property(fc.uniqueArray(cid, { selector: connectionIdKey, minLength: 2 }), (cids) => {
        const tokens = cids.map((id) => validator.mint(LOCAL, id, id));
        const redeem = () => cids.map((id, i) => validator.redeem(tokens[i]!, LOCAL, id));
        assertEquals(validator.redeem(tokens[0]!, LOCAL, cids[1]!), undefined, "another's");
        assertEquals(redeem(), cids);
        assertEquals(redeem(), cids.map(() => undefined));
        // Another token for the same connection id is of no more use.
        const again = validator.mint(LOCAL, cids[0]!, cids[1]!);
        assertEquals(validator.redeem(again, LOCAL, cids[0]!), undefined);
        now += 10_000;
        assertEquals(redeem(), cids.map(() => undefined), "expired");
        const fresh = validator.mint(LOCAL, cids[0]!, cids[0]!);
        assertEquals(validator.redeem(fresh, LOCAL, cids[0]!), cids[0]);
        now += 10_000;
      }),
    );
  },
);

pureTest("AddressValidator redeem() remembers the last 20 000", () => {
  const validator = new AddressValidator({ now: () => 1e12 });
  const redeem = (number: number) => {
    const id = new Uint8Array(8);
    new DataView(id.buffer).setUint32(0, number);
    return validator.redeem(validator.mint(LOCAL, id, id), LOCAL, id) !== undefined;
  };
  for (let i = 0; i < 20_000; i++) assert(redeem(i));
  assert(redeem(20_000), "makes the first one forgotten");
  assert(redeem(0), "is taken again");
  assert(!redeem(20_000));
});

pureTest(
  "AddressValidator derives the same id for the same client's id, and its own for each",
  () => {
    const validator = new AddressValidator();
    const other = new AddressValidator();
    fc.assert(
      fc.property(cid, cid, fc.integer({ min: 8, max: 20 }), (a, b, length) => {
        fc.pre(connectionIdKey(a) !== connectionIdKey(b));
        const id = validator.connectionIdFor(a, length);
        assertEquals(id.length, length);
        assertEquals(validator.connectionIdFor(a.slice(), length), id);
        assertNotEquals(validator.connectionIdFor(b, length), id);
        assertNotEquals(other.connectionIdFor(a, length), id);
      }),
    );
  },
);

// The binding

pureTest(
  "nativeErrorOf() reads a variant's name and code, and takes any other text for the name",
  () => {
    const variant = fc.stringMatching(/^[A-Z][A-Za-z]{0,30}$/);
    fc.assert(
      fc.property(variant, fc.maxSafeNat(), fc.string(), (name, code, text) => {
        assertEquals(nativeErrorOf(new Error(name)), { name, code: 0 });
        assertEquals(nativeErrorOf(new Error(`${name}(${code})`)), { name, code });
        assertEquals(nativeErrorOf(`${name}(${code})`), { name, code });
        if (/^\w+(\(\d+\))?$/.test(text)) return;
        assertEquals(nativeErrorOf(new Error(text)), { name: text, code: 0 });
      }),
    );
    assertEquals(nativeErrorOf(undefined), { name: "undefined", code: 0 });
    assertEquals(nativeErrorOf(new Error("two words(3)")), { name: "two words(3)", code: 0 });
  },
);

// Not without permissions: these call the addon.
Deno.test("nativeErrorOf() reads what the binding throws", () => {
  const thrownBy = (call: () => unknown) => {
    try {
      call();
    } catch (error) {
      return nativeErrorOf(error);
    }
    throw new Error("nothing was thrown");
  };
  const address = { host: "127.0.0.1", port: 1 };
  const config = new quiche.Config();
  const connection = quiche.Connection.connect(null, new Uint8Array(16), address, address, config);
  assertEquals(thrownBy(() => connection.streamSend(4, new Uint8Array(1), false)), {
    name: "StreamLimit",
    code: 0,
  });
  // Errors that carry a stream's id, not an application's code.
  assertEquals(
    thrownBy(() => connection.streamCapacity(8)).name,
    "InvalidStreamState",
  );
  assertEquals(thrownBy(() => quiche.Header.fromSlice(new Uint8Array([0xc0]), 16)).code, 0);
});
