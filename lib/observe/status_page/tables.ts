// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type {
  Status,
  StatusCertificate,
  StatusGroup,
  StatusPeer,
  StatusTunnel,
} from "../status.ts";
import { type Contents, type Element, element } from "./element.ts";
import {
  formatBytes,
  formatDuration,
  formatLatency,
  formatLeft,
  formatNumber,
  formatPercent,
  formatRate,
  formatTime,
  shorten,
  visible,
} from "./format.ts";

/** A column of a table. Numbers are aligned to the right. */
export interface Column<Row> {
  readonly name: string;
  readonly isNumber?: boolean;
  readonly cell: (row: Row) => Contents;
}

/** A table that scrolls in its own box; its first column names the row. */
export function table<Row>(
  id: string,
  title: string,
  columns: readonly Column<Row>[],
  rows: readonly Row[],
  { empty, keyOf, note }: {
    readonly empty: Contents;
    readonly keyOf: (row: Row) => string | undefined;
    readonly note?: string | undefined;
  },
): Element {
  const sideOf = ({ isNumber }: Column<Row>) => isNumber ? "number" : undefined;
  const heads = columns.map((column) =>
    element("th", { scope: "col", class: sideOf(column) }, column.name)
  );
  const body = rows.map((row) =>
    element(
      "tr",
      { "data-key": keyOf(row) },
      columns.map((column, index) =>
        index === 0
          ? element("th", { scope: "row" }, column.cell(row))
          : element("td", { class: sideOf(column) }, column.cell(row))
      ),
    )
  );
  return element(
    "section",
    { "data-key": id, "aria-labelledby": id },
    element("h2", { id }, title),
    rows.length === 0 ? element("p", { class: "empty" }, empty) : element(
      "div",
      // With the keyboard, only what has the focus can be scrolled.
      { class: "box", "data-key": "box", role: "region", tabindex: "0", "aria-labelledby": id },
      element(
        "table",
        {},
        element("caption", {}, title),
        element("thead", {}, element("tr", {}, heads)),
        element("tbody", {}, body),
      ),
    ),
    note === undefined ? undefined : element("p", { class: "muted" }, note),
  );
}

/** Of what the library of a connection does not tell. */
const UNKNOWN = "–";

/** What a program calls its peers. */
export function peerWord(program: Status["program"]): "Agent" | "Server" {
  return program === "proxy-server" ? "Agent" : "Server";
}

export function peerTable({ program, peers, at }: Status): Element {
  const word = peerWord(program);
  return table<StatusPeer>(
    "peers",
    `${word}s`,
    [
      { name: word, cell: ({ name }) => nameOf(name) },
      { name: "State", cell: ({ state }) => mark(state) },
      { name: "Address", cell: ({ address }) => nameOf(address) },
      { name: "Transport", cell: (peer) => transportOf(peer, at) },
      { name: "Connected for", isNumber: true, cell: ({ since }) => ageOf(since, at) },
      { name: "Streams", isNumber: true, cell: streamsOf },
      {
        name: "Round trip",
        isNumber: true,
        cell: ({ rttMs }) => rttMs === undefined ? UNKNOWN : formatLatency(rttMs),
      },
      { name: "Lost", isNumber: true, cell: lossOf },
      {
        name: "Sending",
        isNumber: true,
        cell: ({ sentBytesPerSecond, sentBytes }) => rateOf(sentBytesPerSecond, sentBytes),
      },
      {
        name: "Receiving",
        isNumber: true,
        cell: ({ receivedBytesPerSecond, receivedBytes }) =>
          rateOf(receivedBytesPerSecond, receivedBytes),
      },
      { name: "Protocol", cell: protocolOf },
    ],
    peers,
    {
      keyOf: ({ address, since }) => visible(`${address} ${since}`),
      empty: word === "Agent"
        ? [
          "No agent is connected. Start a proxy-agent or proxy-passthrough whose ",
          element("code", {}, "--server"),
          " is the QUIC address of this program. If one is already running, its log or this " +
          "program's log gives the reason.",
        ]
        : [
          "No server is connected. Check that ",
          element("code", {}, "--server"),
          " is the QUIC address of a proxy-server, and that firewalls allow UDP to it. The log has the cause of the last failure.",
        ],
    },
  );
}

/** Nothing where there is only one. */
export function groupTable({ groups }: Status): Element | undefined {
  if (groups.length === 0) return undefined;
  return table<StatusGroup>(
    "groups",
    "Groups",
    [
      { name: "Group", cell: ({ name }) => nameOf(name) },
      { name: "State", cell: ({ ready }) => mark(ready ? "serving" : "silent", readyWord(ready)) },
      { name: "Agents", isNumber: true, cell: ({ agents }) => formatNumber(agents) },
      { name: "Waiting", isNumber: true, cell: ({ waiting }) => formatNumber(waiting) },
      { name: "Listeners", cell: ({ listeners }) => namesOf(listeners) },
      { name: "Routes", cell: ({ routes }) => namesOf(routes) },
    ],
    groups,
    { keyOf: ({ name }) => visible(name), empty: "" },
  );
}

function readyWord(ready: boolean): string {
  return ready ? "ready" : "no agent";
}

export function tunnelTable({ program, tunnels: { open, latest }, at }: Status): Element {
  const word = peerWord(program);
  const columns: Column<StatusTunnel>[] = [
    { name: "Client", cell: ({ client, front }) => nameOf(client ?? front) },
    { name: "Target", cell: ({ target }) => nameOf(target) },
    { name: word, cell: ({ peer }) => nameOf(peer) },
    { name: "State", cell: ({ state }) => mark(state) },
    { name: "Age", isNumber: true, cell: ({ since }) => ageOf(since, at) },
    { name: "From client", isNumber: true, cell: ({ sent }) => formatBytes(sent) },
    { name: "From target", isNumber: true, cell: ({ received }) => formatBytes(received) },
    { name: "Id", cell: ({ id }) => nameOf(id) },
  ];
  const more = open - latest.length;
  return table(
    "tunnels",
    "Tunnels in progress",
    columns.filter(({ name }) => name !== "Target" || program !== "proxy-server"),
    latest,
    {
      keyOf: ({ id, peer, since }) =>
        id === undefined ? undefined : visible(`${peer} ${id} ${since}`),
      empty: program === "proxy-server"
        ? "No tunnel is in progress. Each client connection opens one."
        : "No tunnel is in progress. Each client that the server forwards to this program opens one.",
      note: more > 0
        ? `Showing the newest ${formatNumber(latest.length)}; ${formatNumber(more)} more ${
          more === 1 ? "is" : "are"
        } in progress.`
        : undefined,
    },
  );
}

export function certificateTable({ certificates, at }: Status): Element {
  return table<StatusCertificate>(
    "certificates",
    "Certificates",
    [
      { name: "From", cell: ({ flag }) => element("code", {}, visible(flag)) },
      {
        name: "State",
        cell: ({ expiry, notAfter }) =>
          mark(expiry, formatLeft(Date.parse(notAfter) - Date.parse(at))),
      },
      { name: "Valid until", cell: ({ notAfter }) => formatTime(notAfter) },
      { name: "Subject", cell: ({ subject }) => nameOf(subject) },
      { name: "Names", cell: ({ names }) => namesOf(names) },
    ],
    certificates,
    {
      keyOf: () => undefined,
      empty: "No certificate is in use.",
    },
  );
}

/** A name from outside: kept from what is around it, whatever way it is written. */
export function nameOf(name: string | undefined): Element {
  if (name === undefined || name === "") return element("span", { class: "muted" }, "–");
  const text = visible(shorten(name, 512));
  const shown = shorten(text);
  return element("bdi", { title: shown === text ? undefined : text }, shown);
}

function namesOf(names: readonly string[]): Element {
  if (names.length === 0) return nameOf(undefined);
  const shown = names.slice(0, 5).map((name, index) => [index === 0 ? "" : ", ", nameOf(name)]);
  const more = names.length > 5 ? ` and ${formatNumber(names.length - 5)} more` : "";
  return element("span", { class: "names" }, shown, more);
}

/** A state in words, with a sign and a colour. */
function mark(
  state: StatusPeer["state"] | StatusTunnel["state"] | StatusCertificate["expiry"],
  words: string = state,
): Element {
  const [sign, look] = ({
    serving: ["✓", "good"],
    draining: ["↓", "warn"],
    silent: ["!", "bad"],
    connecting: ["…", "muted"],
    open: ["✓", "good"],
    far: ["✓", "good"],
    soon: ["!", "warn"],
    urgent: ["‼", "bad"],
    expired: ["✗", "bad"],
  } as const)[state];
  const urgency = state === "soon" ? ", expires soon" : state === "urgent" ? ", urgent" : "";
  return element("span", { class: `mark ${look}` }, `${sign} ${words}${urgency}`);
}

function ageOf(since: string, at: string): Element {
  const age = formatDuration(Date.parse(at) - Date.parse(since));
  return element("time", { datetime: since, title: formatTime(since) }, age);
}

function transportOf({ transport, nextUdpTrialAt }: StatusPeer, at: string): Contents {
  if (nextUdpTrialAt === undefined) return transport.toUpperCase();
  const leftMs = Date.parse(nextUdpTrialAt) - Date.parse(at);
  const note = ` UDP tried in ${formatDuration(leftMs)}`;
  return [transport.toUpperCase(), element("small", { class: "muted" }, note)];
}

function streamsOf({ streams, streamCredit }: StatusPeer): Contents {
  const credit = streamCredit === undefined ? "" : ` ${formatNumber(streamCredit)} free`;
  return [formatNumber(streams), element("small", { class: "muted" }, credit)];
}

function protocolOf({ alpn, library }: StatusPeer): Contents {
  return library === "deno"
    ? [nameOf(alpn), element("small", { class: "muted" }, " on Deno's QUIC")]
    : nameOf(alpn);
}

function lossOf({ lostPackets, sentPackets }: StatusPeer): Contents {
  if (lostPackets === undefined || sentPackets === undefined) return UNKNOWN;
  const title = `${formatNumber(lostPackets)} of ${formatNumber(sentPackets)} packets`;
  return element("span", { title }, formatPercent(lostPackets, sentPackets));
}

function rateOf(bytesPerSecond: number | undefined, bytes: number | undefined): Contents {
  if (bytesPerSecond === undefined || bytes === undefined) return UNKNOWN;
  return [
    formatRate(bytesPerSecond),
    element("small", { class: "muted" }, ` ${formatBytes(bytes)} total`),
  ];
}
