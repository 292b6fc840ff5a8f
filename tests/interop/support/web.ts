// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { temporaryFolder } from "../../support/temporary_folder.ts";
import { run } from "./programs.ts";
import { freePort, Service } from "./service.ts";

/** An HTTP server that answers everything, and writes a line for each request: `<client> to <server> …`. */
export interface WebServer extends AsyncDisposable {
  readonly service: Service;
  readonly port: number;
}

/** Options of {@linkcode startNginx}. */
export interface NginxOptions {
  /** Whether each connection has to begin with a PROXY protocol header; if so, its addresses are logged. */
  readonly proxyProtocol: boolean;
}

/** Its line goes on with `"<first line of the request>" <status>`. */
export function startNginx({ proxyProtocol }: NginxOptions): Promise<WebServer> {
  const kept = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
  const addresses = proxyProtocol
    ? "$proxy_protocol_addr:$proxy_protocol_port to $proxy_protocol_server_addr:$proxy_protocol_server_port"
    : "$remote_addr:$remote_port to $server_addr:$server_port";
  return start("nginx", (dir, config) => ["-e", "stderr", "-p", dir, "-c", config], (dir, port) => `
daemon off;
master_process off;
pid ${dir}/pid;
events {}
http {
  ${kept.map((what) => `${what}_temp_path ${dir}/${what};`).join("\n  ")}
  log_format addresses '${addresses} "$request" $status';
  access_log /dev/stdout addresses;
  server {
    listen 127.0.0.1:${port}${proxyProtocol ? " proxy_protocol" : ""};
    location / { return 200 "ok\\n"; }
  }
}
`);
}

const HAPROXY_COMMON = `
global
  log stdout format raw local0
defaults
  log global
  timeout connect 5s
  timeout client 30s
  timeout server 30s
`;
const haproxyArgs = (_dir: string, config: string) => ["-db", "-f", config];

/**
 * Each connection has to begin with a PROXY protocol header. Its line goes on with
 * `id=<unique id, in hex> <path>`.
 */
export function startHaproxyOrigin(): Promise<WebServer> {
  return start("haproxy", haproxyArgs, (_dir, port) =>
    `${HAPROXY_COMMON}
frontend origin
  mode http
  bind 127.0.0.1:${port} accept-proxy
  log-format "%ci:%cp to %fi:%fp id=%[fc_pp_unique_id,hex] %HP"
  http-request return status 200 content-type text/plain string "ok\\n"
`);
}

/**
 * HAProxy in front of a server on 127.0.0.1. It listens on 127.0.0.1 and on [::1]. Its lines are
 * `<client> from <HAProxy's own address>`.
 *
 * @param options what it does with the server, such as `send-proxy-v2`
 */
export function startHaproxyFront(to: number, options: string): Promise<WebServer> {
  return start("haproxy", haproxyArgs, (_dir, port) =>
    `${HAPROXY_COMMON}
listen front
  mode tcp
  bind 127.0.0.1:${port}
  bind [::1]:${port}
  log-format "%ci:%cp from %bi:%bp"
  option log-health-checks
  server s1 127.0.0.1:${to} ${options}
`);
}

async function start(
  program: "nginx" | "haproxy",
  args: (dir: string, config: string) => string[],
  configuration: (dir: string, port: number) => string,
): Promise<WebServer> {
  await using stack = new AsyncDisposableStack();
  const { path: dir } = stack.use(await temporaryFolder());
  const port = freePort();
  const config = `${dir}/${program}.conf`;
  await Deno.writeTextFile(config, configuration(dir, port));
  const service = stack.use(await Service.start(program, args(dir, config), port));
  const rest = stack.move();
  return { service, port, [Symbol.asyncDispose]: () => rest.disposeAsync() };
}

/** What a client saw of a request. */
export interface Fetched {
  readonly status: number;
  /** The client's own end of the connection. */
  readonly client: string;
}

/** Fetches `http://<host>:<port><path>`, with further options of curl. */
export async function fetchWithCurl(
  { host, port }: { host: string; port: number },
  path: string,
  ...options: string[]
): Promise<Fetched> {
  const url = `http://${host}:${port}${path}`;
  const { text } = await run("curl", [
    "-sSg",
    "--max-time",
    "10",
    "-o",
    "/dev/null",
    "-w",
    "%{http_code} %{local_ip}:%{local_port}",
    ...options,
    url,
  ]);
  const [status, client] = text.split(" ");
  return { status: Number(status), client: client! };
}
