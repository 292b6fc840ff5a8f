// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What `--check` does for each program. */
import { type Authority, formatAuthority } from "../../net/authority.ts";
import { formatIp } from "../../net/ip_address.ts";
import type { AgentFlagValues, PassthroughFlagValues, ServerFlagValues } from "../program_flags.ts";
import type { TlsMaterial } from "../../tls/files.ts";
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
import { Report, type ReportOutput } from "./report.ts";
import { checkSession, type SessionCheck } from "./session.ts";
import { checkRoutes } from "./routes.ts";
import { addressesOf, checkTarget } from "./target.ts";
import { checkUdp } from "./udp.ts";
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
export async function checkAgent(values: AgentFlagValues, output: ReportOutput): Promise<boolean> {
  const report = new Report(output);
  await checkServers(report, "proxy-agent", values);
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
): Promise<boolean> {
  const report = new Report(output);
  await checkServers(report, "proxy-passthrough", values);
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
  | keyof LibraryFlagValues
>;

async function checkServers(
  report: Report,
  program: string,
  values: SessionFlagValues,
): Promise<void> {
  const { quicLibrary, tryOut } = chosenLibrary(values);
  const files = agentTlsFiles(values);
  const { tls, server } = await checkCertificates(report, files, "client", tryOut);
  for (const address of serversOf(values, server)) {
    await checkServerAt(
      report,
      address,
      tls && sessionOf(program, { ...values, quicLibrary }, tls),
    );
  }
}

async function checkServerAt(
  report: Report,
  server: Authority,
  options: SessionCheck | undefined,
): Promise<void> {
  const { port } = server;
  const label = formatAuthority(server);
  const addresses = await report.step(`server ${label} resolves`, async () => {
    const ips = await addressesOf(server.hostname, RESOLVE_TIMEOUT_MS);
    const value = ips.map((ip) => ({ hostname: formatIp(ip), port }));
    return { found: value.map(({ hostname }) => hostname).join(", "), value };
  });
  const answering = await report.after(addresses, `udp to ${label}`, checkUdp);
  for (const address of answering ?? [undefined]) {
    const one = address ? formatAuthority(address) : label;
    await checkSession(report, address, one, options);
  }
}

function sessionOf(program: string, values: SessionFlagValues, tls: TlsMaterial) {
  const { name, serverName, alpn, quicLibrary } = values;
  return { program, name, serverName, alpn, quicLibrary, tls };
}
