// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Protocols of proxy-agent's clients: HTTP CONNECT, requests with an `http` URL, SOCKS5. */
export const CLIENT_PROTOCOLS = ["connect", "http", "socks5"] as const;

/** One of {@linkcode CLIENT_PROTOCOLS}. */
export type ClientProtocol = (typeof CLIENT_PROTOCOLS)[number];
