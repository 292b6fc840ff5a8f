// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Holds the code to docs/protocol.md: its test vectors, however they are cut, and its tables. */
import { CloseCode, StreamCode } from "../../lib/qrht/codes.ts";
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { Buffer } from "node:buffer";
import { QRHT_ALPN, RAW_ALPN } from "../../lib/qrht/dialect.ts";
import { formatSocketAddress } from "../../lib/net/authority.ts";
import { type SocketAddress, socketAddress } from "../../lib/net/ip_address.ts";
import { Control } from "../../lib/qrht/control.ts";
import { encodeFrame, FrameParser, FrameType, ProtocolError } from "../../lib/qrht/frame.ts";
import {
  decodeArrived,
  decodeDrain,
  decodeHello,
  decodeOpen,
  decodePing,
  decodePong,
  decodeResult,
  encodeArrived,
  encodeDrain,
  encodeHello,
  encodeOpen,
  encodePing,
  encodePong,
  encodeResult,
  type Hello,
  type Open,
  type Result,
  resultNumbers,
} from "../../lib/qrht/messages.ts";
import { TunnelStream } from "../../lib/qrht/tunnel_stream.ts";
import { eventually } from "../support/eventually.ts";
import { cut, ScriptedCarrier } from "../support/memory_carrier.ts";

interface OpenText {
  readonly tunnelId: string;
  readonly client?: string;
  readonly listener?: string;
}

/** One frame, as a vector has it. */
type Frame =
  | { readonly open: OpenText }
  | { readonly result: Result }
  | { readonly hello: Hello }
  | { readonly data: string }
  | { readonly end: true }
  | { readonly drain: true }
  | { readonly arrived: number }
  | { readonly ping: true }
  | { readonly pong: number };

interface Vector {
  readonly name: string;
  readonly stream: "server" | "agent" | "control";
  readonly hex: string;
  /** Whether these frames are written as these bytes. @default {true} */
  readonly canonical?: boolean;
  readonly frames?: readonly Frame[];
  readonly error?: string;
}

/** What reading comes to: frames, as far as they go, and what was wrong then. */
interface Outcome {
  readonly frames: readonly Frame[];
  readonly error?: string;
  /** Whether the reader has taken the stream for ended before all of it was read. */
  readonly hasUnread?: boolean;
}

const root = new URL("../../", import.meta.url);
const read = (path: string) => Deno.readTextFileSync(new URL(path, root));

const firstFrame = {
  server: FrameType.Open,
  agent: FrameType.Result,
  control: FrameType.Hello,
} as const;

function test(name: string, fn: () => void | Promise<void>): void {
  Deno.test({ name, permissions: { read: [root] }, fn });
}

/** The text below a heading, up to the next one of any level. */
function section(heading: string): string {
  const lines = read("docs/protocol.md").split("\n");
  const start = lines.indexOf(heading);
  assert(start >= 0, `docs/protocol.md has no ${heading}`);
  const length = lines.slice(start + 1).findIndex((line) => /^#+ /.test(line));
  return lines.slice(start + 1, length < 0 ? undefined : start + 1 + length).join("\n");
}

function vectors(): readonly Vector[] {
  const json = /^```json\n([\s\S]*?)^```$/m.exec(section("## Test vectors"))?.[1];
  return JSON.parse(json ?? "[]");
}

/** The cells of the table whose header begins with these words, without the header and without back-ticks. */
function table(heading: string, ...columns: string[]): string[][] {
  const rows = section(heading).split("\n")
    .map((line) => line.split("|").slice(1, -1).map((cell) => cell.trim().replaceAll("`", "")));
  const header = rows.findIndex((cells) => columns.every((column, i) => cells[i] === column));
  assert(header >= 0, `no table | ${columns.join(" | ")} | below ${heading}`);
  const end = rows.findIndex((cells, i) => i > header && cells.length === 0);
  return rows.slice(header + 2, end < 0 ? undefined : end);
}

function fromHex(digits: string): Uint8Array {
  return new Uint8Array(Buffer.from(digits.replaceAll(" ", ""), "hex"));
}

function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

function addressOf(text: string): SocketAddress {
  const [, hostname, port] = /^\[?(.*?)\]?:(\d+)$/.exec(text)!;
  return socketAddress(hostname!, Number(port))!;
}

function openText({ tunnelId, client, listener }: Open): OpenText {
  return {
    tunnelId: tunnelId.toHex(),
    ...(client && { client: formatSocketAddress(client) }),
    ...(listener && { listener: formatSocketAddress(listener) }),
  };
}

function encode(frame: Frame): Uint8Array {
  if ("open" in frame) {
    const { tunnelId, client, listener } = frame.open;
    const open = {
      tunnelId: fromHex(tunnelId),
      ...(client && { client: addressOf(client) }),
      ...(listener && { listener: addressOf(listener) }),
    };
    return encodeFrame(FrameType.Open, encodeOpen(open));
  }
  if ("result" in frame) return encodeFrame(FrameType.Result, encodeResult(frame.result));
  if ("hello" in frame) return encodeFrame(FrameType.Hello, encodeHello(frame.hello));
  if ("arrived" in frame) return encodeFrame(FrameType.Arrived, encodeArrived(frame.arrived));
  if ("ping" in frame) return encodeFrame(FrameType.Ping, encodePing());
  if ("pong" in frame) return encodeFrame(FrameType.Pong, encodePong(frame.pong));
  if ("drain" in frame) return encodeFrame(FrameType.Drain, encodeDrain());
  if ("data" in frame) return encodeFrame(FrameType.Data, fromHex(frame.data));
  return encodeFrame(FrameType.End, new Uint8Array(0));
}

function decode(type: number, payload: Uint8Array): Frame {
  switch (type) {
    case FrameType.Open:
      return { open: openText(decodeOpen(payload)) };
    case FrameType.Result:
      return { result: decodeResult(payload) };
    case FrameType.Hello:
      return { hello: decodeHello(payload) };
    case FrameType.Drain:
      return (decodeDrain(payload), { drain: true });
    case FrameType.Arrived:
      return { arrived: decodeArrived(payload) };
    case FrameType.Ping:
      return (decodePing(payload), { ping: true });
    case FrameType.Pong:
      return { pong: decodePong(payload) };
    default:
      assertEquals([type, payload.length], [FrameType.End, 0]);
      return { end: true };
  }
}

/** What the parser alone makes of the bytes in one piece. */
function parse({ stream, hex }: Vector): Frame[] {
  const parser = new FrameParser(firstFrame[stream]);
  const bytes = fromHex(hex);
  const frames: Frame[] = [];
  for (let at = 0; at < bytes.length;) {
    const { event, taken } = parser.next(bytes.subarray(at));
    at += taken;
    if (event?.kind === "data") frames.push({ data: toHex(event.bytes) });
    else if (event) frames.push(decode(event.type, event.payload));
  }
  return frames;
}

/** What the end of a tunnel makes of chunks, one in each of its reads. */
async function readTunnel(stream: "server" | "agent", chunks: Uint8Array[]): Promise<Outcome> {
  const carrier = new ScriptedCarrier(chunks);
  const tunnel = new TunnelStream(carrier, firstFrame[stream]);
  const frames: Frame[] = [];
  const readAll = async () => {
    const first = await tunnel.receiveFirst();
    frames.push(tunnel.parseOrReset(() => decode(firstFrame[stream], first!)));
    const buffer = new Uint8Array(100);
    for (let n; (n = await tunnel.read(buffer)) !== null;) {
      frames.push({ data: toHex(buffer.subarray(0, n)) });
    }
    frames.push({ end: true });
  };
  try {
    await Promise.race([readAll(), carrier.drained]);
  } catch (error) {
    assert(error instanceof ProtocolError, `${error}`);
    assertEquals(carrier.codes, [StreamCode.ProtocolError, StreamCode.ProtocolError]);
    return { frames, error: error.message };
  }
  assertEquals(carrier.codes, [undefined, undefined]);
  const { hasUnread } = carrier;
  carrier.abort();
  return { frames, hasUnread };
}

/** What a control stream comes to that gives these chunks. */
async function readControl(chunks: Uint8Array[]): Promise<Outcome> {
  const carrier = new ScriptedCarrier(chunks);
  const frames: Frame[] = [];
  const closed = Promise.withResolvers<[code: number, reason: string]>();
  const violated = Promise.withResolvers<ProtocolError>();
  const accepted = [carrier];
  new Control(
    {
      openUniStream: () => ({
        write(bytes) {
          if (bytes[0] === FrameType.Pong) frames.push({ ping: true });
          return Promise.resolve(bytes.length);
        },
      }),
      acceptUniStream() {
        const next = accepted.shift();
        return next ? Promise.resolve(next) : Promise.reject(new Error("no other streams"));
      },
      close: (code, reason) => closed.resolve([code, reason]),
      path: {
        largestReceived: 0,
        onLargerReceived: undefined,
        allowProbes: () => {},
        confirmed: (arrived) => void frames.push({ arrived }),
      },
      streamCount: 0,
      heartbeat: { start: () => {}, answered: (pong) => void frames.push({ pong }) },
    },
    {},
    {
      hello: (hello) => void frames.push({ hello }),
      drain: () => void frames.push({ drain: true }),
      violated: (error) => violated.resolve(error),
    },
  );
  const error = await Promise.race([violated.promise, carrier.drained]);
  if (!error) {
    // What is answered is sent a little later.
    await new Promise((resolve) => setTimeout(resolve, 0));
    return { frames };
  }
  assertEquals(await closed.promise, [CloseCode.ProtocolError, error.message]);
  return { frames, error: error.message };
}

function readStream(stream: Vector["stream"], chunks: Uint8Array[]): Promise<Outcome> {
  return stream === "control" ? readControl(chunks) : readTunnel(stream, chunks);
}

/** Puts neighbouring data together: where it is cut is the reader's affair. */
function joined(frames: readonly Frame[]): Frame[] {
  const all: Frame[] = [];
  for (const frame of frames) {
    const last = all.at(-1);
    if ("data" in frame && last && "data" in last) {
      all[all.length - 1] = { data: last.data + frame.data };
    } else all.push(frame);
  }
  return all;
}

/** Bytes in one piece, in each two, and each on its own. */
function* cuts(bytes: Uint8Array): Generator<[how: string, chunks: Uint8Array[]]> {
  yield ["in one piece", [bytes.slice()]];
  for (let at = 1; at < bytes.length; at++) yield [`cut at ${at}`, cut(bytes, [at])];
  yield ["byte by byte", cut(bytes, Array(bytes.length).fill(1))];
}

test("the vectors of docs/protocol.md are complete and have names of their own", () => {
  const all = vectors();
  const names = all.map(({ name }) => name);
  assert(names.length > 0);
  assertEquals(names.length, new Set(names).size);
  for (const vector of all) {
    const { name, stream, hex, frames, error } = vector;
    assert(stream in firstFrame, name);
    assert(/^(?:[0-9a-f]{2}|\s)+$/.test(hex), name);
    assert((frames === undefined) !== (error === undefined), name);
    const known = ["name", "stream", "hex", "canonical", "frames", "error"];
    assertEquals(Object.keys(vector).filter((key) => !known.includes(key)), [], name);
  }
  // Each type of frame is in one of them, and each stream has something that is wrong with it.
  const kinds = all.flatMap(({ frames }) => frames ?? []).flatMap((frame) => Object.keys(frame));
  const distinct = (values: string[]) => [...new Set(values)].sort().join(" ");
  assertEquals(distinct(kinds), "arrived data drain end hello open ping pong result");
  const wrong = all.filter(({ error }) => error).map(({ stream }) => stream);
  assertEquals(distinct(wrong), "agent control server");
});

for (const vector of vectors()) {
  const { name, stream, hex, frames, error, canonical } = vector;

  test(`the vector "${name}" is read the same however it is cut`, async () => {
    if (frames) assertEquals(parse(vector), [...frames]);
    for (const [how, chunks] of cuts(fromHex(hex))) {
      const outcome = await readStream(stream, chunks);
      if (outcome.hasUnread) {
        // A receiver takes END for the end, and need not look whether anything comes behind it later.
        assertEquals(error, "after END", how);
        assertEquals(outcome.frames.at(-1), { end: true }, how);
      } else if (error === undefined) {
        assertEquals(outcome.error, undefined, how);
        assertEquals(joined(outcome.frames), joined(frames!), how);
      } else {
        assertStringIncludes(outcome.error ?? "nothing wrong", error, how);
      }
    }
  });

  if (!frames) continue;
  const isCanonical = canonical !== false;
  test(`the vector "${name}" is ${isCanonical ? "" : "not "}what its frames are written as`, () => {
    const written = frames.map((frame) => toHex(encode(frame))).join("");
    assertEquals(written === hex.replaceAll(" ", ""), isCanonical, written);
    // What is written is read as the same frames.
    assertEquals(parse({ ...vector, hex: written }), [...frames]);
  });
}

test("FrameType has the frames of the document's table, and those first that it calls first", () => {
  const rows = table("## Frames", "type", "frame", "stream", "from", "payload");
  assertEquals(
    rows.map(([type, frame]) => [frame, Number(type)]),
    Object.entries(FrameType).map(([name, type]) => [name.toUpperCase(), type]),
  );
  const first = rows.filter(([, , stream]) => stream!.endsWith(", first"));
  assertEquals(first.map(([type]) => Number(type)), Object.values<number>(firstFrame));
});

test("resultNumbers has the codes of the document's table", () => {
  const rows = table("### RESULT", "code", "name", "the agent");
  assertEquals(
    rows.map(([code, name]) => [name, Number(code)]),
    [...resultNumbers],
  );
});

test("Control names the features of the document's table", async () => {
  const carrier = new ScriptedCarrier([]);
  new Control(
    {
      openUniStream: () => carrier,
      acceptUniStream: () => Promise.reject(new Error("closed")),
      close: () => {},
      streamCount: 0,
      path: {
        largestReceived: 0,
        onLargerReceived: undefined,
        allowProbes: () => {},
        confirmed: () => {},
      },
    },
    { program: "p" },
    { hello: () => {}, drain: () => {}, violated: () => {} },
  );
  await eventually("HELLO was sent", () => carrier.written.length > 0);
  const written = toHex(Uint8Array.from(carrier.written));
  const [hello] = parse({ name: "", stream: "control", hex: written });
  const features = table("### HELLO", "feature", "an end that lists it").map(([feature]) =>
    feature!
  );
  assertEquals(hello, { hello: { program: "p", features } });
});

test("the codes of streams and connections are those of the document's tables", () => {
  for (const [what, codes] of [["stream", StreamCode], ["connection", CloseCode]] as const) {
    const rows = table("## Errors", `code of a ${what}`, "meaning");
    assertEquals(rows.map(([code]) => Number(code)), Object.values<number>(codes));
  }
});

test("the ALPN names are those of the document's table", () => {
  const rows = table("# Protocol between server and agents", "ALPN name", "dialect");
  assertEquals(rows.map(([name]) => name), [QRHT_ALPN, RAW_ALPN, "any other"]);
});
