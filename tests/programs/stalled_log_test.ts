// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Whoever reads a program's stderr stops reading, for a while or for good. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { makeCerts } from "../../certs/make.ts";
import { deadline } from "@std/async/deadline";
import { flagArguments } from "../../tools/project_program.ts";
import { anyPort, programArguments, serverFlags } from "../support/processes.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";

/** The stderr of a process, read only when asked to. */
class LazyReader {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #decoder = new TextDecoder();
  text = "";

  constructor(stream: ReadableStream<Uint8Array>) {
    this.#reader = stream.getReader();
  }

  /** Gives up what is left. */
  async close(): Promise<void> {
    await this.#reader.cancel();
  }

  /** Reads until the text matches. */
  async until(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const match = pattern.exec(this.text);
      if (match) return match;
      const { value, done } = await this.#reader.read();
      if (done) throw new Error(`ended before ${pattern}:\n${this.text.slice(-2_000)}`);
      this.text += this.#decoder.decode(value, { stream: true });
    }
  }
}

/** Connects clients one after another, each to the end of its connection. */
async function sendClients(port: number, count: number): Promise<void> {
  const buffer = new Uint8Array(4096);
  for (let i = 0; i < count; i++) {
    try {
      using client = await Deno.connect({ hostname: "127.0.0.1", port });
      while (await client.read(buffer) !== null);
    } catch {
      // It was reset.
    }
  }
}

Deno.test("a stalled reader of stderr stops neither the program nor its end, and learns what it missed", async () => {
  await using folder = await temporaryFolder();
  await makeCerts(folder.path);
  const process = new Deno.Command(Deno.execPath(), {
    args: programArguments("server", {
      ...anyPort,
      ...serverFlags(folder.path),
      "listen-admin": "127.0.0.1:0",
      "agent-wait": "0s",
      "log-format": "json",
      name: "n".repeat(40),
      v: 2,
    }),
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  const log = new LazyReader(process.stderr);
  try {
    const [, admin] = await log.until(/admin listener.*"address":"([^"]+)"/);
    const [, port] = await log.until(/tcp listener.*"address":"127\.0\.0\.1:(\d+)"/);
    const get = async (path: string) => {
      const response = await fetch(`http://${admin}${path}`, {
        signal: AbortSignal.timeout(5_000),
      });
      return [response.status, await response.text()] as const;
    };
    const dropped = async () => {
      const [, text] = await get("/metrics");
      const [, value] = /^quic_tunnel_server_log_dropped_lines_total (\d+)$/m.exec(text)!;
      return Number(value);
    };
    assertEquals(await dropped(), 0);
    const clients = 4_000;
    await sendClients(Number(port), clients);
    assertEquals((await get("/livez"))[0], 200);
    const missed = await dropped();
    assert(missed > 0, "nothing had to be dropped");
    process.kill("SIGHUP");

    const [, lines] = await log.until(/"log lines dropped","lines":(\d+)/);
    const count = (message: string) => log.text.split(`"message":"${message}"`).length - 1;
    const seen = count("accepted tcp connection") + count("client refused");
    assert(Math.abs(seen + Number(lines) - 2 * clients) <= 4, `${seen} seen, ${lines} dropped`);

    // The end, while nobody reads.
    await sendClients(Number(port), 1_000);
    const since = performance.now();
    process.kill("SIGTERM");
    assertEquals((await process.status).code, 0);
    assert(performance.now() - since < 10_000);
    assertMatch(log.text, /"message":"quic listener on/);
  } finally {
    try {
      process.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await log.close();
    await process.status;
  }
});

/** Starts a server whose stdout is full, and read by nobody. */
function startAtFullPipe(args: readonly string[]): Deno.ChildProcess {
  return new Deno.Command("sh", {
    args: [
      "-c",
      'head -c 65536 /dev/zero && exec "$@"',
      "sh",
      Deno.execPath(),
      ...programArguments("server"),
      ...args,
    ],
    stdin: "null",
    stdout: "piped",
    stderr: "null",
  }).spawn();
}

Deno.test({
  name: "--check ends with its result, although nobody reads its report",
  ignore: Deno.build.os !== "linux",
  async fn() {
    await using folder = await temporaryFolder();
    await makeCerts(folder.path);
    for (const [ca, code] of [["ca", 0], ["gone", 1]] as const) {
      const flags = flagArguments({ ...anyPort, ...serverFlags(folder.path, "server", ca) });
      const process = startAtFullPipe(["--check", ...flags]);
      const { code: ended } = await deadline(process.status, 10_000);
      await process.stdout.cancel();
      assertEquals(ended, code);
    }
  },
});

Deno.test({
  name: "a signal ends --help, although nobody reads it",
  ignore: Deno.build.os !== "linux",
  async fn() {
    const process = startAtFullPipe(["--help"]);
    // A signal that comes before the program listens to it ends it as well.
    const timer = setInterval(() => process.kill("SIGTERM"), 500);
    try {
      const { success } = await deadline(process.status, 10_000);
      assertEquals(success, false);
    } finally {
      clearInterval(timer);
      await process.stdout.cancel();
    }
  },
});

Deno.test("everything that a program logs until its end is written", async () => {
  await using folder = await temporaryFolder();
  await makeCerts(folder.path);
  const flags = { ...anyPort, ...serverFlags(folder.path) };
  const process = new Deno.Command(Deno.execPath(), {
    args: programArguments("server", flags),
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  const log = new LazyReader(process.stderr);
  await log.until(/waiting for new quic client session/);
  process.kill("SIGTERM");
  await log.until(/"server stopped"\n$/);
  assertEquals((await process.status).code, 0);
  await log.close();
});
