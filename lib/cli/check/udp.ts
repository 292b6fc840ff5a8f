// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Whether a QUIC server can be reached over UDP: it must answer an unknown version (RFC 9000 §6.1).
 */
import { type Authority, formatAuthority } from "../../net/authority.ts";
import { messageOf } from "../../errors.ts";
import { isVersionNegotiation, unknownVersion } from "./version_probe.ts";
import { sleep } from "../../wait.ts";
import { openRefusalProbe } from "./udp_refusal.ts";
import { type Found, StepError } from "./report.ts";

/** Outcome of datagrams to an address; `error` is why the system could not send them. */
export type UdpOutcome = "answers" | "refused" | "silent" | { readonly error: string };

/** Whether a server can be reached over TCP, or else what to do about it. */
export interface TcpOutcome {
  readonly works: boolean;
  readonly fix?: string | undefined;
}

const TIMEOUT_MS = 3_000;

const UDP_BLOCKED = "UDP is blocked, TCP works";

/** The first is sent at once; each may be lost. */
const RESEND_MS = 500;

/** ICMP "port unreachable" arrives no sooner than an answer would. */
const REFUSAL_LOOK_MS = 20;

/**
 * Whether one of a server's addresses answers. The value has those that do.
 *
 * @param tryTcp whether the server can be reached over TCP, asked if none answers
 * @param tcpSuffices whether that is enough
 */
export async function checkUdp(
  addresses: readonly Authority[],
  tryTcp: () => Promise<TcpOutcome> = () => Promise.resolve({ works: false }),
  tcpSuffices = false,
): Promise<Found<Authority[]>> {
  const outcomes = await Promise.all(addresses.map((address) => probeUdp(address)));
  const found = addresses.length === 1 ? describe(outcomes[0]!) : addresses
    .map((address, i) => `${formatAuthority(address)}: ${describe(outcomes[i]!)}`).join("; ");
  const value = addresses.filter((_, i) => outcomes[i] === "answers");
  const isWarning = value.length < addresses.length;
  if (value.length > 0) return { found, value, isWarning };
  const { works, fix } = await tryTcp();
  if (!works) throw new StepError(found, fixOf(addresses[0]!, outcomes, tcpSuffices && fix));
  const blocked = `${found}: ${UDP_BLOCKED}`;
  if (!tcpSuffices) throw new StepError(blocked, "set --transport=auto");
  return { found: blocked, value, isWarning: true };
}

function describe(outcome: UdpOutcome): string {
  const words = {
    answers: "a QUIC server answers",
    refused: "port closed (ICMP port unreachable)",
    silent: "no answer",
  };
  return typeof outcome === "string" ? words[outcome] : `cannot send: ${outcome.error}`;
}

function fixOf(
  { port }: Authority,
  outcomes: readonly UdpOutcome[],
  tcpFix: string | false | undefined,
): string {
  if (outcomes.includes("refused")) {
    return `start proxy-server there with --listen-quic on UDP port ${port}, or correct --server`;
  }
  if (!outcomes.includes("silent")) {
    return "add a route from this machine to the server, or correct --server";
  }
  const fix =
    `allow UDP port ${port} in all firewalls between this machine and the server, or correct --server`;
  return tcpFix ? `${fix}; for TCP in place of UDP, ${tcpFix}` : fix;
}

/** Sends some datagrams that every QUIC server answers. */
export async function probeUdp(to: Authority, timeoutMs = TIMEOUT_MS): Promise<UdpOutcome> {
  const hostname = to.hostname.includes(":") ? "::" : "0.0.0.0";
  const socket = Deno.listenDatagram({ transport: "udp", hostname, port: 0 });
  using refusal = openRefusalProbe(to);
  const probe = unknownVersion();
  const over = new AbortController();
  let outcome: UdpOutcome = "silent";
  const end = (how: UdpOutcome) => {
    if (!over.signal.aborted) outcome = how;
    over.abort();
  };
  const listen = async () => {
    try {
      for (;;) {
        const [bytes] = await socket.receive();
        if (isVersionNegotiation(bytes, probe)) return end("answers");
      }
    } catch {
      // Closed; on Windows also an ICMP message.
      if (!over.signal.aborted) end("refused");
    }
  };
  const send = async () => {
    const address: Deno.NetAddr = { transport: "udp", ...to };
    try {
      while (!over.signal.aborted) {
        await socket.send(probe, address);
        refusal?.send(probe);
        await sleep(RESEND_MS, over.signal);
      }
    } catch (error) {
      end({ error: messageOf(error) });
    }
  };
  const watch = async () => {
    while (!over.signal.aborted) {
      await sleep(REFUSAL_LOOK_MS, over.signal);
      if (refusal?.isRefused()) end("refused");
    }
  };
  const listening = listen();
  const others = [send(), watch()];
  await sleep(timeoutMs, over.signal);
  over.abort();
  await Promise.all(others);
  socket.close();
  await listening;
  return outcome;
}
