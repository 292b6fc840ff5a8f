// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The admin listener: health checks, metrics and the status page, all read-only. */
import { type Authority, formatAuthority } from "../net/authority.ts";
import { messageOf, UsageError } from "../errors.ts";
import { currentStatus } from "./current_status.ts";
import { listenOn } from "../net/listen_on.ts";
import { History } from "./history.ts";
import { ipBytes } from "../net/ip_address.ts";
import { type HttpRequest, serveHttp } from "../net/http_listener.ts";
import { logger } from "../log.ts";
import { Metrics } from "./metrics.ts";
import type { Monitor } from "./monitor.ts";
import { describeVersion, version } from "../version.ts";
import { type ReadinessCheck, readinessOf, readinessOfGroups } from "./readiness.ts";
import { statusPage, statusPageHeaders } from "./status_page/mod.ts";

export interface AdminOptions {
  readonly address: Authority;
  readonly monitor: Monitor;
  /** Host names by which it may be asked, besides `localhost`, IP addresses and that of `address`. */
  readonly names?: readonly string[];
  /** Stops listening. */
  readonly signal: AbortSignal;
}

/** A running admin listener. */
export interface Admin {
  readonly addr: Deno.NetAddr;
  /** Resolves when it has stopped. */
  readonly finished: Promise<void>;
}

/** For everything but the page, which has more of them. */
const HEADERS = {
  "Cache-Control": "no-store",
  "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
  "Referrer-Policy": "no-referrer",
  "X-Content-Type-Options": "nosniff",
};

const log = logger("admin");

type Handler = (url: URL) => Response | Promise<Response>;

/**
 * Starts the listener. From then on the monitor's numbers are collected.
 *
 * @returns what tells its address, and when it has stopped
 * @throws {UsageError} when it cannot be bound
 */
export function startAdmin(options: AdminOptions): Admin {
  const { monitor, address, names = [], signal } = options;
  const listener = listen(address);
  const ownNames = ["localhost", address.hostname, ...names].map((name) => name.toLowerCase());
  const metrics = new Metrics(monitor);
  const history = new History(monitor);
  monitor.observe(metrics);
  monitor.observe(history);

  const readiness = (url: URL) => {
    const all = readinessOf(monitor);
    const group = url.searchParams.get("group");
    // Each group is told, but a server is ready if it can serve one.
    if (group === null) return answerChecks(url, all, readinessOfGroups(monitor));
    const ofGroup = readinessOfGroups(monitor).find(({ name }) => name === `group ${group}`);
    if (!ofGroup) return text("no such group\n", 404);
    return answerChecks(url, all.map((check) => check.name === "agents" ? ofGroup : check));
  };
  const status = () => currentStatus(monitor, history);
  const handlers: Readonly<Record<string, Handler>> = {
    "/livez": (url) => answerChecks(url, []),
    "/readyz": readiness,
    "/metrics": async () => text(await metrics.text(), 200, metrics.contentType),
    "/version": () => json({ program: monitor.program, version, description: describeVersion() }),
    "/status.json": () => json(status()),
    "/": () => {
      const nonce = crypto.randomUUID();
      return new Response(statusPage(status(), nonce), { headers: statusPageHeaders(nonce) });
    },
  };
  const paths: Readonly<Record<string, string>> = { "/healthz": "/livez", "/ready": "/readyz" };

  const answer = ({ method, target, host }: HttpRequest): Response | Promise<Response> => {
    // Only clients of HTTP/1.0, and no browser, leave Host out. It may be anything.
    const base = `http://${host ?? formatAuthority(listener.addr)}`;
    if (!URL.canParse(base) || !target.startsWith("/")) return text("bad request\n", 400);
    const url = new URL(`${new URL(base).origin}${target}`);
    if (!ownNames.includes(url.hostname) && !isIpAddress(url.hostname)) {
      return text(FOREIGN_NAME, 421);
    }
    const path = paths[url.pathname] ?? url.pathname;
    const handler = Object.hasOwn(handlers, path) ? handlers[path] : undefined;
    if (!handler) return text("not found\n", 404);
    if (method !== "GET" && method !== "HEAD") {
      const response = text("only GET and HEAD\n", 405);
      response.headers.set("Allow", "GET, HEAD");
      return response;
    }
    return handler(url);
  };
  const handle = async (request: HttpRequest): Promise<Response> => {
    try {
      return await answer(request);
    } catch (error) {
      log.error("request failed", { error: messageOf(error) });
      return text("internal error\n", 500);
    }
  };
  const finished = serveHttp(listener, { log, signal, handle });
  history.run(signal);
  const { addr } = listener;
  log.info("admin listener on {address}", { address: formatAuthority(addr) });
  return { addr, finished };
}

function listen(address: Authority): Deno.TcpListener & { readonly addr: Deno.NetAddr } {
  const { hostname, port } = address;
  try {
    return listenOn(hostname, (hostname) => Deno.listen({ hostname, port })) as
      & Deno.TcpListener
      & { readonly addr: Deno.NetAddr };
  } catch (error) {
    const where = `--listen-admin ${formatAuthority(address)}`;
    throw new UsageError(`cannot listen on ${where}: ${messageOf(error)}`, { cause: error });
  }
}

/**
 * Responds like Kubernetes' own components: `ok`, or the failed checks. With `?verbose` all checks,
 * except those of `?exclude=`.
 *
 * @param further shown with `?verbose`, and not counted
 */
function answerChecks(
  url: URL,
  all: readonly ReadinessCheck[],
  further: readonly ReadinessCheck[] = [],
): Response {
  const excluded = url.searchParams.getAll("exclude");
  const checks = all.filter(({ name }) => !excluded.includes(name));
  const failed = checks.filter(({ problem }) => problem !== undefined);
  const status = failed.length === 0 ? 200 : 503;
  const isVerbose = url.searchParams.has("verbose");
  if (status === 200 && !isVerbose) return text("ok\n");
  const lines = (isVerbose ? [...checks, ...further] : failed).map(({ name, problem }) =>
    problem === undefined ? `[+]${name} ok` : `[-]${name} failed: ${problem}`
  );
  const path = url.pathname.slice(1);
  if (isVerbose) lines.push(`${path} check ${status === 200 ? "passed" : "failed"}`);
  return text(`${lines.join("\n")}\n`, status);
}

const FOREIGN_NAME =
  "Open this page by IP address or as localhost, or name its host in --admin-name. Other host names are rejected as a protection against DNS rebinding.\n";

/** Whether the host of a URL is an IP address, for which there is no DNS rebinding. */
function isIpAddress(hostname: string): boolean {
  return ipBytes(hostname.replace(/^\[(.*)\]$/, "$1")) !== undefined;
}

function text(body: string, status = 200, type = "text/plain; charset=utf-8"): Response {
  return new Response(body, { status, headers: { ...HEADERS, "Content-Type": type } });
}

function json(value: unknown): Response {
  return text(`${JSON.stringify(value)}\n`, 200, "application/json");
}
