// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The status page: one self-contained HTML document, which also works without its script. */
import type { Status } from "../status.ts";
import { escapeHtml, toHtml } from "./html.ts";
import { script } from "./script.ts";
import { style } from "./style.ts";
import { titleOf, view } from "./view.ts";

const ICON = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">
<path d="M2 14V8a6 6 0 0 1 12 0v6" fill="none" stroke="#3b7ddd" stroke-width="3"/></svg>`;

/**
 * Writes the document. Its script fetches a new one every 2 s.
 *
 * @param nonce same as for {@linkcode statusPageHeaders}: unguessable, and new for each response
 */
export function statusPage(status: Status, nonce: string): string {
  const nonceValue = escapeHtml(nonce);
  return `<!DOCTYPE html>
<html lang="en" data-version="${escapeHtml(status.version)}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${escapeHtml(titleOf(status))}</title>
<link rel="icon" href="data:image/svg+xml,${encodeURIComponent(ICON)}">
<style nonce="${nonceValue}">${style}</style>
</head>
<body>
<aside id="bar" aria-label="Updates">
<p id="state" role="status">Reload the page to update it; with JavaScript, it updates itself.</p>
<button id="pause" type="button" hidden>Pause</button>
</aside>
<div id="page">${view(status).map(toHtml).join("")}</div>
<script nonce="${nonceValue}">${script}</script>
</body>
</html>
`;
}

/** The headers that its answer needs. */
export function statusPageHeaders(nonce: string): Record<string, string> {
  const policy = {
    "default-src": "'none'",
    "script-src": `'nonce-${nonce}'`,
    "style-src": `'nonce-${nonce}'`,
    "img-src": "data:", // the icon
    "connect-src": "'self'",
    "frame-ancestors": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",
  };
  return {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": Object.entries(policy)
      .map(([directive, value]) => `${directive} ${value}`).join("; "),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
  };
}
