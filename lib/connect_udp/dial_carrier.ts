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
import { connectTcp, resetTcp } from "../net/tcp_reset.ts";
import { onAbort } from "../on_abort.ts";
import { quote } from "../printable.ts";
import { type Duplex, prepend, writeAll } from "../tunnel/duplex.ts";
import { type ResponseHead, ResponseHeadParser } from "../tunnel/http/response_head.ts";
import { MAX_DATAGRAM_BYTES } from "./capsule.ts";
import type { Carrier } from "./carrier_socket.ts";
import type { HttpProxy } from "./http_proxy.ts";
import { MAX_DATAGRAM_SIZE, PROTOCOL, tokensOf } from "./upgrade_request.ts";
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
}

/** Most addresses of a name that are tried. */
const MAX_ATTEMPTS = 16;

/** Bytes of an answer that are read at a time. */
const READ_BYTES = 4096;

/**
 * Establishes a carrier.
 *
 * @throws {CarrierDialError} whose message names the peer and the cause
 * @throws the signal's reason when it aborts first
 */
export async function dialCarrier(
  options: DialCarrierOptions,
  signal: AbortSignal,
): Promise<Carrier> {
  signal.throwIfAborted();
  const { server, proxy, timeoutMs = 10_000 } = options;
  const path = expandTemplate(options.template ?? DEFAULT_TEMPLATE, options.target);
  const dial = new Dial(options);
  const stopListening = onAbort(signal, () => dial.end(signal.reason));
  const timer = setTimeout(() => dial.end(dial.late(timeoutMs)), timeoutMs);
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
    clearTimeout(timer);
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

  constructor(options: DialCarrierOptions) {
    this.#options = options;
    this.#peer = options.server;
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
      const hint = error instanceof AnswerError ? error.hint : hintForTls(step, error);
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

  async connect({ hostname, port }: Authority, over: AbortSignal): Promise<Deno.TcpConn> {
    const ip = ipBytes(hostname);
    const ips = ip ? [ip] : await this.#options.resolve(hostname, over);
    if (ips.length === 0) throw new Error("name does not resolve");
    const tcp = await firstToSucceed(interleaveFamilies(ips).slice(0, MAX_ATTEMPTS), {
      attempt: (ip, signal) => connectTcp({ hostname: formatIp(ip), port, signal }),
      discard: (connection) => connection.close(),
      signal: over,
    }).catch((error) => {
      throw error instanceof AggregateError ? error.errors[0] : error;
    });
    if (over.aborted) tcp.close();
    over.throwIfAborted();
    tcp.setNoDelay(true);
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
    const duplex = tlsDuplex(tls, tcp);
    if (signal.aborted) duplex.abort();
    signal.throwIfAborted();
    this.#close = () => duplex.abort();
    await tls.handshake();
    return duplex;
  }
}

/**
 * A connection of TLS as a {@linkcode Duplex}. After `close()`, the runtime waits for a peer that
 * does not read, or does not finish the handshake, so `abort` resets the connection below where the
 * system can ({@linkcode resetTcp}).
 */
function tlsDuplex(tls: Deno.TlsConn, tcp: Deno.TcpConn): Duplex {
  let closed = false;
  const close = () => {
    if (!closed) tls.close();
    closed = true;
  };
  return {
    read: (buffer) => tls.read(buffer),
    write: (bytes) => tls.write(bytes),
    closeWrite: () => tls.closeWrite(),
    abort() {
      if (!closed) resetTcp(tcp);
      close();
    },
    // deno-lint-ignore require-await
    async [Symbol.asyncDispose]() {
      close();
    },
  };
}

/** An answer that ends a dial. */
class AnswerError extends Error {
  override readonly name = "AnswerError";
  constructor(message: string, readonly hint?: string) {
    super(message);
  }
}

/** Has a proxy connect to the server. */
async function requestTunnel(
  tcp: Deno.TcpConn,
  server: Authority,
  proxy: HttpProxy,
): Promise<void> {
  const to = formatAuthority(server);
  const { authorization } = proxy;
  const fields = [["Host", to], ...(authorization ? [["Proxy-Authorization", authorization]] : [])];
  await writeHead(tcp, `CONNECT ${to} HTTP/1.1`, fields);
  const { head, rest } = await readHead(tcp);
  if (head.status < 200 || head.status > 299) {
    throw new AnswerError(`${quotedStatus(head)} to CONNECT ${to}`, hintForProxy(head, proxy));
  }
  if (rest.length > 0) throw new AnswerError("bytes of its own after the answer to CONNECT");
}

function hintForProxy({ status, fields }: ResponseHead, { user }: HttpProxy): string | undefined {
  if (status === 403) return "the proxy does not allow CONNECT to this host and port";
  if (status !== 407) return undefined;
  if (user === undefined) {
    return "the proxy wants a user name and password: http://user:password@host:port";
  }
  const schemes = fields.filter(([name]) => name.toLowerCase() === "proxy-authenticate")
    .map(([, value]) => value.split(" ", 1)[0]!.toLowerCase());
  return schemes.length === 0 || schemes.includes("basic")
    ? "the proxy does not accept the user name and password"
    : `the proxy does not take Basic authentication, but ${schemes.join(", ")}`;
}

/** Upgrades to capsules, which follow. */
async function upgrade(
  duplex: Duplex,
  server: Authority,
  path: string,
): Promise<{ rest: Uint8Array; maxDatagramBytes: number | undefined }> {
  await writeHead(duplex, `GET ${path} HTTP/1.1`, [
    ["Host", formatAuthority(server)],
    ["Connection", "Upgrade"],
    ["Upgrade", PROTOCOL],
    ["Capsule-Protocol", "?1"],
  ]);
  const { head, rest } = await readHead(duplex);
  if (head.status !== 101) {
    const hint = "does the address belong to a server that serves CONNECT-UDP?";
    throw new AnswerError(`${quotedStatus(head)} to the upgrade to ${PROTOCOL}`, hint);
  }
  // RFC 9298 §3.3
  const protocols = tokensOf(head.fields, "upgrade");
  const isUpgrade = tokensOf(head.fields, "connection").includes("upgrade");
  if (!isUpgrade || protocols.length !== 1 || protocols[0] !== PROTOCOL) {
    throw new AnswerError(`an upgrade to ${quote(protocols.join(", "))}, not to ${PROTOCOL}`);
  }
  return { rest, maxDatagramBytes: maxDatagramBytesOf(head) };
}

function maxDatagramBytesOf({ fields }: ResponseHead): number | undefined {
  const [value] = tokensOf(fields, MAX_DATAGRAM_SIZE.toLowerCase());
  const isSize = value !== undefined && /^[0-9]{4,5}$/.test(value);
  // Smaller ones are nothing that QUIC could use (RFC 9000 §14).
  return isSize && Number(value) >= 1_200 ? Math.min(Number(value), MAX_DATAGRAM_BYTES) : undefined;
}

async function writeHead(
  to: Pick<Duplex, "write">,
  startLine: string,
  fields: readonly (readonly string[])[],
): Promise<void> {
  const lines = [startLine, ...fields.map(([name, value]) => `${name}: ${value}`)];
  await writeAll(to, new TextEncoder().encode(`${lines.join("\r\n")}\r\n\r\n`));
}

/** Reads the head of a final response, or a 101, and what has come behind it. */
async function readHead(
  from: Pick<Duplex, "read">,
): Promise<{ head: ResponseHead; rest: Uint8Array }> {
  const buffer = new Uint8Array(READ_BYTES);
  let parser = new ResponseHeadParser();
  for (let rest = buffer.subarray(0, 0);;) {
    if (rest.length === 0) {
      const n = await from.read(buffer);
      if (n === null) throw new AnswerError("the connection ends before the answer");
      rest = buffer.subarray(0, n);
    }
    const parsed = parser.push(rest);
    rest = rest.subarray(parsed?.length ?? rest.length);
    if (!parsed) continue;
    const { head } = parsed;
    if (head.status >= 200 || head.status === 101) return { head, rest: rest.slice() };
    parser = new ResponseHeadParser();
  }
}

const quotedStatus = ({ status, reason }: ResponseHead) =>
  `answered ${quote(`${status} ${reason}`.trim())}`;

/** The cause in words, without those of the system that add nothing. */
function reasonOf(error: unknown): string {
  const message = messageOf(error).replace(/ \(os error \d+\).*$/s, "");
  return /^[A-Z][a-z]/.test(message) ? message[0]!.toLowerCase() + message.slice(1) : message;
}

function hintForTls(step: CarrierStep, error: unknown): string | undefined {
  if (step !== "tls" || !/UnknownIssuer|BadSignature/.test(messageOf(error))) return undefined;
  return "the certificate is of another CA: a proxy on the way may decrypt TLS";
}
