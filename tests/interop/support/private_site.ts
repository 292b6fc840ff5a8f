// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Web servers that an agent reaches by names that nobody else resolves, and clients that are run as docs/clients.md says. */
import { assertEquals } from "@std/assert";
import { createCa, issueCertificate } from "../../../lib/certs/issue.ts";
import { atTunnel } from "../../support/client_lines.ts";
import { eventually } from "../../support/eventually.ts";
import { patternStream, sha256 } from "../../support/pattern.ts";
import { DIRECTORIES } from "../../support/required_programs.ts";
import { runCommand } from "../../support/system_command.ts";
import type { CommandOutput } from "../../../tools/command_output.ts";
import { temporaryFolder } from "../../support/temporary_folder.ts";
import { gitBackend } from "./git_backend.ts";
import { startTunnel, type Tunnel, type TunnelOptions } from "./tunnel.ts";

const NAMES = ["web", "other", "git", "apt", "pypi", "npm", "registry", "kube", "host"]
  .map((name) => `${name}.internal`);

/** A client that hangs is ended after this. */
const CLIENT_TIMEOUT_MS = 60_000;

/** Variables of the machine that would lead clients elsewhere. */
const PROXY_VARIABLES = ["http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy"]
  .flatMap((name) => [name, name.toUpperCase()]);

/** A request as its server has got it. */
export interface Seen {
  readonly method: string;
  readonly url: string;
  readonly headers: Headers;
}

/** Options of {@linkcode PrivateSite.run}. */
export interface LineOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** Text of the line, and what takes its place. */
  readonly replace?: Readonly<Record<string, string>>;
  /** What follows the line. */
  readonly behind?: string;
}

/** The servers, of `http` and `https`, a tunnel to them, and a home for clients. */
export class PrivateSite implements AsyncDisposable {
  /** Requests so far. */
  readonly seen: Seen[] = [];
  readonly #stack = new AsyncDisposableStack();
  #http = 0;
  #https = 0;
  #tunnel: Tunnel | undefined;
  #home = "";
  #runs = 0;
  /** Tunnels that the server had accepted when the last line was run: some may end after that. */
  #before: ReadonlySet<string> = new Set();

  static async start(options: TunnelOptions = {}): Promise<PrivateSite> {
    const site = new PrivateSite();
    try {
      await site.#start(options);
      return site;
    } catch (error) {
      await site[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #start(options: TunnelOptions): Promise<void> {
    this.#home = this.#stack.use(await temporaryFolder()).path;
    const ca = await createCa({ commonName: "private CA" });
    const issued = await issueCertificate(ca, {
      commonName: NAMES[0]!,
      usage: "server",
      dnsNames: NAMES,
    });
    await Deno.writeTextFile(`${this.#home}/ca.pem`, ca.certPem);
    const common = { hostname: "127.0.0.1", port: 0, onListen: () => {} };
    const tls = { cert: issued.certPem, key: issued.keyPem };
    const handler = (request: Request) => this.#answer(request);
    const http = this.#stack.use(Deno.serve({ ...common }, handler));
    const https = this.#stack.use(Deno.serve({ ...common, ...tls }, handler));
    this.#http = http.addr.port;
    this.#https = https.addr.port;
    this.#tunnel = this.#stack.use(await startTunnel({ names: NAMES, ...options }));
  }

  /** A folder whose files clients write; that of a server, such as `www/apt.internal`, is in it. */
  get home(): string {
    return this.#home;
  }

  get tunnel(): Tunnel {
    return this.#tunnel!;
  }

  /** A line as it is in the documentation, with the addresses of this site. */
  place(line: string): string {
    return atTunnel(line, this.tunnel)
      .replaceAll(/\bhttp:\/\/(\w+\.internal)\b/g, `http://$1:${this.#http}`)
      .replaceAll(/\b(https|docker):\/\/(\w+\.internal)\b/g, `$1://$2:${this.#https}`);
  }

  /**
   * Runs a line in a shell, in a folder of its own, where it finds nothing of this machine's
   * settings.
   *
   * @throws {Error} when it fails, with what it wrote
   */
  async run(
    line: string,
    { env = {}, replace = {}, behind = "" }: LineOptions = {},
  ): Promise<CommandOutput & { readonly folder: string }> {
    const folder = `${this.home}/run-${++this.#runs}`;
    await Deno.mkdir(folder);
    this.#before = new Set(this.#accepted());
    let text = `${line}${behind}`;
    for (const [part, other] of Object.entries(replace)) text = text.replaceAll(part, other);
    const script = [
      `unset ${PROXY_VARIABLES.join(" ")}`,
      `PATH=${DIRECTORIES.join(":")}:$PATH`,
      this.place(text),
    ].join("\n");
    const ca = `${this.home}/ca.pem`;
    const output = await runCommand("sh", ["-euc", script], {
      cwd: folder,
      signal: AbortSignal.timeout(CLIENT_TIMEOUT_MS),
      env: {
        HOME: this.home,
        CURL_CA_BUNDLE: ca,
        GIT_SSL_CAINFO: ca,
        NODE_EXTRA_CA_CERTS: ca,
        PIP_CERT: ca,
        REQUESTS_CA_BUNDLE: ca,
        SSL_CERT_FILE: ca,
        ...env,
      },
    });
    if (output.code !== 0) {
      throw new Error(`${text} ended with ${output.code}: ${output.stdout}${output.stderr}`);
    }
    return { ...output, folder };
  }

  /**
   * Waits until tunnels have ended that began since the last line was run.
   *
   * @param tunnels each protocol of the agent and name of a target, once: `http web.internal`
   */
  async assertTunnels(tunnels: readonly string[]): Promise<void> {
    const expected = new Set(tunnels);
    await eventually("the tunnels have ended", () => {
      const ended = this.tunnel.agent.lines
        .map((line) => / "tunnel ended" .*\btunnel=(\S+) .*via=(\S+) target=(\S+):\d+ /.exec(line))
        .flatMap((match) =>
          match && !this.#before.has(match[1]!) ? [`${match[2]} ${match[3]}`] : []
        );
      assertEquals(new Set(ended), expected);
      return true;
    });
  }

  #accepted(): string[] {
    return this.tunnel.server.lines
      .map((line) => / "accepted tcp connection" .*\btunnel=(\S+)/.exec(line))
      .flatMap((match) => match ? [match[1]!] : []);
  }

  async #answer(request: Request): Promise<Response> {
    const { method, url, headers } = request;
    this.seen.push({ method, url, headers });
    const { hostname, pathname } = new URL(url);
    if (headers.get("upgrade") === "websocket") return echo(request);
    if (hostname === "git.internal") {
      return await gitBackend(request, `${this.home}/www/${hostname}`);
    }
    const special = await specialAnswer(request, pathname);
    return special ?? await this.#file(`${this.home}/www/${hostname}${pathname}`) ??
      new Response(`hello from ${hostname}\n`, { status: pathname === "/" ? 200 : 404 });
  }

  /** A file, or that of a folder that stands for it. */
  async #file(path: string): Promise<Response | undefined> {
    for (const candidate of [path, `${path}/index.html`]) {
      try {
        const body = await Deno.readFile(candidate);
        return new Response(body, { headers: typeOf(path) });
      } catch {
        // Not there, or a folder.
      }
    }
    return undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

/** A WebSocket that says what it is told. */
function echo(request: Request): Response {
  const { socket, response } = Deno.upgradeWebSocket(request);
  socket.onmessage = ({ data }) => socket.send(data);
  return response;
}

async function specialAnswer(request: Request, path: string): Promise<Response | undefined> {
  const size = /^\/bytes\/(\d+)$/.exec(path)?.[1];
  if (size) {
    return new Response(patternStream(Number(size)), { headers: { "content-length": size } });
  }
  const status = /^\/status\/(\d+)$/.exec(path)?.[1];
  if (status) return new Response(null, { status: Number(status) });
  // A body without a length is sent in chunks.
  if (path === "/chunks") return new Response(patternStream(100_000));
  if (path === "/refused") return new Response(null, { status: 413 });
  if (request.method !== "POST") return undefined;
  return new Response(`${await sha256(request.body ?? new Blob().stream())}\n`);
}

/** What clients want to be told of a file. */
function typeOf(path: string): Record<string, string> {
  if (path.includes("/manifests/")) {
    return { "content-type": "application/vnd.oci.image.manifest.v1+json" };
  }
  if (path.includes("pypi")) {
    return { "content-type": path.endsWith(".whl") ? "application/zip" : "text/html" };
  }
  return {};
}
