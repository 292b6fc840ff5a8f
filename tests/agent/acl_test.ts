// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { denialOf, denialOfName } from "../../lib/agent/acl.ts";
import { formatRule, parseRule, type Rule } from "../../lib/net/target_rule.ts";
import { parseAuthority } from "../../lib/net/authority.ts";
import { formatIp, ipBytes, isIpAddress } from "../../lib/net/ip_address.ts";
import { runs } from "../support/fuzz.ts";
import { address, bitsOf, name, port, rule } from "../support/target_rules.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

interface Texts {
  readonly allow?: readonly string[];
  readonly deny?: readonly string[];
}

const rulesOf = ({ allow = [], deny = [] }: Texts) => ({
  allow: allow.map(parseRule),
  deny: deny.map(parseRule),
});

const NOT_ALLOWED = "denied: no --allow rule matches";
const LINK_LOCAL = "denied by default rule link-local 169.254.0.0/16";

/** What is said of a target at an address, by default its own. */
function verdict(rules: Texts, target: string, address?: string): string {
  const authority = parseAuthority(target);
  const ip = ipBytes(address ?? authority.hostname);
  assert(ip, `${target} needs an address`);
  return denialOf(rulesOf(rules), authority, ip)?.reason ?? "allowed";
}

/** One of each kind; the rules by the book, below, hold the rest. */
const verdicts: readonly {
  readonly what: string;
  readonly rules: Texts;
  readonly cases: readonly (readonly [target: string, address: string | undefined, said: string])[];
}[] = [
  {
    what: "denies what no --allow rule matches, once there are any",
    rules: { allow: ["10.0.0.0/8:10250", "*.svc.cluster.local:80-90"] },
    cases: [
      ["10.1.2.3:10250", undefined, "allowed"],
      ["10.1.2.3:10251", undefined, NOT_ALLOWED],
      ["node.example:10250", "10.1.2.3", "allowed"],
      ["A.B.SVC.Cluster.Local.:90", "192.0.2.1", "allowed"],
      ["svc.cluster.local:80", "192.0.2.1", NOT_ALLOWED],
      ["a.svc.cluster.local.example:80", "192.0.2.1", NOT_ALLOWED],
    ],
  },
  {
    what: "lets --deny win over --allow, and names the rule",
    rules: { allow: ["*", "10.1.2.3"], deny: ["10.0.0.0/8:22", "*.internal.example", "*:25"] },
    cases: [
      ["10.1.2.3:22", undefined, "denied by --deny 10.0.0.0/8:22"],
      ["10.1.2.3:23", undefined, "allowed"],
      ["a.INTERNAL.example.:80", "192.0.2.1", "denied by --deny *.internal.example"],
      ["192.0.2.1:25", undefined, "denied by --deny *:25"],
    ],
  },
  {
    what: "lifts a default denial for a network or address in --allow that is in it",
    rules: { allow: ["*", "169.254.169.254:443", "::ffff:169.254.7.0/120", "fe80::/10"] },
    cases: [
      ["169.254.169.254:443", undefined, "allowed"],
      ["169.254.169.254:80", undefined, LINK_LOCAL],
      ["169.254.169.253:443", undefined, LINK_LOCAL],
      ["[::ffff:169.254.7.1]:80", undefined, "allowed"],
      ["[fe80::1]:80", undefined, "allowed"],
    ],
  },
  {
    what: "takes the unspecified address for loopback, and loopback for nothing else",
    rules: { deny: ["127.0.0.0/8", "::1", "0.0.0.0/9"] },
    cases: [
      ["0.0.0.0:80", undefined, "denied by --deny 127.0.0.0/8"],
      ["[::]:80", undefined, "denied by --deny ::1"],
      ["[::ffff:127.0.0.1]:80", undefined, "denied by --deny 127.0.0.0/8"],
    ],
  },
  {
    what: "has --allow match the address itself, not one that it leads to",
    rules: { allow: ["10.0.0.0/8", "127.0.0.1"] },
    cases: [
      ["[64:ff9b::10.0.0.1]:80", undefined, NOT_ALLOWED],
      ["0.0.0.0:80", undefined, NOT_ALLOWED],
    ],
  },
];

for (const { what, rules, cases } of verdicts) {
  test(`denialOf() ${what}`, () => {
    for (const [target, address, said] of cases) {
      assertEquals(verdict(rules, target, address), said, `${target} at ${address}`);
    }
  });
}

test("denialOf() says whether the address is to blame", () => {
  const judged = (rules: Texts, address: string) =>
    denialOf(rulesOf(rules), { hostname: "a.example", port: 80 }, ipBytes(address)!)?.byAddress;
  assertEquals(judged({ deny: ["10.0.0.0/8"] }, "10.0.0.1"), true);
  assertEquals(judged({}, "169.254.0.1"), true);
  assertEquals(judged({ deny: ["a.example"] }, "10.0.0.1"), false);
  assertEquals(judged({ deny: ["*"] }, "10.0.0.1"), false);
  assertEquals(judged({ allow: ["10.0.0.0/8"] }, "11.0.0.1"), false);
  assertEquals(judged({}, "11.0.0.1"), undefined);
});

const byDefault: Readonly<Record<string, string>> = {
  "169.254.169.254": "link-local 169.254.0.0/16",
  "169.254.0.0": "link-local 169.254.0.0/16",
  "169.254.255.255": "link-local 169.254.0.0/16",
  "fe80::1": "link-local fe80::/10",
  "febf:ffff::1": "link-local fe80::/10",
  "fe80::a9fe:a9fe": "link-local fe80::/10",
  "fd00:ec2::254": "cloud metadata fd00:ec2::/32",
  "fd00:ec2::23": "cloud metadata fd00:ec2::/32",
  "fd20:ce::254": "cloud metadata fd20:ce::254",
  "168.63.129.16": "cloud metadata 168.63.129.16",
  "fd00:c1::a9fe:a9fe": "cloud metadata fd00:c1::a9fe:a9fe",
  "fd00:42::42": "cloud metadata fd00:42::42",
};

test("denialOf() denies link-local addresses and those of cloud metadata by default", () => {
  for (const [address, rule] of Object.entries(byDefault)) {
    const said = `denied by default rule ${rule}`;
    assertEquals(verdict({}, "metadata.example:80", address), said, address);
    // Neither a name, nor *, nor a wider network lifts it.
    const allow = ["*", "metadata.example", "*.example:80", "0.0.0.0/0", "::/0", "*:80"];
    const wider = ["168.0.0.0/7", "169.254.0.0/15", "fe80::/9", "fc00::/7", "fd00::/16"];
    const rules = { allow: [...allow, ...wider] };
    assertEquals(verdict(rules, "metadata.example:80", address), said, address);
  }
  for (const near of ["169.253.255.255", "169.255.0.0", "fec0::1", "fe7f::1", "fd00:ec3::254"]) {
    assertEquals(verdict({}, "a.example:80", near), "allowed", near);
  }
});

test("denialOf() sees through addresses that lead to another one", () => {
  const leading = [
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "::ffff:0:169.254.169.254",
    "::169.254.169.254",
  ];
  for (const address of leading) {
    assertEquals(verdict({}, `[${address}]:80`), LINK_LOCAL, address);
    assertEquals(verdict({}, "a.example:80", address), LINK_LOCAL, address);
  }
  // Nothing lifts it there, not even what lifts it from the address that they lead to.
  const allow = ["169.254.0.0/16", "64:ff9b::a9fe:a9fe", "2002::/16", "::/0"];
  for (const address of leading.slice(1)) {
    assertEquals(verdict({ allow }, `[${address}]:80`), LINK_LOCAL, address);
  }
  assertEquals(verdict({}, "[64:ff9b::10.0.0.1]:80"), "allowed");
  assertEquals(verdict({}, "[64:ff9b:1::169.254.169.254]:80"), "allowed");
});

test("denialOf() denies debuggers and the agent's own listeners, unless a rule names their port", () => {
  const wildcard = { hostname: "0.0.0.0", port: 8095 };
  const single = { hostname: "10.0.0.5", port: 8096 };
  const own = [wildcard, single, { hostname: "::", port: 8097 }];
  const judge = (target: string, allow: string[] = [], isThisMachine = false) => {
    const authority = parseAuthority(target);
    const rules = { ...rulesOf({ allow }), own };
    return denialOf(rules, authority, ipBytes(authority.hostname)!, isThisMachine)?.reason;
  };
  const cases: [target: string, isThisMachine: boolean, what: string | undefined][] = [
    ["127.0.0.1:9229", false, "debugger 9229"],
    ["127.9.9.9:9229", false, "debugger 9229"],
    ["[::1]:9229", false, "debugger 9229"],
    ["0.0.0.0:9229", false, "debugger 9229"],
    ["[::]:9229", false, "debugger 9229"],
    ["[64:ff9b::127.0.0.1]:9229", false, "debugger 9229"],
    ["10.0.0.5:9229", false, undefined],
    ["127.0.0.1:9230", false, undefined],
    ["127.0.0.1:8095", false, "own listener 8095"],
    ["0.0.0.0:8095", false, "own listener 8095"],
    ["[::1]:8097", false, "own listener 8097"],
    ["10.0.0.9:8095", false, undefined],
    ["10.0.0.9:8095", true, "own listener 8095"],
    ["10.0.0.5:8096", false, "own listener 8096"],
    ["127.0.0.1:8096", false, undefined],
    ["10.0.0.5:80", true, undefined],
  ];
  for (const [target, isThisMachine, what] of cases) {
    const said = what && `denied by default rule ${what}`;
    assertEquals(judge(target, [], isThisMachine), said, target);
    const { hostname, port } = parseAuthority(target);
    const ip = hostname.includes(":") ? `[${hostname}]` : hostname;
    const wide = [
      "*",
      `*:${port}`,
      "0.0.0.0/0",
      "[::/0]",
      ip,
      `${ip}:1-65535`,
      "10.0.0.0/8:1-9999",
    ];
    assertEquals(judge(target, wide, isThisMachine), said, target);
    assertEquals(judge(target, ["*", `${ip}:${port}`], isThisMachine), undefined, target);
  }
  assertEquals(judge("127.0.0.1:8095", ["127.0.0.0/8:8095"]), undefined);
  assertEquals(judge("127.0.0.1:8095", ["10.0.0.0/8:8095", "*"]), judge("127.0.0.1:8095"));
});

test("denialOfName() denies what no address could make allowed", () => {
  const said = (rules: Texts, target: string) =>
    denialOfName(rulesOf(rules), parseAuthority(target))?.reason;
  assertEquals(said({}, "a.example:80"), undefined);
  assertEquals(said({ deny: ["*.example"] }, "a.example:80"), "denied by --deny *.example");
  assertEquals(said({ deny: ["10.0.0.0/8", "*:80"] }, "a.example:80"), "denied by --deny *:80");
  assertEquals(said({ deny: ["0.0.0.0/0", "::/0"] }, "a.example:80"), undefined);
  assertEquals(said({ allow: ["b.example"] }, "a.example:80"), NOT_ALLOWED);
  assertEquals(said({ allow: ["a.example"] }, "a.example:80"), undefined);
  assertEquals(said({ allow: ["10.0.0.0/8"] }, "a.example:80"), undefined);
  assertEquals(said({ allow: ["10.0.0.0/8:443"] }, "a.example:80"), NOT_ALLOWED);
});

// ---- Properties ----

/** The rules by the book, on texts of bits, one after the other. */
function slowly(allow: readonly Rule[], deny: readonly Rule[], target: Target): string {
  const { hostname, port, address } = target;
  const bits = bitsOf(address);
  const reached = [bits];
  const embedded = (prefix: string, length: number, at: number) => {
    if (bits.length === 128 && bits.startsWith(bitsOf(prefix).slice(0, length))) {
      reached.push(bits.slice(at, at + 32));
    }
  };
  const text = formatIp(ipBytes(address)!);
  if (text === "0.0.0.0") reached.push(bitsOf("127.0.0.1"));
  else if (text === "::") reached.push(bitsOf("::1"));
  else if (text !== "::1") {
    embedded("64:ff9b::", 96, 96);
    embedded("2002::", 16, 16);
    embedded("::ffff:0:0:0", 96, 96);
    embedded("::", 96, 96);
  }
  const prefixOf = ({ host }: Rule) =>
    host.kind === "network"
      ? { bits: bitsOf(formatIp(host.cidr.network)), length: host.cidr.prefixLength }
      : undefined;
  const inPrefix = (ip: string, prefix: { bits: string; length: number }) =>
    ip.length === prefix.bits.length && ip.startsWith(prefix.bits.slice(0, prefix.length));
  const matches = (rule: Rule, ips: readonly string[]) => {
    const { host, ports } = rule;
    if (ports && (port < ports.first || port > ports.last)) return false;
    if (host.kind === "any") return true;
    if (host.kind === "network") return ips.some((ip) => inPrefix(ip, prefixOf(rule)!));
    const labels = hostname.toLowerCase().split(".").filter((label) => label !== "");
    const wanted = host.name.split(".");
    const tail = labels.slice(-wanted.length).join(".") === host.name;
    return tail && isIpAddress(hostname) === 0 &&
      (host.below ? labels.length > wanted.length : labels.length === wanted.length);
  };
  const denying = deny.find((rule) => matches(rule, reached));
  if (denying) return `denied by --deny ${formatRule(denying)}`;
  for (const entry of new Set(Object.values(byDefault))) {
    const [network, length] = entry.split(" ").at(-1)!.split("/");
    const prefix = { bits: bitsOf(network!), length: Number(length ?? 128) };
    if (!reached.some((ip) => inPrefix(ip, prefix))) continue;
    const lifted = allow.some((rule) => {
      const own = prefixOf(rule);
      return own && matches(rule, [bits]) && own.length >= Math.min(prefix.length, bits.length) &&
        inPrefix(own.bits, prefix);
    });
    if (!lifted) return `denied by default rule ${entry}`;
  }
  if (allow.length > 0 && !allow.some((rule) => matches(rule, [bits]))) {
    return "denied: no --allow rule matches";
  }
  return "allowed";
}

interface Target {
  readonly hostname: string;
  readonly port: number;
  readonly address: string;
}

/** Targets that the rules are about, more often than not. */
const target: fc.Arbitrary<Target> = fc.oneof(
  fc.record({ hostname: name, port, address }),
  fc.record({ hostname: name.map((name) => `${name.toUpperCase()}.`), port, address }),
  fc.tuple(address, port).map(([address, port]) => ({ hostname: address, port, address })),
);
const someRules = fc.array(rule, { maxLength: 4 });

test("denialOf() agrees with the rules by the book", () => {
  const seen = new Map<string, number>();
  fc.assert(
    fc.property(someRules, someRules, target, (allow, deny, target) => {
      const ip = ipBytes(target.address)!;
      const said = denialOf({ allow, deny }, target, ip)?.reason ?? "allowed";
      assertEquals(said, slowly(allow, deny, target));
      const kind = said.split(" ", 3).join(" ");
      seen.set(kind, (seen.get(kind) ?? 0) + 1);
    }),
    runs(10_000),
  );
  // Otherwise this would hold nothing.
  const kinds = ["allowed", "denied by --deny", "denied by default", "denied: no --allow"];
  for (const kind of kinds) assert((seen.get(kind) ?? 0) > 200, `${kind}: ${seen.get(kind)}`);
});

test("denialOfName() denies only what denialOf() denies with every address", () => {
  fc.assert(
    fc.property(someRules, someRules, target, (allow, deny, target) => {
      if (isIpAddress(target.hostname) !== 0) return;
      const early = denialOfName({ allow, deny }, target);
      if (early) assert(denialOf({ allow, deny }, target, ipBytes(target.address)!), early.reason);
    }),
    runs(5000),
  );
});

test("denialOf() allows no more with a --deny rule, and no less with an --allow rule in its place", () => {
  fc.assert(
    fc.property(someRules, someRules, rule, target, (allow, deny, more, target) => {
      const allows = (allow: readonly Rule[], deny: readonly Rule[]) =>
        denialOf({ allow, deny }, target, ipBytes(target.address)!) === undefined;
      if (allows(allow, [...deny, more])) assert(allows(allow, deny));
      if (allow.length > 0 && allows(allow, deny)) assert(allows([...allow, more], deny));
    }),
    runs(3000),
  );
});
