// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Clients of a server on a Unix socket. */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { UsageError } from "../../lib/errors.ts";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { unixDuplex } from "../../lib/tunnel/unix_duplex.ts";
import { assertSameBytes, pattern } from "../support/bytes.ts";
import { readToEnd } from "../support/memory_duplex.ts";
import {
  assertReads,
  linesWith,
  lineWith,
  logLines,
  type Network,
  OK,
  readText,
  readUntilOver,
  requestFor,
  sendText,
  soon,
  test,
} from "../support/network.ts";
import { Site } from "../support/site.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";

const BOTH = ["qrht/1", "raw"];

function unixTest(
  name: string,
  fn: (net: Network, path: string) => Promise<void>,
  only?: readonly string[],
): void {
  if (Deno.build.os === "windows") return;
  test(name, async (net) => {
    await using folder = await temporaryFolder();
    await fn(net, `${folder.path}/clients.sock`);
  }, only);
}

const connect = async (net: Network, path: string) =>
  net.own(unixDuplex(await Deno.connect({ transport: "unix", path })));

/** A tunnel of a client, and its target. */
async function tunnel(net: Network, path: string) {
  const target = net.target();
  const client = await connect(net, path);
  await sendText(client, requestFor(target.authority));
  await assertReads(client, OK);
  return { client, atTarget: await target.accept() };
}

/** A server on a Unix socket alone. */
const serverAt = (net: Network, udsName: string, config: Parameters<Network["server"]>[0] = {}) =>
  net.server({ listenTcp: [], udsName, ...config });

unixTest(
  "runServer() carries a client of a Unix socket, both ways and to both ends",
  async (net, path) => {
    using lines = logLines(4);
    const server = await serverAt(net, path);
    assertEquals(Number.isNaN(server.tcpPort), true);
    net.agent(server);
    const { client, atTarget } = await tunnel(net, path);
    const [up, down] = [pattern(700_000, 1), pattern(900_000, 2)];
    const sending = Promise.try(() => writeAll(client, up)).then(() => client.closeWrite());
    assertSameBytes(await readToEnd(atTarget), up);
    await sending;
    const answering = Promise.try(() => writeAll(atTarget, down)).then(() => atTarget.closeWrite());
    assertSameBytes(await readToEnd(client), down);
    await answering;
    const line = await lineWith(lines, ' server "tunnel ended"');
    assertMatch(line, / front=unix .*by=client reason=end/);
    assert(!line.includes(" client="));
  },
);

unixTest(
  "proxy-passthrough sends a PROXY header without addresses for a client that has none",
  async (net, path) => {
    const server = await serverAt(net, path);
    const upstream = net.target();
    for (const proxyProtocol of ["v1", "v2"] as const) {
      const agent = net.passthrough(server, upstream.port, { proxyProtocol });
      const client = await connect(net, path);
      await sendText(client, "hello");
      await client.closeWrite();
      const got = await readToEnd(await upstream.accept());
      const text = new TextDecoder("latin1").decode(got);
      if (proxyProtocol === "v1") assertEquals(text, "PROXY UNKNOWN\r\nhello");
      else {
        // PROXY, unspecified family; the rest are TLVs.
        assertEquals(text.slice(0, 14), "\r\n\r\n\0\r\nQUIT\n\x21\0");
        assert(text.endsWith("hello"));
      }
      await agent.stop();
    }
  },
  BOTH,
);

unixTest(
  "runServer() ends a tunnel of a Unix socket that a target has reset",
  async (net, path) => {
    using lines = logLines(2);
    net.agent(await serverAt(net, path));
    const { client, atTarget } = await tunnel(net, path);
    await sendText(atTarget, "partial");
    await assertReads(client, "partial");
    atTarget.abort();
    // A Unix socket has no resets.
    assertEquals(await soon("the client's end", readText(client)), "");
    await lineWith(lines, ' server "tunnel ended"');
  },
  BOTH,
);

unixTest("runServer() ends a tunnel whose client on a Unix socket has gone", async (net, path) => {
  using lines = logLines(2);
  net.agent(await serverAt(net, path));
  const { client, atTarget } = await tunnel(net, path);
  client.abort();
  net.flood(atTarget);
  await soon("the target's end", readUntilOver(atTarget));
  assertMatch(await lineWith(lines, ' server "tunnel ended"'), /by=client reason=reset/);
}, BOTH);

unixTest(
  "runServer() refuses clients of a Unix socket beyond --max-connections",
  async (net, path) => {
    using lines = logLines(0);
    const server = await serverAt(net, path, { maxConnections: 1 });
    net.agent(server);
    const target = net.greeter();
    const first = await connect(net, path);
    await sendText(first, requestFor(target.authority));
    await assertReads(first, `${OK}here`);
    const further = await connect(net, path);
    assertMatch(await readText(further), /^HTTP\/1\.1 503 1 clients are already connected\r\n/);
    assertMatch(linesWith(lines, "clients refused")[0]!, / times=1 front=unix/);
  },
  BOTH,
);

unixTest(
  "runServer() serves TCP beside a Unix socket, but only if it is told to",
  async (net, path) => {
    const both = await net.server({ udsName: path });
    net.agent(both);
    const target = net.greeter();
    for (const client of [await net.client(both), await connect(net, path)]) {
      await sendText(client, requestFor(target.authority));
      await assertReads(client, `${OK}here`);
    }
  },
  BOTH,
);

unixTest(
  "runServer() warns of an upstream that may not speak CONNECT, unless --mode says what it does",
  async (net, path) => {
    using lines = logLines(0);
    const upstream = net.target();
    for (const mode of [undefined, "raw", "http-connect"] as const) {
      const server = await serverAt(net, path, { mode });
      const agent = net.passthrough(server, upstream.port);
      await lineWith(lines, '"hello from agent"');
      await agent.stop();
      await server.stop();
      const warned = linesWith(lines, '"passthrough agent behind a front for CONNECT"').length;
      assertEquals(warned, mode === undefined ? 1 : 0);
      lines.length = 0;
    }
  },
  ["qrht/1"],
);

unixTest(
  "runServer() removes its socket when it stops, and drains its clients",
  async (net, path) => {
    using _ = logLines(0);
    const server = await serverAt(net, path, { drainTimeoutMs: 20_000 });
    net.agent(server);
    const { client, atTarget } = await tunnel(net, path);
    server.abort();
    const late = await connect(net, path);
    await sendText(late, requestFor(net.greeter().authority));
    assertEquals(await readUntilOver(late), `${OK}here`);
    late.abort();
    await sendText(client, "still here");
    await client.closeWrite();
    assertEquals(await readText(atTarget), "still here");
    await atTarget.closeWrite();
    await soon("its stop", server.done);
    await assertMissing(path);
  },
  BOTH,
);

const assertMissing = (path: string) => assertRejects(() => Deno.lstat(path), Deno.errors.NotFound);

unixTest(
  "runServer() does not start where another one listens, or where no socket is",
  async (net, path) => {
    const server = await serverAt(net, path);
    for (
      const [name, problem] of [[path, "another program listens"], ["/", "the file is no socket"]]
    ) {
      const error = await assertRejects(() => serverAt(net, name!), UsageError);
      assert(error.message.startsWith(`cannot listen on --uds-name ${name}: ${problem}`));
    }
    await server.stop();
  },
  BOTH,
);

Deno.test({
  name: "proxy-server serves clients of a Unix socket, and replaces its file after a kill",
  ignore: Deno.build.os === "windows",
  fn: async () => {
    await using site = await Site.start();
    const path = `${site.dir}/clients.sock`;
    const flags = { "uds-name": path, "uds-mode": "0600" };
    const first = await site.server(flags);
    const [, mode] = await first.program.line(
      /unix listener on \S+" front=unix address=\S+ access=(\d+) /,
    );
    assertEquals(mode, "0600");
    first.program.kill("SIGKILL");
    await first.program.status;
    assert((await Deno.lstat(path)).isSocket);
    const second = await site.server(flags);
    // What kube-apiserver sends. It refuses a head that has bytes behind it.
    const request = `CONNECT ${site.origin} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n`;
    await using early = unixDuplex(await Deno.connect({ transport: "unix", path }));
    await sendText(early, request);
    assertMatch(await readText(early), /^HTTP\/1\.1 503 no agent is connected\r\n/);
    await site.agent(second.quic);
    await using client = unixDuplex(await Deno.connect({ transport: "unix", path }));
    await sendText(client, request);
    const head = new Uint8Array(1_000);
    assertEquals(new TextDecoder().decode(head.subarray(0, (await client.read(head))!)), OK);
    await sendText(client, `GET /bytes/5 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`);
    assertMatch(await readText(client), /^HTTP\/1\.1 200 /);
    client.abort();
    assertEquals((await second.program.end("SIGTERM", 10_000)).code, 0);
    await assertMissing(path);
  },
});
