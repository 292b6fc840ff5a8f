// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { read } from "./repository.ts";

/** The lines for clients in docs/clients.md, "Settings of clients". */
export function clientLines(): string[] {
  const [, section] = /\n## Settings of clients\n([^]*?)\n## /.exec(read("docs/clients.md"))!;
  return Array.from(section!.matchAll(/^```text\n([^]*?)^```$/gm), ([, block]) => block!)
    .flatMap((block) => block.trimEnd().split("\n"));
}

/** One of them, by its beginning, for a tunnel. */
export function clientLine(
  begin: string,
  { host, port }: { readonly host: string; readonly port: number },
): string {
  const line = clientLines().find((line) => line.startsWith(begin));
  if (line === undefined) throw new Error(`docs/clients.md has no line ${begin}…`);
  return atTunnel(line, { host, port });
}

/** A line with the address of a tunnel. */
export function atTunnel(
  line: string,
  { host, port }: { readonly host: string; readonly port: number },
): string {
  return line.replaceAll("tunnel.example", host).replaceAll("8443", `${port}`);
}
