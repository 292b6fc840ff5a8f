// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Name constraints of CAs (RFC 5280, section 4.2.1.10), to explain a rejection. */
import { formatIp } from "../net/ip_address.ts";
import { quote } from "../printable.ts";
import type { Certificate } from "./certificate.ts";
import { type DerItem, derItems, derText } from "./der.ts";

/** Tags of the names that are looked at. */
const DNS = 0x82;
const IP = 0x87;

interface Name {
  readonly text: string;
  /** Whether it is in the subtree that a constraint of its kind names. */
  isIn(constraint: DerItem): boolean;
}

/**
 * The first name of a certificate that a CA may not issue, in words; undefined if none is found
 * among DNS names and IP addresses.
 *
 * @throws {TypeError} when the constraints cannot be read
 */
export function violationOf(leaf: Certificate, ca: Certificate): string | undefined {
  if (ca.nameConstraints === undefined) return undefined;
  const { permitted, excluded } = subtreesOf(ca.nameConstraints);
  const dnsNames = leaf.hasAlternativeNames ? leaf.dnsNames : leaf.commonNames.filter(looksLikeDns);
  const names: readonly [number, readonly Name[]][] = [
    [DNS, dnsNames.map(dnsName)],
    [IP, leaf.ipAddresses.map(ipName)],
  ];
  for (const [tag, namesOfKind] of names) {
    const of = (subtrees: readonly DerItem[]) => subtrees.filter((subtree) => subtree.tag === tag);
    const [allowed, forbidden] = [of(permitted), of(excluded)];
    const bad = namesOfKind.find((name) =>
      forbidden.some((subtree) => name.isIn(subtree)) ||
      (allowed.length > 0 && !allowed.some((subtree) => name.isIn(subtree)))
    );
    if (bad) {
      const subject = quote(ca.info.subject);
      return `the name constraints of the CA ${subject} forbid the name ${quote(bad.text)}`;
    }
  }
  return undefined;
}

/** The bases of the subtrees. */
function subtreesOf(extension: Uint8Array): { permitted: DerItem[]; excluded: DerItem[] } {
  const parts = derItems(derItems(extension)[0]?.body ?? new Uint8Array());
  const of = (tag: number) =>
    parts.filter((part) => part.tag === tag)
      .flatMap(({ body }) => derItems(body).map((subtree) => derItems(subtree.body)[0]!));
  return { permitted: of(0xa0), excluded: of(0xa1) };
}

function dnsName(text: string): Name {
  const name = text.toLowerCase();
  return {
    text,
    isIn(constraint) {
      const base = derText(constraint).toLowerCase();
      if (base === "" || name === base) return true;
      return name.endsWith(base.startsWith(".") ? base : `.${base}`);
    },
  };
}

function ipName(bytes: Uint8Array): Name {
  return {
    text: formatIp(bytes),
    isIn: ({ body }) =>
      body.length === 2 * bytes.length &&
      bytes.every((byte, at) => (byte & body[bytes.length + at]!) === body[at]),
  };
}

/** Whether BoringSSL takes a common name for a DNS name. */
function looksLikeDns(name: string): boolean {
  return /^[\w.-]+$/.test(name);
}
