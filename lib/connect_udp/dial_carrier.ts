// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The client's part of CONNECT-UDP over HTTP/1.1 (RFC 9298 §3.2 and §3.3): TCP, perhaps through an
 * HTTP proxy (RFC 9110 §9.3.6), TLS, and an upgrade to capsules.
 */
import { abortable } from "@std/async/abortable";
import { messageOf } from "../errors.ts";
import { type Authority, formatAuthority } from "../net/authority.ts";
import { firstToSucceed, interleaveFamilies } from "../net/happy_eyeballs.ts";
import { formatIp, ipBytes } from "../net/ip_address.ts";
import { connectTcp, descriptorOf, resetTcp, setNoDelay } from "../net/tcp_reset.ts";
import { setCarrierOptions } from "../net/tcp_carrier.ts";
import { onAbort } from "../on_abort.ts";
import { quote } from "../printable.ts";
import { type Duplex, prepend } from "../tunnel/duplex.ts";
import { tlsDuplex } from "../tunnel/tls_duplex.ts";
import type { Carrier } from "./carrier_socket.ts";
import { AnswerError } from "./exchange.ts";
import { type HttpProxy, requestTunnel } from "./http_proxy.ts";
import { upgrade } from "./upgrade.ts";
import { DEFAULT_TEMPLATE, expandTemplate } from "./uri_template.ts";

export interface DialCarrierOptions {
  /** The server that serves CONNECT-UDP. */
  readonly server: Authority;
  /** All IP addresses of a name, 4 or 16 bytes each, in the order of preference. */
  readonly resolve: (name: string, signal: AbortSignal) => Promise<readonly Uint8Array[]>;
  /** Name that the server's certificate must have; sent as SNI. */
  readonly serverName: string;
  /** PEM of the CAs that the server's certificate may be of, beside those of the runtime. */
  readonly caCerts: readonly string[];
  /** Where the server is to forward datagrams to, which this project's servers do not look at. */
  readonly target: Authority;
  /** Path with the target's variables. @default {DEFAULT_TEMPLATE} */
  readonly template?: string;
  /** Through which the server is reached. */
  readonly proxy?: HttpProxy | undefined;
  /** Time for each step. @default {5000} */
  readonly stepTimeoutMs?: number;
  /** Time for all of it. @default {10000} */
  readonly timeoutMs?: number;
}

/**
 * What a dial consists of: the proxy, or the connection without one; TLS; the upgrade.
 */
export type CarrierStep = "proxy" | "tcp" | "tls" | "upgrade";

/** A carrier that was not established. */
export class CarrierDialError extends Error {
  override readonly name = "CarrierDialError";
  /** What to do about it, where that is known. */
  readonly hint: string | undefined;
  constructor(
    readonly step: CarrierStep,
    message: string,
    { hint, ...options }: ErrorOptions & { readonly hint?: string | undefined } = {},
  ) {
    super(message, options);
    this.hint = hint;
  }

  /** Whether the server's port, and not that of a proxy, is closed. */
  get isRefused(): boolean {
    return this.step === "tcp" && this.cause instanceof Deno.errors.ConnectionRefused;
  }
}

/** Most addresses of a name that are tried. */
const MAX_ATTEMPTS = 16;

/**
 * Establishes a carrier. Where an address of a name takes connections, and no carrier comes of them,
 * the others are tried.
 *
 * @throws {CarrierDialError} whose message names the peer and the cause
 * @throws the signal's reason when it aborts first
 */
export async function dialCarrier(
  options: DialCarrierOptions,
  signal: AbortSignal,
): Promise<Carrier> {
  signal.throwIfAborted();
  const { timeoutMs = 10_000 } = options;
  const giveUpAt = performance.now() + timeoutMs;
  const leftOut = new Set<string>();
  let failure: unknown;
  for (;;) {
    const dial = new Dial(options, leftOut);
    const leftMs = giveUpAt - performance.now();
    const timer = setTimeout(() => dial.end(dial.late(timeoutMs)), leftMs);
    try {
      return await run(dial, options, signal);
    } catch (error) {
      signal.throwIfAborted();
      failure ??= error;
      if (!dial.hasOthers || performance.now() >= giveUpAt) throw failure;
    } finally {
      clearTimeout(timer);
    }
  }
}

async function run(
  dial: Dial,
  options: DialCarrierOptions,
  signal: AbortSignal,
): Promise<Carrier> {
  const { server, proxy } = options;
  const path = expandTemplate(options.template ?? DEFAULT_TEMPLATE, options.target);
  const stopListening = onAbort(signal, () => dial.end(signal.reason));
  try {
    const via = proxy?.address ?? server;
    const tcp = await dial.step(proxy ? "proxy" : "tcp", via, (over) => dial.connect(via, over));
    if (proxy) await dial.step("proxy", via, () => requestTunnel(tcp, server, proxy));
    const duplex = await dial.step("tls", server, () => dial.secure(tcp));
    return await dial.step("upgrade", server, async () => {
      const { rest, maxDatagramBytes } = await upgrade(duplex, server, path);
      const { localAddr, remoteAddr } = tcp;
      return { duplex: prepend(rest, duplex), localAddr, remoteAddr, maxDatagramBytes };
    });
  } catch (error) {
    dial.end(error);
    throw error;
  } finally {
    stopListening();
  }
}

/** One dial: its clock, and its connection. */
class Dial {
  readonly #options: DialCarrierOptions;
  readonly #over = new AbortController();
  #step: CarrierStep = "tcp";
  #peer: Authority;
  #close: (() => void) | undefined;
  readonly #leftOut: Set<string>;
  /** Whether the name has further addresses. */
  hasOthers = false;

  /** @param leftOut addresses that are not tried; gets the one that is connected to */
  constructor(options: DialCarrierOptions, leftOut: Set<string>) {
    this.#options = options;
    this.#peer = options.server;
    this.#leftOut = leftOut;
  }

  /** Ends it, and closes its connection. */
  end(reason: unknown): void {
    this.#over.abort(reason);
    this.#close?.();
    this.#close = undefined;
  }

  late(ms: number): CarrierDialError {
    return this.#failed(`no answer within ${ms} ms`);
  }

  /** Does one step, in its time. */
  async step<T>(
    step: CarrierStep,
    peer: Authority,
    run: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    this.#step = step;
    this.#peer = peer;
    const { stepTimeoutMs = 5_000 } = this.#options;
    const { signal } = this.#over;
    const timer = setTimeout(() => this.end(this.late(stepTimeoutMs)), stepTimeoutMs);
    try {
      return await abortable(run(signal), signal);
    } catch (error) {
      signal.throwIfAborted();
      const hint = error instanceof AnswerError ? error.hint : this.#hintFor(error);
      throw this.#failed(reasonOf(error), { cause: error, hint });
    } finally {
      clearTimeout(timer);
    }
  }

  #failed(problem: string, options: ErrorOptions & { readonly hint?: string | undefined } = {}) {
    const who = this.#step === "proxy" ? "proxy " : "";
    return new CarrierDialError(
      this.#step,
      `${who}${formatAuthority(this.#peer)}: ${problem}`,
      options,
    );
  }

  /** What to do about a certificate, in the words of Deno's TLS library. */
  #hintFor(error: unknown): string | undefined {
    if (this.#step !== "tls") return undefined;
    const message = messageOf(error);
    if (/UnknownIssuer|BadSignature/.test(message)) {
      return "the certificate is of another CA: a proxy on the way may decrypt TLS";
    }
    if (/not ?valid ?for ?name/i.test(message)) {
      const name = quote(this.#options.serverName);
      return `the certificate is not for ${name}: set --server-name to a name in it, or --fallback to an https URL with one`;
    }
    return /expired|not ?valid ?yet/i.test(message)
      ? "renew the certificate, or correct the clock of this machine"
      : undefined;
  }

  async connect({ hostname, port }: Authority, over: AbortSignal): Promise<Deno.TcpConn> {
    const ip = ipBytes(hostname);
    const ips = ip ? [ip] : await this.#options.resolve(hostname, over);
    const addresses = interleaveFamilies(ips).slice(0, MAX_ATTEMPTS).map(formatIp)
      .filter((address) => !this.#leftOut.has(address));
    if (addresses.length === 0) throw new Error("name does not resolve");
    const { address, tcp } = await firstToSucceed(addresses, {
      attempt: async (address, signal) => ({
        address,
        tcp: await connectTcp({ hostname: address, port, signal }),
      }),
      discard: ({ tcp }) => tcp.close(),
      signal: over,
    }).catch((error) => {
      throw error instanceof AggregateError ? error.errors[0] : error;
    });
    this.#leftOut.add(address);
    this.hasOthers = addresses.length > 1;
    if (over.aborted) tcp.close();
    over.throwIfAborted();
    setNoDelay(tcp);
    const fd = descriptorOf(tcp);
    if (fd !== undefined) setCarrierOptions(fd);
    this.#close = () => tcp.close();
    return tcp;
  }

  async secure(tcp: Deno.TcpConn): Promise<Duplex> {
    const { serverName, caCerts } = this.#options;
    const { signal } = this.#over;
    // It takes the connection over.
    this.#close = undefined;
    const tls = await Deno.startTls(tcp, {
      hostname: serverName,
      caCerts: [...caCerts],
      alpnProtocols: ["http/1.1"],
    });
    const duplex = tlsDuplex(tls, () => resetTcp(tcp));
    if (signal.aborted) duplex.abort();
    signal.throwIfAborted();
    this.#close = () => duplex.abort();
    await tls.handshake();
    return duplex;
  }
}

/** The cause in words, without those of the system that add nothing. */
function reasonOf(error: unknown): string {
  const message = messageOf(error).replace(/ \(os error \d+\).*$/s, "");
  return /^[A-Z][a-z]/.test(message) ? message[0]!.toLowerCase() + message.slice(1) : message;
}
