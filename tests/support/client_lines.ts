// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { read } from "./repository.ts";

/** The lines for clients in docs/clients.md, "Settings of clients". */
export function clientLines(): string[] {
  const [, section] = /\n## Settings of clients\n([^]*?)\n## /.exec(read("docs/clients.md"))!;
  return Array.from(section!.matchAll(/^```text\n([^]*?)^```$/gm), ([, block]) => block!)
    .flatMap((block) => block.trimEnd().split("\n"));
}
