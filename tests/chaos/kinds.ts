// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What clients do: one script for each kind of tunnel, which resolves when everything was right. */
import { type ClientTunnel, RefusedError } from "./client_tunnel.ts";
import type { Draws } from "./draws.ts";
import { Ask, encodeRequest, type Request, WrongBytesError } from "./wire.ts";

interface KindContext {
  readonly draws: Draws;
  /** How much tunnels carry and how long they pause, up to 1 for much and long. */
  readonly scale: number;
  /** Aborts when the load ends: long tunnels come to their end then. */
  readonly ending: AbortSignal;
}

/** Rejects with what has gone wrong. */
type Script = (tunnel: ClientTunnel, context: KindContext) => Promise<void>;

/** Where nobody listens: below the ports that systems give to clients. */
const CLOSED_TARGET = "127.0.0.1:1";

const KIB = 1 << 10;

type Asked = Parameters<ClientTunnel["request"]>[0];

async function ask(tunnel: ClientTunnel, asked: Asked): Promise<Request> {
  const request = tunnel.request(asked);
  await tunnel.wire.send(encodeRequest(request));
  return request;
}

/** Asks, uploads, and takes the reply. */
async function exchange(tunnel: ClientTunnel, asked: Asked): Promise<Request> {
  const request = await ask(tunnel, asked);
  await tunnel.wire.sendUpload(request);
  tunnel.allow(request.pauseMs);
  await tunnel.wire.receiveReply(request);
  return request;
}

/** Sends a part of a head of CONNECT. Returns the rest. */
async function sendHalfHead(tunnel: ClientTunnel, draws: Draws): Promise<Uint8Array> {
  await tunnel.dial();
  const head = tunnel.connectHead();
  const half = draws.integer(1, head.length - 1);
  await tunnel.wire.send(head.subarray(0, half));
  return head.subarray(half);
}

async function expectStatus(tunnel: ClientTunnel, status: number): Promise<void> {
  try {
    await tunnel.established();
  } catch (error) {
    if (!(error instanceof RefusedError) || error.status !== status) throw error;
    return await tunnel.wire.receiveEnd();
  }
  throw new WrongBytesError(`200 where ${status} was to come`);
}

/** A request and its reply, the client ends first. */
const request: Script = async (tunnel, { draws }) => {
  await tunnel.open();
  await exchange(tunnel, {
    uploadBytes: draws.integer(0, 2000),
    downloadBytes: draws.integer(0, 8000),
  });
  await tunnel.finish();
};

/** A request and its reply, the target ends first. */
const targetEnds: Script = async (tunnel, { draws, scale }) => {
  await tunnel.open();
  await exchange(tunnel, {
    asks: Ask.TargetEnds,
    uploadBytes: draws.integer(0, 2000),
    downloadBytes: draws.integer(0, 64 * KIB * scale),
  });
  await tunnel.wire.receiveEnd();
  await tunnel.wire.end();
};

/** The client has sent everything and ended its direction before the answer begins. */
const clientHalfCloses: Script = async (tunnel, { draws, scale }) => {
  await tunnel.open();
  const { wire } = tunnel;
  const request = await ask(tunnel, {
    asks: Ask.ClientEnds,
    uploadBytes: draws.integer(0, 100 * KIB * scale),
    downloadBytes: draws.integer(1, 256 * KIB * scale),
    pauseMs: draws.integer(0, 2000 * scale),
  });
  await wire.sendUpload(request);
  await wire.end();
  tunnel.allow(request.pauseMs);
  await wire.receiveReply(request);
  await wire.receiveEnd();
};

/** The target has answered and ended its direction, and the client goes on sending. */
const targetHalfCloses: Script = async (tunnel, { draws, scale }) => {
  await tunnel.open();
  const request = await exchange(tunnel, {
    asks: Ask.TargetEnds,
    downloadBytes: draws.integer(0, 64 * KIB * scale),
    tailBytes: draws.integer(1, 256 * KIB * scale),
  });
  await tunnel.wire.receiveEnd();
  await tunnel.pause(draws.integer(0, 2000 * scale));
  await tunnel.wire.sendTail(request);
  await tunnel.wire.end();
  await tunnel.received();
};

/** Much in both directions at the same time. */
const bulk: Script = async (tunnel, { draws }) => {
  await tunnel.open();
  const { wire } = tunnel;
  const request = await ask(tunnel, {
    asks: Ask.Duplex,
    uploadBytes: draws.integer(256 * KIB, 3072 * KIB),
    downloadBytes: draws.integer(256 * KIB, 3072 * KIB),
  });
  await Promise.all([wire.sendUpload(request), wire.receiveReply(request)]);
  await tunnel.finish();
};

/** A message now and then, for a long time. */
const chat: Script = async (tunnel, { draws, ending }) => {
  await tunnel.open();
  for (let left = draws.integer(3, 20); left > 0 && !ending.aborted; left--) {
    await exchange(tunnel, {
      uploadBytes: draws.integer(1, 1000),
      downloadBytes: draws.integer(1, 1000),
    });
    await tunnel.pause(draws.integer(200, 3000));
  }
  await tunnel.finish();
};

/** A client that reads slowly, and not at all for a while. */
const slowClient: Script = async (tunnel, { draws }) => {
  await tunnel.open();
  const request = await ask(tunnel, { downloadBytes: draws.integer(512 * KIB, 2048 * KIB) });
  const stopMs = draws.integer(1000, 4000);
  await tunnel.wire.receiveReply(request, { everyBytes: 128 * KIB, pauseMs: 150, stopMs });
  await tunnel.finish();
};

/** A target that reads slowly, and not at all for a while. */
const slowTarget: Script = async (tunnel, { draws }) => {
  await tunnel.open();
  const request = await ask(tunnel, {
    asks: Ask.ReadSlowly,
    uploadBytes: draws.integer(512 * KIB, 2048 * KIB),
    downloadBytes: 100,
    pauseMs: draws.integer(1000, 4000),
  });
  // Its last bytes may be under way for as long as the target takes for all of them.
  tunnel.allow(15_000);
  await tunnel.wire.sendUpload(request);
  tunnel.allow(15_000);
  await tunnel.wire.receiveReply(request);
  await tunnel.finish();
};

/** A client that resets in the middle of a reply. */
const clientResets: Script = async (tunnel, { draws, scale }) => {
  await tunnel.open(() => tunnel.dialResettable());
  await ask(tunnel, { downloadBytes: 1024 * KIB * scale });
  await tunnel.wire.receive(draws.integer(0, 256 * KIB * scale));
  tunnel.abort();
};

/** A client that closes its connection in the middle of a reply. */
const clientLeaves: Script = async (tunnel, { draws, scale }) => {
  await tunnel.open();
  await ask(tunnel, {
    downloadBytes: 1024 * KIB * scale,
    pauseMs: draws.integer(0, 500 * scale),
  });
  await tunnel.wire.receive(draws.integer(0, 256 * KIB * scale));
  tunnel.abort();
};

/** A request for a target where nobody listens. */
const refused: Script = async (tunnel) => {
  await tunnel.dial();
  await tunnel.wire.send(tunnel.connectHead(CLOSED_TARGET));
  await expectStatus(tunnel, 502);
};

/** Half of a head of CONNECT, and then the client is gone. */
const halfHeadLeft: Script = async (tunnel, { draws }) => {
  await sendHalfHead(tunnel, draws);
  await tunnel.pause(draws.integer(0, 500));
  tunnel.abort();
};

/** Half of a head of CONNECT, and the rest after a while. */
const halfHeadResumed: Script = async (tunnel, { draws }) => {
  const rest = await sendHalfHead(tunnel, draws);
  await tunnel.pause(draws.integer(10, 3000));
  await tunnel.wire.send(rest);
  await tunnel.established();
  await exchange(tunnel, { downloadBytes: draws.integer(0, 8000) });
  await tunnel.finish();
};

/** Half of a head of CONNECT, and nothing more. */
const halfHeadSilent: Script = async (tunnel, { draws }) => {
  await sendHalfHead(tunnel, draws);
  tunnel.allow(10_000);
  await expectStatus(tunnel, 408);
};

interface Kind {
  readonly run: Script;
  /** How many of a hundred or so are of it. */
  readonly weight: number;
  /** Whether it is about CONNECT itself. */
  readonly needsConnect?: boolean;
}

export const kinds = {
  "request": { run: request, weight: 30 },
  "target ends": { run: targetEnds, weight: 8 },
  "client half-closes": { run: clientHalfCloses, weight: 8 },
  "target half-closes": { run: targetHalfCloses, weight: 8 },
  "bulk": { run: bulk, weight: 6 },
  "chat": { run: chat, weight: 10 },
  "slow client": { run: slowClient, weight: 4 },
  "slow target": { run: slowTarget, weight: 4 },
  "client resets": { run: clientResets, weight: 6 },
  "client leaves": { run: clientLeaves, weight: 6 },
  "refused": { run: refused, weight: 4, needsConnect: true },
  "half a head, left": { run: halfHeadLeft, weight: 3, needsConnect: true },
  "half a head, resumed": { run: halfHeadResumed, weight: 3, needsConnect: true },
  "half a head, silent": { run: halfHeadSilent, weight: 2, needsConnect: true },
} satisfies Record<string, Kind>;

export type KindName = keyof typeof kinds;

/** Every kind as often as its weight, for a bag; without those about CONNECT where there is none. */
export function weightedKinds(hasConnect: boolean, names = Object.keys(kinds) as KindName[]) {
  return names.flatMap((name) => {
    const { weight, needsConnect = false }: Kind = kinds[name];
    return Array<KindName>(hasConnect || !needsConnect ? weight : 0).fill(name);
  });
}
