// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { deadline } from "@std/async/deadline";
import type { Rules } from "../../lib/agent/acl.ts";
import { parseRule } from "../../lib/net/target_rule.ts";
import {
  type Connect,
  dial,
  DialError,
  type DialFailure,
  type DialOptions,
} from "../../lib/agent/dial.ts";
import { failureOf } from "../../lib/tunnel/failure.ts";
import { formatIp } from "../../lib/net/ip_address.ts";
import { type Lookup, Resolver } from "../../lib/net/resolver.ts";
import { eventually } from "../support/eventually.ts";

const target = { hostname: "kubelet.example", port: 10250 };

/** Far more than a dial that ends by itself takes. */
const LONG_MS = 60_000;

function fakeConnection(): { connection: Deno.TcpConn; isClosed: () => boolean } {
  let closed = false;
  const connection = { close: () => closed = true };
  return { connection: connection as unknown as Deno.TcpConn, isClosed: () => closed };
}

/** An error as the system's come from `Deno.connect`. */
function systemError(message: string, code?: string): Error {
  return Object.assign(new Error(message), code && { code });
}

/** A resolver that knows these addresses of any name. */
function knowing(...addresses: string[]): Resolver {
  return new Resolver({ lookup: () => Promise.resolve(addresses) });
}

function rulesOf(rules: { allow?: string[]; deny?: string[] }): Rules {
  const { allow = [], deny = [] } = rules;
  return { allow: allow.map(parseRule), deny: deny.map(parseRule) };
}

/** Dials the target, which has one address, for as long as it takes. */
function dialTarget(options: Partial<DialOptions>): Promise<Deno.TcpConn> {
  return dial(target, { timeoutMs: LONG_MS, resolver: knowing("10.1.2.3"), ...options });
}

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

Deno.test("dial() connects to a target that listens", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  const accepting = listener.accept();
  using connection = await dial({ hostname: "127.0.0.1", port }, { timeoutMs: LONG_MS });
  using accepted = await accepting;
  assertEquals(connection.remoteAddr.port, port);
  assertEquals(accepted.remoteAddr, connection.localAddr);
});

Deno.test("dial() tells of a target that refuses", async () => {
  // Port 1 is privileged, and outside of what systems hand out: nothing listens there by chance.
  const refusing = { hostname: "127.0.0.1", port: 1 };
  const error = await assertRejects(() => dial(refusing, { timeoutMs: LONG_MS }), DialError);
  assertEquals(error.failure, "connection_refused");
  assertEquals(error.message, "127.0.0.1:1: connection refused");
  assert(error.cause instanceof Deno.errors.ConnectionRefused);
});

Deno.test("dial() connects to an IPv6 target, and by a name of the system's hosts file", async () => {
  using listener = Deno.listen({ hostname: "::1", port: 0 });
  using other = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const portOf = ({ addr }: Deno.Listener) => (addr as Deno.NetAddr).port;
  const six = { hostname: "0:0:0::1", port: portOf(listener) };
  const accepting = listener.accept();
  using connection = await dial(six, { timeoutMs: LONG_MS });
  using _accepted = await accepting;
  assertEquals(connection.remoteAddr.hostname, "::1");
  const acceptingOther = other.accept();
  const named = { hostname: "LocalHost", port: portOf(other) };
  using byName = await dial(named, { timeoutMs: LONG_MS });
  using _other = await acceptingOther;
  assertEquals(byName.remoteAddr.hostname, "127.0.0.1");
});

/** A `connect` that tells what it was asked for, and answers each address in its own way. */
function scripted(answer: (hostname: string, signal: AbortSignal) => Promise<Deno.TcpConn>) {
  const asked: string[] = [];
  const connect: Connect = ({ hostname, port, signal }) => {
    assertEquals(port, target.port);
    asked.push(hostname);
    return answer(hostname, signal);
  };
  return { asked, connect };
}

const refused = () => Promise.reject(systemError("os error 111", "ECONNREFUSED"));

test("dial() connects to addresses as they are, and to the address of a name", async () => {
  const { connection } = fakeConnection();
  const { asked, connect } = scripted(() => Promise.resolve(connection));
  assertStrictEquals(await dialTarget({ connect }), connection);
  const lookup: Lookup = () => Promise.reject(new Error("not to be called"));
  const resolver = new Resolver({ lookup });
  for (const hostname of ["::1", "127.0.0.1", "::FFFF:10.0.0.1", "2001:DB8:0:0::1"]) {
    await dial({ ...target, hostname }, { timeoutMs: LONG_MS, connect, resolver });
  }
  assertEquals(asked, ["10.1.2.3", "::1", "127.0.0.1", "10.0.0.1", "2001:db8::1"]);
});

test("dial() says what a failure of the system means, in the dial or in the lookup, and for which target", async () => {
  const noName = "name does not resolve";
  const cases: [thrown: unknown, failure: DialFailure, cause: string][] = [
    [systemError("os error 111", "ECONNREFUSED"), "connection_refused", "connection refused"],
    [systemError("os error 104", "ECONNRESET"), "connection_refused", "connection reset"],
    [systemError("os error 110", "ETIMEDOUT"), "connection_timeout", "connection timed out"],
    [
      systemError("Too many open files (os error 24)", "EMFILE"),
      "connection_limit_reached",
      "the agent is out of file descriptors",
    ],
    [
      systemError("os error 23", "ENFILE"),
      "connection_limit_reached",
      "the agent's machine is out of file descriptors",
    ],
    [
      systemError("os error 101", "ENETUNREACH"),
      "destination_ip_unroutable",
      "network unreachable",
    ],
    [systemError("os error 113", "EHOSTUNREACH"), "destination_ip_unroutable", "host unreachable"],
    [systemError("os error 100", "ENETDOWN"), "destination_ip_unroutable", "network is down"],
    [
      systemError("os error 22", "EINVAL"),
      "destination_ip_unroutable",
      "the agent's machine has a blackhole route for it, or it is not a valid destination",
    ],
    ...["EACCES", "EPERM"].map((code) =>
      [
        systemError("os error 13", code),
        "destination_ip_prohibited",
        "prohibited by a route or firewall of the agent's machine",
      ] as [unknown, DialFailure, string]
    ),
    ...["ENOBUFS", "ENOMEM"].map((code) =>
      [
        systemError("os error 105", code),
        "connection_limit_reached",
        "the agent's machine is out of memory for sockets",
      ] as [unknown, DialFailure, string]
    ),
    ...["EADDRINUSE", "EAGAIN"].map((code) =>
      [
        systemError("os error 98", code),
        "connection_limit_reached",
        "the agent is out of local ports",
      ] as [unknown, DialFailure, string]
    ),
    [systemError("getaddrinfo", "ENOTFOUND"), "dns_error", noName],
    [systemError("getaddrinfo", "ENODATA"), "dns_error", noName],
    [systemError("getaddrinfo", "EAI_FAIL"), "dns_error", noName],
    [systemError("", "EAI_AGAIN"), "dns_error", "temporary failure in name resolution"],
    [systemError("something new"), "proxy_internal_error", "something new"],
    [systemError("something new", "ENEW"), "proxy_internal_error", "something new"],
    ["a string", "proxy_internal_error", "a string"],
    [{ code: 7 }, "proxy_internal_error", "[object Object]"],
  ];
  for (const [thrown, failure, cause] of cases) {
    const fail = () => Promise.reject(thrown);
    for (const options of [{ connect: fail }, { resolver: new Resolver({ lookup: fail }) }]) {
      const error = await assertRejects(() => dialTarget(options), DialError);
      assertEquals(error.name, "DialError");
      assertEquals(error.failure, failure, cause);
      assertEquals(error.message, `kubelet.example:10250: ${cause}`);
      assertStrictEquals(error.cause, thrown);
    }
  }
});

test("dial() tells of names without an address, and dials nothing", async () => {
  for (const addresses of [[], ["", "fe80::1%eth0"]]) {
    const { asked, connect } = scripted(refused);
    const resolver = knowing(...addresses);
    const error = await assertRejects(() => dialTarget({ resolver, connect }), DialError);
    assertEquals(error.message, "kubelet.example:10250: name does not resolve");
    assertEquals(error.failure, "dns_error");
    assertEquals(asked, []);
  }
});

Deno.test("dial() tells of a name that the system does not resolve", async () => {
  const unknown = { hostname: "no-such-host.invalid", port: 80 };
  const error = await assertRejects(() => dial(unknown, { timeoutMs: LONG_MS }), DialError);
  assertEquals(error.failure, "dns_error");
  assertEquals(failureOf(error).code, "unknown-name");
});

test("dial() writes an IPv6 target with brackets", async () => {
  const thrown = systemError("os error 111", "ECONNREFUSED");
  const error = await assertRejects(() =>
    dial({ hostname: "::1", port: 443 }, {
      timeoutMs: LONG_MS,
      connect: () => Promise.reject(thrown),
    })
  );
  assertEquals((error as Error).message, "[::1]:443: connection refused");
});

for (const late of ["connection", "failure"] as const) {
  test(`dial() gives up after timeoutMs and when the signal aborts, whatever ${late} comes later`, async () => {
    const reason = new Error("the tunnel is gone");
    for (const timeoutMs of [20, LONG_MS]) {
      const stop = new AbortController();
      const answer = Promise.withResolvers<Deno.TcpConn>();
      const { asked, connect } = scripted(() => answer.promise);
      const dialling = dialTarget({ timeoutMs, signal: stop.signal, connect });
      await eventually("it dials", () => asked.length > 0);
      if (timeoutMs === LONG_MS) stop.abort(reason);
      const error = await deadline(dialling.catch((error) => error), LONG_MS);
      if (timeoutMs === LONG_MS) assertStrictEquals(error, reason);
      else {
        assertEquals(error.failure, "connection_timeout");
        assertEquals(error.message, "kubelet.example:10250: no answer within 20 ms");
      }
      // If nobody took it, a failure would end the test run.
      if (late === "failure") answer.reject(new Error("too late"));
      const { connection, isClosed } = fakeConnection();
      answer.resolve(connection);
      await new Promise((resolve) => setTimeout(resolve));
      if (late === "connection") await eventually("it is closed", isClosed);
    }
  });
}

test("dial() does not connect when the signal has aborted before", async () => {
  const reason = new Error("the tunnel is gone");
  let asked = 0;
  const connect: Connect = () => {
    asked++;
    return Promise.reject(new Error("not to be called"));
  };
  const thrown = await dialTarget({ signal: AbortSignal.abort(reason), connect })
    .then(() => undefined, (error) => error);
  assertStrictEquals(thrown, reason);
  assertEquals(asked, 0);
});

test("dial() leaves a connection alone when its signal aborts afterwards", async () => {
  const stop = new AbortController();
  const { connection, isClosed } = fakeConnection();
  await dialTarget({ signal: stop.signal, connect: () => Promise.resolve(connection) });
  stop.abort();
  await new Promise((resolve) => setTimeout(resolve));
  assertEquals(isClosed(), false);
});

/** Attempts that stay without an answer until they are given up. */
function silence(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
}

test("dial() tries the addresses of a name in turn, families alternating", async () => {
  const { connection } = fakeConnection();
  const last = "2001:db8::2";
  const { asked, connect } = scripted((hostname) =>
    hostname === last ? Promise.resolve(connection) : refused()
  );
  const resolver = knowing("2001:db8::1", last, "10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2");
  assertStrictEquals(await dialTarget({ resolver, connect }), connection);
  assertEquals(asked, ["2001:db8::1", "10.0.0.1", last]);
});

test("dial() goes past an address that does not answer, and gives that attempt up then", async () => {
  const { connection } = fakeConnection();
  let givenUp: unknown;
  const { asked, connect } = scripted((hostname, signal) => {
    if (hostname === "10.0.0.2") return Promise.resolve(connection);
    signal.addEventListener("abort", () => givenUp = hostname);
    return silence(signal);
  });
  const resolver = knowing("10.0.0.1", "10.0.0.2", "10.0.0.3");
  const dialled = await dialTarget({ resolver, connect, attemptDelayMs: 1 });
  assertStrictEquals(dialled, connection);
  assertEquals(asked, ["10.0.0.1", "10.0.0.2"]);
  assertEquals(givenUp, "10.0.0.1");
});

test("dial() gives up all addresses together after timeoutMs", async () => {
  const { asked, connect } = scripted((hostname, signal) =>
    hostname === "10.0.0.2" ? refused() : silence(signal)
  );
  const resolver = knowing("10.0.0.1", "10.0.0.2", "10.0.0.3");
  const error = await assertRejects(
    () => dialTarget({ resolver, connect, attemptDelayMs: 1, timeoutMs: 200 }),
    DialError,
    "kubelet.example:10250: no answer within 200 ms",
  );
  assertEquals(error.failure, "connection_timeout");
  assertEquals(asked, ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
});

test("dial() tells the failure of the preferred address, unless there is no way to it", async () => {
  const codes: Record<string, string> = {
    "2001:db8::1": "ENETUNREACH",
    "10.0.0.1": "ECONNREFUSED",
    "10.0.0.2": "ETIMEDOUT",
  };
  const failing: Connect = ({ hostname }) => Promise.reject(systemError("failed", codes[hostname]));
  const cases: [addresses: string[], failure: DialFailure][] = [
    [["2001:db8::1", "10.0.0.1", "10.0.0.2"], "connection_refused"],
    [["10.0.0.2", "10.0.0.1", "2001:db8::1"], "connection_timeout"],
    [["2001:db8::1"], "destination_ip_unroutable"],
  ];
  for (const [addresses, failure] of cases) {
    const resolver = knowing(...addresses);
    const error = await assertRejects(
      () => dialTarget({ resolver, connect: failing }),
      DialError,
    );
    assertEquals(error.failure, failure);
  }
});

test("dial() tries at most 16 addresses of a name", async () => {
  const { asked, connect } = scripted(refused);
  const resolver = knowing(...Array.from({ length: 100 }, (_, i) => `10.0.0.${i}`));
  await assertRejects(() => dialTarget({ resolver, connect }), DialError, "connection refused");
  assertEquals(asked.length, 16);
});

test("dial() gives up on a name that does not resolve in timeoutMs, and goes on to nothing", async () => {
  const late = Promise.withResolvers<string[]>();
  const { asked, connect } = scripted(refused);
  const resolver = new Resolver({ lookup: () => late.promise });
  const error = await assertRejects(
    () => dialTarget({ resolver, connect, timeoutMs: 20 }),
    DialError,
    "kubelet.example:10250: name not resolved within 20 ms",
  );
  assertEquals(error.failure, "dns_timeout");
  assertEquals(failureOf(error).code, "timeout");
  late.resolve(["10.0.0.1"]);
  await new Promise((resolve) => setTimeout(resolve));
  assertEquals(asked, []);
});

test("dial() gives up on a name when the signal aborts", async () => {
  const stop = new AbortController();
  const looking = Promise.withResolvers<void>();
  const resolver = new Resolver({
    lookup: () => {
      looking.resolve();
      return new Promise(() => {});
    },
  });
  const dialling = dialTarget({ resolver, signal: stop.signal });
  await looking.promise;
  const reason = new Error("the tunnel is gone");
  stop.abort(reason);
  assertStrictEquals(await dialling.catch((error) => error), reason);
});

test("dial() asks once for the addresses of a name, and dials the ones that were judged", async () => {
  const answers = [["10.0.0.1"], ["169.254.169.254"]];
  let lookups = 0;
  const resolver = new Resolver({ lookup: () => Promise.resolve(answers[lookups++]!) });
  const { connection } = fakeConnection();
  const { asked, connect } = scripted(() => Promise.resolve(connection));
  const rules = rulesOf({ allow: ["10.0.0.0/8"] });
  assertStrictEquals(await dialTarget({ resolver, connect, rules }), connection);
  assertEquals([lookups, asked], [1, ["10.0.0.1"]]);
});

test("dial() tries only the addresses of a name that are allowed", async () => {
  const { asked, connect } = scripted(refused);
  const resolver = knowing("169.254.169.254", "10.0.0.1", "fe80::1", "192.168.0.1", "fd00::1");
  const cases: [rules: { allow?: string[]; deny?: string[] }, tried: string[]][] = [
    [{}, ["10.0.0.1", "fd00::1", "192.168.0.1"]],
    [{ deny: ["10.0.0.0/8:10250"] }, ["192.168.0.1", "fd00::1"]],
    [{ allow: ["fd00::/8"] }, ["fd00::1"]],
    [{ allow: ["kubelet.example"], deny: ["fc00::/7"] }, ["10.0.0.1", "192.168.0.1"]],
    [{ allow: ["*", "169.254.169.254:10250"], deny: ["::/0", "192.0.0.0/8"] }, [
      "169.254.169.254",
      "10.0.0.1",
    ]],
  ];
  for (const [rules, tried] of cases) {
    asked.length = 0;
    await assertRejects(
      () => dialTarget({ resolver, connect, rules: rulesOf(rules) }),
      DialError,
      "connection refused",
    );
    assertEquals(asked, tried, JSON.stringify(rules));
  }
});

test("dial() denies a name of which no address is allowed, with the cause of the first", async () => {
  const { asked, connect } = scripted(refused);
  const resolver = knowing("169.254.169.254", "10.0.0.1");
  const rules = rulesOf({ deny: ["10.0.0.0/8"] });
  const error = await assertRejects(() => dialTarget({ resolver, connect, rules }), DialError);
  assertEquals(
    error.message,
    "kubelet.example:10250: denied by default rule link-local 169.254.0.0/16",
  );
  assertEquals(error.failure, "destination_ip_prohibited");
  assertEquals(formatIp(error.ip!), "169.254.169.254");
  assertEquals(failureOf(error), { code: "denied", text: error.message });
  assertEquals(asked, []);
});

test("dial() does not resolve a name that is denied with any address", async () => {
  const resolver = new Resolver({ lookup: () => Promise.reject(new Error("not to be called")) });
  const cases: [rules: { allow?: string[]; deny?: string[] }, reason: string][] = [
    [{ deny: ["*.example:10000-20000"] }, "denied by --deny *.example:10000-20000"],
    [{ deny: ["*"] }, "denied by --deny *"],
    [{ allow: ["*.kubelet.example"] }, "denied: no --allow rule matches"],
    [{ allow: ["10.0.0.0/8:443"] }, "denied: no --allow rule matches"],
  ];
  for (const [rules, reason] of cases) {
    const error = await assertRejects(
      () => dialTarget({ resolver, rules: rulesOf(rules) }),
      DialError,
    );
    assertEquals(error.message, `kubelet.example:10250: ${reason}`);
    assertEquals(error.failure, "http_request_denied");
    assertEquals([error.ip, failureOf(error).code], [undefined, "denied"]);
  }
});

test("dial() without rules denies nothing", async () => {
  const { connection } = fakeConnection();
  const connect: Connect = () => Promise.resolve(connection);
  const metadata = { hostname: "169.254.169.254", port: 80 };
  assertStrictEquals(await dial(metadata, { timeoutMs: LONG_MS, connect }), connection);
});
