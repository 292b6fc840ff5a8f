// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Whether a server can be reached over TCP, which takes the place of UDP. */
import { CarrierSocket } from "../../connect_udp/carrier_socket.ts";
import {
  CarrierDialError,
  dialCarrier,
  type DialCarrierOptions,
} from "../../connect_udp/dial_carrier.ts";
import { peerOf } from "../../agent/carrier.ts";
import { type Authority, formatAuthority } from "../../net/authority.ts";
import type { OpenDatagramSocket } from "../../quic/mod.ts";
import { type Found, StepError } from "./report.ts";

/** For each step of a dial, and all of them. */
const TIMEOUT_MS = 3_000;

const words = { proxy: "proxy", tcp: "TCP connection", tls: "TLS", upgrade: "Upgrade" } as const;

/** How an address is reached over TCP. */
export type DialOptionsOf = (address: Authority) => DialCarrierOptions;

/** What takes the place of UDP for a connection to an address. */
interface TcpWay {
  readonly address: Authority;
  readonly open: OpenDatagramSocket;
}

/** Connects to the first of a server's addresses that takes datagrams over TCP. */
export async function checkTcp(
  addresses: readonly Authority[],
  dialOptions: DialOptionsOf,
): Promise<Found<TcpWay>> {
  let firstError: unknown;
  for (const address of addresses) {
    try {
      const { found, value } = await connect(address, dialOptions(address));
      return { found, value, isWarning: firstError !== undefined };
    } catch (error) {
      firstError ??= error;
    }
  }
  throw firstError;
}

/** Finds out the same, and sends nothing. */
export async function probeTcp(
  addresses: readonly Authority[],
  dialOptions: DialOptionsOf,
): Promise<string> {
  const { found, value: { open } } = await checkTcp(addresses, dialOptions);
  const ignored = () => {};
  const events = { sendError: ignored, refused: ignored, replaced: ignored };
  await open({ ...events, datagram: ignored, writable: ignored, lost: ignored }).close();
  return found;
}

async function connect(server: Authority, options: DialCarrierOptions): Promise<Found<TcpWay>> {
  const { proxy } = options;
  try {
    const timeouts = { stepTimeoutMs: TIMEOUT_MS, timeoutMs: 2 * TIMEOUT_MS };
    const carrier = await dialCarrier({ ...options, ...timeouts }, new AbortController().signal);
    const found = `${formatAuthority(options.server)} takes datagrams over TLS` +
      (proxy ? `, through proxy ${proxy}` : "");
    const address = peerOf(server, carrier);
    const open: OpenDatagramSocket = (events) => new CarrierSocket(carrier, events, address);
    return { found, value: { address, open } };
  } catch (error) {
    if (!(error instanceof CarrierDialError)) throw error;
    const { step, message, hint } = error;
    throw new StepError(`${words[step]}: ${message}`, hint ?? fixOf(error, options), {
      cause: error,
    });
  }
}

function fixOf({ step }: CarrierDialError, { server, proxy }: DialCarrierOptions): string {
  if (step === "proxy" && proxy) {
    return `check that the HTTP proxy ${
      formatAuthority(proxy.address)
    } is running, or correct --proxy`;
  }
  const where = formatAuthority(server);
  if (step === "tcp") {
    return `start proxy-server with --listen-fallback on ${where}, allow TCP to it in all firewalls, or correct --fallback`;
  }
  return `check that ${where} is --listen-fallback of a proxy-server, or correct --fallback`;
}
