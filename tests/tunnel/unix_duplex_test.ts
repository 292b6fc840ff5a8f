// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertRejects } from "@std/assert";
import { NO_BYTES } from "../../lib/bytes.ts";
import { type Duplex, writeAll } from "../../lib/tunnel/duplex.ts";
import { unixDuplex } from "../../lib/tunnel/unix_duplex.ts";
import { pattern } from "../support/bytes.ts";
import { FakeTime } from "../support/fake_time.ts";
import { readExactly, readToEnd } from "../support/memory_duplex.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";

function test(name: string, fn: (a: Duplex, b: Duplex) => Promise<void>): void {
  Deno.test({
    name,
    ignore: Deno.build.os === "windows",
    fn: async () => {
      await using folder = await temporaryFolder();
      const path = `${folder.path}/s`;
      using listener = Deno.listen({ transport: "unix", path });
      const connecting = Deno.connect({ transport: "unix", path });
      const [a, b] = (await Promise.all([connecting, listener.accept()])).map(unixDuplex);
      await using _a = a!;
      await using _b = b!;
      await fn(a!, b!);
    },
  });
}

test("unixDuplex() ends each direction on its own", async (a, b) => {
  const bytes = pattern(1 << 20);
  for (const [from, to] of [[a, b], [b, a]] as const) {
    const sending = Promise.try(() => writeAll(from, bytes)).then(() => from.closeWrite());
    assertEquals(await readToEnd(to), bytes);
    await sending;
  }
});

test("unixDuplex().abort() is an end to the peer, behind what was written", async (a, b) => {
  await writeAll(a, pattern(1_000));
  a.abort();
  a.abort();
  assertEquals(await readToEnd(b), pattern(1_000));
  await assertRejects(async () => await writeAll(b, pattern(1)), Deno.errors.BrokenPipe);
});

test("unixDuplex().abort() resets a peer whose bytes were not read", async (a, b) => {
  await writeAll(b, pattern(10));
  await writeAll(a, pattern(1_000));
  await readExactly(a, 1);
  a.abort();
  assertEquals(await readExactly(b, 1_000), pattern(1_000));
  if (Deno.build.os !== "linux") return;
  await assertRejects(() => readToEnd(b), Deno.errors.ConnectionReset);
});

test("unixDuplex().abort() ends pending calls", async (a, b) => {
  const reading = assertRejects(async () => await a.read(new Uint8Array(1)));
  const writing = assertRejects(async () => await writeAll(a, pattern(16 << 20)));
  a.abort();
  await Promise.all([reading, writing]);
  await readToEnd(b);
});

test(
  "unixDuplex().isReset() tells a minute after the peer has closed, and not of its end alone",
  async (a, b) => {
    using time = new FakeTime();
    const isReset = async () => {
      b.isReset!();
      // Behind the write that it has begun.
      await Promise.try(() => b.write(NO_BYTES)).catch(() => {});
      return b.isReset!();
    };
    assertEquals(await isReset(), false);
    await a.closeWrite();
    assertEquals(await isReset(), false);
    await time.pass(300_000);
    assertEquals(await isReset(), false);
    a.abort();
    assertEquals(await isReset(), false);
    await time.pass(59_000);
    assertEquals(await isReset(), false);
    await time.pass(1_000);
    assertEquals(await isReset(), true);
    b.abort();
    assertEquals(b.isReset!(), false);
  },
);
