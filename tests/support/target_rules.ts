// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Any rules about targets, and addresses near to theirs. */
import fc from "fast-check";
import { formatIp, ipBytes } from "../../lib/net/ip_address.ts";
import type { Rule } from "../../lib/net/target_rule.ts";

export const port = fc.integer({ min: 1, max: 65535 });
const ports = fc.option(fc.tuple(port, port), { nil: undefined })
  .map((range) => range && { first: Math.min(...range), last: Math.max(...range) });
export const name = fc.array(fc.constantFrom("a", "b", "x-1"), { minLength: 1, maxLength: 4 })
  .map((labels) => labels.join("."));
/** Addresses near to each other, and to what is special. */
export const address = fc.oneof(
  fc.tuple(
    fc.constantFrom("10.0.0.", "10.128.0.", "169.254.169.", "127.0.0.", "0.0.0."),
    fc.constantFrom(0, 1, 254),
  ).map((parts) => parts.join("")),
  fc.tuple(
    fc.constantFrom("::", "fe80::", "fd00:ec2::", "64:ff9b::", "64:ff9b::a9fe:", "2002:a00:1::"),
    fc.constantFrom("0", "1", "254"),
  ).map((parts) => parts.join("")),
);
const cidr = fc.tuple(address, fc.constantFrom(0, 1, 7, 8, 15, 16, 17, 31, 32, 64, 127, 128))
  .map(([text, length]) => {
    const bits = bitsOf(text);
    const prefixLength = Math.min(length, bits.length);
    const prefix = bits.slice(0, prefixLength).padEnd(bits.length, "0");
    const network = Uint8Array.from(prefix.match(/.{8}/g)!, (byte) => Number.parseInt(byte, 2));
    return { network, prefixLength };
  })
  // There is one way to write a network, and a mapped one is IPv4.
  .filter(({ network }) => ipBytes(formatIp(network))!.length === network.length);
const host: fc.Arbitrary<Rule["host"]> = fc.oneof(
  fc.constant({ kind: "any" as const }),
  fc.record({ kind: fc.constant("name" as const), name, below: fc.boolean() }),
  fc.record({ kind: fc.constant("network" as const), cidr }),
);
export const rule: fc.Arbitrary<Rule> = fc.tuple(host, ports)
  .map(([host, ports]) => ({ host, ...(ports && { ports }) }));

/** A digit per bit. */
export function bitsOf(text: string): string {
  return Array.from(ipBytes(text)!, (byte) => byte.toString(2).padStart(8, "0")).join("");
}
