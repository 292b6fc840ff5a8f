// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** An agent in a network whose firewall drops UDP, then does not, then does again. Needs root. */
import { assert, assertEquals } from "@std/assert";
import { fileURLToPath } from "node:url";
import { makeCerts } from "../../certs/make.ts";
import { type Duplex, writeAll } from "../../lib/tunnel/duplex.ts";
import { unixDuplex } from "../../lib/tunnel/unix_duplex.ts";
import { sleep } from "../../lib/wait.ts";
import { readToEnd } from "../support/memory_duplex.ts";
import { assertReads, OK, requestFor, sendText } from "../support/network.ts";
import { patternBytes, patternStream, sha256 } from "../support/pattern.ts";
import { agentFlags, ChildProgram, programArguments, serverFlags } from "../support/processes.ts";
import { runCommand } from "../support/system_command.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";

const QUIC = "127.0.0.1:8888";

/** A network namespace with a server, an origin, and later an agent. Clients come by a Unix socket. */
class BlockedNetwork implements AsyncDisposable {
  readonly #name = `qrht${Deno.pid}`;
  readonly #stack = new AsyncDisposableStack();
  dir = "";
  origin = "";

  static async create(): Promise<BlockedNetwork> {
    const net = new BlockedNetwork();
    await net.#run("ip", "netns", "add", net.#name);
    net.#stack.defer(() => net.#run("ip", "netns", "delete", net.#name));
    try {
      await net.#inside("ip", "link", "set", "lo", "up");
      net.dir = net.#stack.use(await temporaryFolder()).path;
      await makeCerts(net.dir);
      const script = fileURLToPath(new URL("../support/origin.ts", import.meta.url));
      const origin = net.start(["run", "--no-prompt", "--allow-net=127.0.0.1", script]);
      const [, port] = await origin.line(/^origin on port (\d+)$/);
      net.origin = `127.0.0.1:${port}`;
      const server = net.start(programArguments("server", {
        "listen-quic": QUIC,
        "listen-fallback": QUIC,
        "uds-name": net.#socket,
        "agent-wait": "20s",
        ...serverFlags(net.dir),
      }));
      await server.line(/fallback listener on/);
      return net;
    } catch (error) {
      await net[Symbol.asyncDispose]();
      throw error;
    }
  }

  get #socket(): string {
    return `${this.dir}/clients.sock`;
  }

  /** Starts Deno in the namespace. */
  start(args: readonly string[]): ChildProgram {
    const command = ["netns", "exec", this.#name, Deno.execPath(), ...args];
    return this.#stack.use(new ChildProgram("ip", command, { name: args.at(-1)! }));
  }

  agent(): ChildProgram {
    return this.start(programArguments("agent", { server: QUIC, ...agentFlags(this.dir) }));
  }

  /** Has the firewall drop UDP from now on, or not any more. */
  async block(isBlocked: boolean): Promise<void> {
    await this.#inside("iptables", isBlocked ? "-A" : "-D", "INPUT", "-p", "udp", "-j", "DROP");
  }

  /** A tunnel to the origin. */
  async tunnel(): Promise<Duplex> {
    const client = unixDuplex(await Deno.connect({ transport: "unix", path: this.#socket }));
    await sendText(client, requestFor(this.origin));
    await assertReads(client, OK);
    return client;
  }

  #inside(...command: string[]): Promise<void> {
    return this.#run("ip", "netns", "exec", this.#name, ...command);
  }

  async #run(command: string, ...args: string[]): Promise<void> {
    const { code, stderr } = await runCommand(command, args);
    assertEquals(code, 0, `${command} ${args.join(" ")}: ${stderr}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

const SIZE = 40_000_000;
/** Of a piece, while a transfer is to last. */
const PAUSE_MS = 100;

/** A download and an upload that last until they are told to hurry. */
class Transfers {
  readonly done: Promise<[string, string]>;
  #isHurried = false;

  constructor(net: BlockedNetwork) {
    this.done = Promise.all([this.#download(net), this.#upload(net)]);
    this.done.catch(() => {});
  }

  hurry(): void {
    this.#isHurried = true;
  }

  async #pause(): Promise<void> {
    if (!this.#isHurried) await sleep(PAUSE_MS);
  }

  /** @returns the SHA-256 of what has come */
  async #download(net: BlockedNetwork): Promise<string> {
    await using client = await net.tunnel();
    await sendText(client, `GET /bytes/${SIZE} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`);
    let head = "";
    const one = new Uint8Array(1);
    while (!head.endsWith("\r\n\r\n")) {
      assert(await client.read(one));
      head += String.fromCharCode(one[0]!);
    }
    const pause = () => this.#pause();
    const body = async function* () {
      const buffer = new Uint8Array(128 << 10);
      for (let n; (n = await client.read(buffer)) !== null;) {
        yield buffer.slice(0, n);
        await pause();
      }
    };
    return await sha256(body());
  }

  /** @returns the SHA-256 of what has arrived */
  async #upload(net: BlockedNetwork): Promise<string> {
    await using client = await net.tunnel();
    const head =
      `POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: ${SIZE}\r\n\r\n`;
    await sendText(client, head);
    for (let sent = 0; sent < SIZE;) {
      const bytes = patternBytes(sent, Math.min(128 << 10, SIZE - sent));
      await writeAll(client, bytes);
      sent += bytes.length;
      await this.#pause();
    }
    const answer = new TextDecoder().decode(await readToEnd(client));
    return answer.trim().split("\n").at(-1)!;
  }
}

Deno.test("an agent follows what a firewall does to UDP, and no byte is lost", async () => {
  const digest = await sha256(patternStream(SIZE));
  await using net = await BlockedNetwork.create();
  await net.block(true);
  const since = performance.now();
  const agent = net.agent();
  await (await net.tunnel())[Symbol.asyncDispose]();
  const startedMs = performance.now() - since;
  assert(startedMs < 3_000, `${startedMs} ms`);
  await agent.line(/"transport changed" server=\S+ from=udp to=tcp reason="UDP is silent"/);

  const overTcp = new Transfers(net);
  await net.block(false);
  // 15 s until UDP is tried, and 5 s in which it has to last.
  await agent.line(/"transport changed" server=\S+ from=tcp to=udp/, 30_000);
  const overUdp = new Transfers(net);
  overTcp.hurry();
  assertEquals(await overTcp.done, [digest, digest]);

  await net.block(true);
  // It is noticed after 5 s, and what was under way is lost: nobody takes it for complete.
  const isComplete = overUdp.done.then((digests) => digests.includes(digest), () => false);
  assertEquals(await isComplete, false);
  const again = new Transfers(net);
  again.hurry();
  assertEquals(await again.done, [digest, digest]);
  const changes = agent.lines.flatMap((line) =>
    /"transport changed" server=\S+ (from=\S+ to=\S+)/.exec(line)?.[1] ?? []
  );
  assertEquals(changes, ["from=udp to=tcp", "from=tcp to=udp", "from=udp to=tcp"]);
});
