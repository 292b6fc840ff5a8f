// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What `--check` does for each program. */
import { type Authority, formatAuthority } from "../../net/authority.ts";
import { formatIp, isIpAddress } from "../../net/ip_address.ts";
import type { AgentFlagValues, PassthroughFlagValues, ServerFlagValues } from "../program_flags.ts";
import type { TlsMaterial } from "../../tls/material.ts";
import {
  agentTlsFiles,
  clientTlsFiles,
  serversOf,
  serverTlsFiles,
  tryOutFallback,
  tryOutTls,
} from "../program_tls.ts";
import { chosenLibrary, type LibraryFlagValues } from "../quic_library.ts";
import { checkCertificates } from "./certificates.ts";
import { checkTcpAddress, checkUdpAddress, checkUnixSocket } from "./listeners.ts";
import { Report, type ReportOutput, StepError } from "./report.ts";
import { checkSession, type SessionCheck } from "./session.ts";
import { checkRoutes } from "./routes.ts";
import { addressesOf, checkTarget } from "./target.ts";
import { checkTcp, type DialOptionsOf, probeTcp } from "./tcp.ts";
import { checkUdp, type TcpOutcome } from "./udp.ts";
import { CarrierDialError } from "../../connect_udp/dial_carrier.ts";
import { byNameOf, dialOptionsOf } from "../../agent/carrier.ts";
import type { ByName } from "../../agent/server_addresses.ts";
import { messageOf } from "../../errors.ts";
import type { Env } from "../environment.ts";
import { chooseProxy } from "../http_proxy.ts";
import { nameOfAgents } from "../../server/agent_set.ts";
import {
  agentsOfFronts,
  listenTcpOf,
  refuseHeaders,
  refuseReusePort,
} from "../../server/listeners.ts";

const RESOLVE_TIMEOUT_MS = 5_000;

/** Whether a server could start. */
export async function checkServer(
  values: ServerFlagValues,
  output: ReportOutput,
): Promise<boolean> {
  const report = new Report(output);
  const { listenQuic, listenTls, udsName, udsMode: mode, udsGroup: group, reusePort } = values;
  const { listenFallback } = values;
  await checkCertificates(
    report,
    serverTlsFiles(values),
    "server",
    listenFallback && tryOutFallback,
  );
  if (listenTls) {
    const files = await report.step("tls flags", () => {
      const value = clientTlsFiles(values)!;
      return { found: "all files are set, and this runtime asks clients for certificates", value };
    });
    if (files) await checkCertificates(report, files, "tls", tryOutTls);
  }
  if (reusePort) {
    await report.step("reuse-port flag", () => {
      refuseReusePort(values);
      return { found: "other servers may share the ports of --listen-tcp", value: true };
    });
  }
  for (const { agents, ...tcp } of listenTcpOf(values)) {
    const suffix = agents ? ` of ${nameOfAgents(agents)}` : "";
    await report.step(
      `tcp address ${formatAuthority(tcp)}${suffix}`,
      () => checkTcpAddress(tcp, "--listen-tcp", reusePort),
    );
  }
  if (listenTls) {
    const tls = formatAuthority(listenTls);
    await report.step(`tls address ${tls}`, () => checkTcpAddress(listenTls, "--listen-tls"));
  }
  if (udsName !== undefined) {
    const socket = { path: udsName, mode, group };
    await report.step(`unix socket ${udsName}`, () => checkUnixSocket(socket));
  }
  await checkRoutes(report, { ...values, fronts: agentsOfFronts(values) });
  const udp = formatAuthority(listenQuic);
  await report.step(`udp address ${udp}`, () => checkUdpAddress(listenQuic));
  if (listenFallback) {
    const fallback = formatAuthority(listenFallback);
    await report.step(
      `fallback address ${fallback}`,
      () => {
        refuseHeaders(values);
        return checkTcpAddress(listenFallback, "--listen-fallback");
      },
    );
  }
  return report.end();
}

/** Whether an agent could serve, and reach the target that `--check` names. */
export async function checkAgent(
  values: AgentFlagValues,
  output: ReportOutput,
  env: Env = () => undefined,
): Promise<boolean> {
  const report = new Report(output);
  await checkServers(report, "proxy-agent", values, env);
  const { check, allow, deny, dialTimeoutMs } = values;
  if (typeof check === "object") {
    await checkTarget(report, "target", check, dialTimeoutMs, { allow, deny });
  }
  return report.end();
}

/** Whether a passthrough agent could serve. */
export async function checkPassthrough(
  values: PassthroughFlagValues,
  output: ReportOutput,
  env: Env = () => undefined,
): Promise<boolean> {
  const report = new Report(output);
  await checkServers(report, "proxy-passthrough", values, env);
  await checkTarget(report, "upstream", values.upstream, values.dialTimeoutMs);
  return report.end();
}

type SessionFlagValues = Pick<
  AgentFlagValues,
  | "join"
  | "caFile"
  | "certFile"
  | "certKey"
  | "servers"
  | "serverName"
  | "name"
  | "transport"
  | "fallback"
  | "httpProxy"
  | keyof LibraryFlagValues
>;

/** How a server is reached. */
interface Ways extends Pick<AgentFlagValues, "transport"> {
  /** How an address is reached over TCP; undefined without certificates. */
  readonly dialOptions: DialOptionsOf | undefined;
  /** Whether flags say how TCP goes, so that it is meant to work. */
  readonly isTcpWanted: boolean;
  /** Whether its name is left to an HTTP proxy. */
  readonly byName: ByName;
}

async function checkServers(
  report: Report,
  program: string,
  values: SessionFlagValues,
  env: Env,
): Promise<void> {
  const { quicLibrary, tryOut } = chosenLibrary(values);
  const { transport } = values;
  const files = agentTlsFiles(values);
  const { tls, server } = await checkCertificates(report, files, "client", tryOut);
  const { fallback, httpProxy, serverName } = values;
  const { problem, ...proxy } = chooseProxy(values, env);
  if (problem !== undefined && transport !== "udp") {
    const found = { found: problem, value: true, isWarning: true };
    await report.step("proxy of the environment", () => found);
  }
  const servers = serversOf(values, server);
  const ways: Omit<Ways, "byName"> = {
    transport,
    dialOptions: tls &&
      ((address) => dialOptionsOf(address, { tls, serverName, fallback, servers, ...proxy })),
    isTcpWanted: fallback !== undefined || httpProxy !== undefined,
  };
  const session = tls && sessionOf(program, { ...values, quicLibrary }, tls);
  for (const address of servers) {
    const byName = byNameOf(address, { transport, fallback, servers, ...proxy });
    await checkServerAt(report, address, session, { ...ways, byName });
  }
}

async function checkServerAt(
  report: Report,
  server: Authority,
  options: SessionCheck | undefined,
  { transport, dialOptions, isTcpWanted, byName }: Ways,
): Promise<void> {
  const label = formatAuthority(server);
  const addresses = await checkName(report, server, byName);
  const isByName = addresses?.length === 0;
  const reachable = dialOptions && (isByName ? [server] : addresses);
  let answering: Authority[] | undefined;
  if (isByName && transport !== "tcp") report.skip(`udp to ${label}`, "it needs an address");
  else if (transport !== "tcp") {
    const tryTcp = async (): Promise<TcpOutcome> => {
      if (!reachable) return { works: false };
      try {
        await probeTcp(reachable, dialOptions);
        return { works: true };
      } catch (error) {
        return { works: false, fix: error instanceof StepError ? error.fix : undefined };
      }
    };
    answering = await report.after(
      addresses,
      `udp to ${label}`,
      (addresses) => checkUdp(addresses, tryTcp, transport === "auto"),
    );
    for (const address of answering ?? [undefined]) {
      const one = address ? formatAuthority(address) : label;
      await checkSession(report, address, one, options);
    }
  }
  if (transport === "udp") return;
  const way = `tcp to ${label}`;
  if (answering && answering.length > 0) {
    if (!reachable) return;
    try {
      const found = await probeTcp(reachable, dialOptions);
      await report.step(way, () => ({ found, value: true }));
    } catch (error) {
      const found = `${messageOf(error)}; UDP works`;
      if (isTcpWanted) await report.step(way, () => ({ found, value: true, isWarning: true }));
      else if (!isRefused(error)) report.skip(way, found);
    }
    return;
  }
  const carrier = await report.after(reachable, way, (all) => checkTcp(all, dialOptions!));
  if (!carrier && transport === "auto") return;
  await checkSession(report, carrier?.address, `${label} over TCP`, options, carrier?.open);
}

/** The addresses of a server, none if the HTTP proxy is asked for its name. */
async function checkName(
  report: Report,
  server: Authority,
  byName: ByName,
): Promise<Authority[] | undefined> {
  const { hostname, port } = server;
  const step = `server ${formatAuthority(server)} resolves`;
  if (byName === "always" && !isIpAddress(hostname)) {
    report.skip(step, BY_NAME);
    return [];
  }
  return await report.step(step, async () => {
    try {
      const ips = await addressesOf(hostname, RESOLVE_TIMEOUT_MS);
      const value = ips.map((ip) => ({ hostname: formatIp(ip), port }));
      return { found: value.map(({ hostname }) => hostname).join(", "), value };
    } catch (error) {
      if (byName !== "unresolved") throw error;
      return { found: `${messageOf(error)}; ${BY_NAME}`, value: [], isWarning: true };
    }
  });
}

const BY_NAME = "the HTTP proxy is asked for the name";

/** Whether the server has no listener there, as most have none. */
function isRefused(error: unknown): boolean {
  return error instanceof StepError && error.cause instanceof CarrierDialError &&
    error.cause.isRefused;
}

function sessionOf(program: string, values: SessionFlagValues, tls: TlsMaterial) {
  const { name, serverName, alpn, quicLibrary } = values;
  return { program, name, serverName, alpn, quicLibrary, tls };
}
