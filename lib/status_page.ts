// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Status } from "./status.ts";

export function statusPage(status: Status, _nonce: string): string {
  return `<pre>${JSON.stringify(status)}</pre>`;
}

export function statusPageHeaders(_nonce: string): Record<string, string> {
  return { "Content-Type": "text/html" };
}
