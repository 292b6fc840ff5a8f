// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Both ways to listen for TLS: with and without something ahead of it. */
import { assertEquals, assertLess, assertRejects } from "@std/assert";
import { libc, nextDescriptor } from "../../lib/net/libc.ts";
import { listenTls, type TlsIncoming } from "../../lib/tls/tls_listener.ts";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { eventually } from "../support/eventually.ts";
import { readToEnd } from "../support/memory_duplex.ts";
import { loopback, soon, text, utf8 } from "../support/network.ts";
import { TestCa } from "../support/tls.ts";

const ca = await TestCa.create();
const first = await ca.server({ dnsNames: ["localhost"] });

const noBytes = () => {};

/** A listener, whose certificates can be replaced, and clients of it. */
class Scene implements Disposable {
  identity = first;
  readonly listener;

  constructor(hasHeaders: boolean, hostname = "127.0.0.1") {
    const identity = () => this.identity;
    this.listener = listenTls({ hostname, port: 0, tcpBacklog: 128, identity }, hasHeaders);
  }

  get port(): number {
    return this.listener.addr.port;
  }

  connect(of = ca): Promise<Deno.TlsConn> {
    const caCerts = [text.decode(of.pem)];
    return Deno.connectTls({ hostname: "localhost", port: this.port, caCerts });
  }

  /** Both ends, with TLS. */
  async pair() {
    const [client, incoming] = await Promise.all([this.connect(), this.listener.accept()]);
    const [carrier] = await Promise.all([
      incoming.secure(incoming.raw, noBytes),
      client.handshake(),
    ]);
    return { client, incoming, carrier };
  }

  [Symbol.dispose](): void {
    this.listener[Symbol.dispose]();
  }
}

/** Aborts a connection whose handshake does not come, and one whose client does not read. */
async function abortBoth(scene: Scene): Promise<void> {
  const silent = await Deno.connect(loopback(scene.port));
  const incoming = await scene.listener.accept();
  const handshake = assertRejects(() => incoming.secure(incoming.raw, noBytes));
  incoming.raw.abort();
  await handshake;
  await assertRejects(
    async () => await silent.read(new Uint8Array(1)),
    Deno.errors.ConnectionReset,
  );
  silent.close();

  const { client, carrier } = await scene.pair();
  const bytes = new Uint8Array(64 << 10);
  let written = 0;
  const writing = (async () => {
    for (;;) written += await carrier.write(bytes);
  })().catch(() => {});
  await eventually("nothing more is taken", async () => {
    const before = written;
    await new Promise((resolve) => setTimeout(resolve, 100));
    return written > 0 && written === before;
  });
  carrier.abort();
  await soon("the write's end", writing);
  client.close();
}

for (const hasHeaders of [true, false]) {
  const name = `listenTls() ${hasHeaders ? "with" : "without"} headers`;

  Deno.test(`${name} carries bytes both ways, and half-closes`, async () => {
    using scene = new Scene(hasHeaders);
    const { client, incoming, carrier } = await scene.pair();
    assertEquals(incoming.remote.port, (client.localAddr as Deno.NetAddr).port);
    await writeAll(client, utf8.encode("request"));
    await client.closeWrite();
    assertEquals(text.decode(await soon("the request", readToEnd(carrier))), "request");
    await writeAll(carrier, utf8.encode("answer"));
    await carrier.closeWrite();
    assertEquals(text.decode(await soon("the answer", readToEnd(client))), "answer");
    await carrier[Symbol.asyncDispose]();
    client.close();
  });

  Deno.test({
    name: `${name} sends small writes at once`,
    ignore: libc === undefined,
    async fn() {
      using scene = new Scene(hasHeaders);
      const { client, carrier } = await scene.pair();
      const since = performance.now();
      const [byte, buffer] = [Uint8Array.of(1), new Uint8Array(2)];
      for (let i = 0; i < 20; i++) {
        for (let j = 0; j < 2; j++) await carrier.write(byte);
        for (let got = 0; got < 2;) got += (await client.read(buffer))!;
      }
      // With Nagle's algorithm, each second one waits for 40 ms.
      assertLess(performance.now() - since, 400);
      carrier.abort();
      client.close();
    },
  });

  Deno.test(`${name} uses new certificates soon, and leaves connections alone`, async () => {
    const scene = new Scene(hasHeaders);
    const { client, carrier } = await scene.pair();
    const other = await TestCa.create("other");
    scene.identity = await other.server({ dnsNames: ["localhost"] });
    const accepted: TlsIncoming[] = [];
    const accepting = (async () => {
      for (;;) {
        const incoming = await scene.listener.accept();
        accepted.push(incoming);
        incoming.secure(incoming.raw, noBytes).catch(() => {});
      }
    })().catch(() => {});
    await eventually("the new one", async () => {
      const connection = await scene.connect(other);
      await connection.handshake().finally(() => connection.close());
      return true;
    });
    await writeAll(client, utf8.encode("still here"));
    assertEquals(await carrier.read(new Uint8Array(100)), 10);
    for (const { raw } of accepted) raw.abort();
    carrier.abort();
    client.close();
    scene[Symbol.dispose]();
    await accepting;
  });

  Deno.test(`${name} goes on waiting for a connection when certificates are new`, async () => {
    using scene = new Scene(hasHeaders);
    const accepting = scene.listener.accept();
    accepting.catch(() => {});
    const other = await TestCa.create("other");
    scene.identity = await other.server({ dnsNames: ["localhost"] });
    // Longer than it takes to see them.
    await Promise.race([accepting, new Promise((resolve) => setTimeout(resolve, 1_200))]);
    const [client, incoming] = await Promise.all([scene.connect(other), accepting]);
    await Promise.all([client.handshake(), incoming.secure(incoming.raw, noBytes)]);
    incoming.raw.abort();
    client.close();
  });

  Deno.test({
    name: `${name} frees what an aborted connection has, whatever it waits for`,
    ignore: libc === undefined,
    async fn() {
      using scene = new Scene(hasHeaders, "::");
      // The first time, the runtime opens more for itself.
      await abortBoth(scene);
      const before = nextDescriptor()!;
      for (let i = 0; i < 5; i++) await abortBoth(scene);
      await eventually("the descriptors are free", () => nextDescriptor()! <= before);
    },
  });
}
