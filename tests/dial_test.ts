// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import {
  assert,
  assertEquals,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
} from "@std/assert";
import { deadline } from "@std/async/deadline";
import { type Connect, dial, DialError, type DialFailure } from "../lib/dial.ts";

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

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

Deno.test("dial() connects to a target that listens", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  const accepting = listener.accept();
  using connection = await dial({ hostname: "127.0.0.1", port }, LONG_MS);
  using accepted = await accepting;
  assertEquals(connection.remoteAddr.port, port);
  assertEquals(accepted.remoteAddr, connection.localAddr);
});

Deno.test("dial() tells of a target that refuses", async () => {
  // Port 1 is privileged, and outside of what systems hand out: nothing listens there by chance.
  const refusing = { hostname: "127.0.0.1", port: 1 };
  const error = await assertRejects(() => dial(refusing, LONG_MS), DialError);
  assertEquals(error.failure, "connection_refused");
  assertEquals(error.message, "127.0.0.1:1: connection refused");
  assert(error.cause instanceof Deno.errors.ConnectionRefused);
});

test("dial() hands the target to connect as it is", async () => {
  const asked: unknown[] = [];
  const { connection } = fakeConnection();
  const connect: Connect = (options) => {
    asked.push(options);
    return Promise.resolve(connection);
  };
  assertStrictEquals(await dial(target, LONG_MS, undefined, connect), connection);
  await dial({ hostname: "::1", port: 443 }, LONG_MS, undefined, connect);
  assertEquals(asked, [target, { hostname: "::1", port: 443 }]);
});

test("dial() says what a failure of the system means, and for which target", async () => {
  const cases: [error: Error, failure: DialFailure, cause: string][] = [
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
    [systemError("something new"), "proxy_internal_error", "something new"],
    [systemError("something new", "ENEW"), "proxy_internal_error", "something new"],
  ];
  for (const [thrown, failure, cause] of cases) {
    const error = await assertRejects(
      () => dial(target, LONG_MS, undefined, () => Promise.reject(thrown)),
      DialError,
    );
    assertEquals(error.name, "DialError");
    assertEquals(error.failure, failure, cause);
    assertEquals(error.message, `kubelet.example:10250: ${cause}`);
    assertStrictEquals(error.cause, thrown);
  }
});

test("dial() tells of names that do not resolve, in the words of every system", async () => {
  for (
    const thrown of [
      // Linux with glibc, with musl, and without an answer; macOS.
      systemError("failed to lookup address information: Name or service not known"),
      systemError("failed to lookup address information: Name does not resolve"),
      systemError("failed to lookup address information: Temporary failure in name resolution"),
      systemError("failed to lookup address information: nodename nor servname provided"),
      // An empty list of addresses.
      systemError("No resolved address found"),
      // Windows; the second one is a name that has no address.
      systemError("No such host is known. (os error 11001)", "ENOENT"),
      systemError(
        "The requested name is valid, but no data of the requested type was found. (os error 11004)",
        "ENOENT",
      ),
    ]
  ) {
    const error = await assertRejects(
      () => dial(target, LONG_MS, undefined, () => Promise.reject(thrown)),
      DialError,
    );
    assertEquals(error.message, "kubelet.example:10250: name does not resolve", thrown.message);
    assertEquals(error.failure, "dns_error");
  }
});

test("dial() writes an IPv6 target with brackets", async () => {
  const thrown = systemError("os error 111", "ECONNREFUSED");
  const error = await assertRejects(() =>
    dial({ hostname: "::1", port: 443 }, LONG_MS, undefined, () => Promise.reject(thrown))
  );
  assertEquals((error as Error).message, "[::1]:443: connection refused");
});

test("dial() survives anything that connect throws", async () => {
  for (const thrown of ["a string", 42, { code: 7 }]) {
    const error = await assertRejects(
      () => dial(target, LONG_MS, undefined, () => Promise.reject(thrown)),
      DialError,
    );
    assertEquals(error.failure, "proxy_internal_error");
    assertStringIncludes(error.message, "kubelet.example:10250: ");
  }
});

test("dial() gives up after timeoutMs, and closes a connection that comes later", async () => {
  const late = Promise.withResolvers<Deno.TcpConn>();
  const error = await assertRejects(
    () => deadline(dial(target, 20, undefined, () => late.promise), LONG_MS),
    DialError,
  );
  assertEquals(error.failure, "connection_timeout");
  assertEquals(error.message, "kubelet.example:10250: no answer in 20 ms");
  const { connection, isClosed } = fakeConnection();
  late.resolve(connection);
  await late.promise;
  assertEquals(isClosed(), true);
});

test("dial() is not disturbed by a failure that comes after timeoutMs", async () => {
  const late = Promise.withResolvers<Deno.TcpConn>();
  await assertRejects(
    () => dial(target, 1, undefined, () => late.promise),
    DialError,
    "no answer in 1 ms",
  );
  // If nobody took it, this would end the test run.
  late.reject(new Error("too late"));
  await new Promise((resolve) => setTimeout(resolve));
});

test("dial() gives up when the signal aborts, and closes a connection that comes later", async () => {
  const stop = new AbortController();
  const late = Promise.withResolvers<Deno.TcpConn>();
  const dialling = dial(target, LONG_MS, stop.signal, () => late.promise);
  const reason = new Error("the tunnel is gone");
  stop.abort(reason);
  const thrown = await dialling.then(() => undefined, (error) => error);
  assertStrictEquals(thrown, reason);
  const { connection, isClosed } = fakeConnection();
  late.resolve(connection);
  await late.promise;
  assertEquals(isClosed(), true);
});

test("dial() does not connect when the signal has aborted before", async () => {
  const reason = new Error("the tunnel is gone");
  let asked = 0;
  const connect: Connect = () => {
    asked++;
    return Promise.reject(new Error("not to be called"));
  };
  const thrown = await dial(target, LONG_MS, AbortSignal.abort(reason), connect)
    .then(() => undefined, (error) => error);
  assertStrictEquals(thrown, reason);
  assertEquals(asked, 0);
});

test("dial() leaves a connection alone when its signal aborts afterwards", async () => {
  const stop = new AbortController();
  const { connection, isClosed } = fakeConnection();
  await dial(target, LONG_MS, stop.signal, () => Promise.resolve(connection));
  stop.abort();
  await new Promise((resolve) => setTimeout(resolve));
  assertEquals(isClosed(), false);
});
