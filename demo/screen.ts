// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- the demo is what it shows in the terminal

import { formatAuthority } from "../lib/net/authority.ts";
import type { Result } from "./checks.ts";
import type { Network, Stage } from "./stage.ts";

const colour = Deno.stdout.isTerminal() && !Deno.noColor;
const paint = (code: number) => (text: string) => colour ? `\x1b[${code}m${text}\x1b[0m` : text;
const bold = paint(1);
const dim = paint(2);
const red = paint(31);
const green = paint(32);
const cyan = paint(36);

export function showTitle(text: string): void {
  console.log(`\n${bold(text)}`);
}

export function showNote(text: string): void {
  console.log(dim(text));
}

export function showError(text: string): void {
  console.error(`\n${red("failed:")} ${text}`);
}

/** Shows a command to try, so that it can be copied as a line. */
export function showCommand(what: string, command: string): void {
  console.log(`\n  ${what}:\n    ${cyan(command)}`);
}

/** A program on the way of a byte, and the carrier that leads to the next one. */
interface Hop {
  readonly name: string;
  readonly details: readonly string[];
  readonly carrier?: { readonly name: string; readonly stroke: string };
}

const tcpCarrier = { name: "TCP", stroke: "─" };
const quicCarrier = { name: "QUIC", stroke: "═" };

/** Shows the way of a byte from the client to the origin, each program above its addresses. */
export function showPath(
  { tcp, agent, agentUdp }: Network,
  { server, quic, origin }: Stage,
): void {
  const hops: Hop[] = [
    { name: "client", details: ["this demo", `pid ${Deno.pid}`], carrier: tcpCarrier },
    {
      name: server.name,
      details: [`tcp ${formatAuthority(tcp)}`, `udp ${formatAuthority(quic)}`, pidOf(server)],
      carrier: quicCarrier,
    },
    {
      name: agent.name,
      details: [`udp ${formatAuthority(agentUdp)}`, pidOf(agent)],
      carrier: tcpCarrier,
    },
    {
      name: origin.child.name,
      details: [`tcp ${formatAuthority(origin.tcp)}`, pidOf(origin.child)],
    },
  ];
  const rows = Math.max(...hops.map(({ details }) => details.length));
  console.log(`\n  ${hops.map(withCarrier).join("")}`);
  for (let row = 0; row < rows; row++) {
    const cells = hops.map((hop) => (hop.details[row] ?? "").padEnd(widthOf(hop)));
    console.log(dim(`  ${cells.join("").trimEnd()}`));
  }
  console.log();
}

/** The name, and an arrow up to where the next hop begins. */
function withCarrier(hop: Hop): string {
  const { name, carrier } = hop;
  if (!carrier) return bold(name);
  const { name: label, stroke } = carrier;
  const line = stroke.repeat(widthOf(hop) - name.length - label.length - 5);
  return `${bold(name)} ${cyan(`${line}${label}${stroke.repeat(2)}▶`)} `;
}

function widthOf({ name, details, carrier }: Hop): number {
  const arrow = carrier ? carrier.name.length + 7 : 0;
  return Math.max(name.length + arrow, ...details.map(({ length }) => length + 2));
}

type Cells = [name: string, bytes: string, firstByte: string, total: string, rate: string];

export function showResultHead(): void {
  console.log(
    dim(`      ${row(["request", "body", "first byte", "total", "throughput"])}  outcome`),
  );
}

export function showResult({ name, ok, text, measured }: Result): void {
  const cells: Cells = [name, "", "", "", ""];
  if (measured) {
    const { bytes, firstByteMs, totalMs } = measured;
    cells[1] = bytes < 1e6 ? `${bytes} B` : `${bytes / 1e6} MB`;
    cells[2] = `${firstByteMs.toFixed(1)} ms`;
    cells[3] = `${totalMs.toFixed(1)} ms`;
    // Of a few bytes it would only be their latency again.
    if (bytes >= 1e6) cells[4] = `${(bytes / 1e3 / totalMs).toFixed(1)} MB/s`;
  }
  console.log(`  ${ok ? green("ok") : red("NO")}  ${row(cells)}  ${ok ? text : red(text)}`);
}

const widths = [7, 12, 11, 12];

function row([name, ...numbers]: Cells): string {
  return name.padEnd(16) + numbers.map((text, i) => text.padStart(widths[i]!)).join("");
}

function pidOf({ pid }: { pid: number }): string {
  return `pid ${pid}`;
}
