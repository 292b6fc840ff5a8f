// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Keepalive probes of TCP connections (RFC 9293 §3.8.4), for which Deno only has a switch: Linux
 * then probes after 2 hours. The interval is set through the C library, on Linux and with
 * `--allow-ffi`.
 */
import type { Logger } from "../log.ts";
import { getOption, IPPROTO_TCP, libc, setOption, SOL_SOCKET } from "./libc.ts";
import { descriptorOf } from "./tcp_reset.ts";

export interface TcpKeepaliveOptions {
  /**
   * Idle time after which a TCP connection is probed, and the interval of further probes, in ms; 0
   * for no probes.
   */
  readonly tcpKeepaliveMs: number;
}

/** socket(7), tcp(7) */
const SO_KEEPALIVE = 9;
const TCP_KEEPIDLE = 4;
const TCP_KEEPINTVL = 5;
const TCP_KEEPCNT = 6;

/** Probes without a response after which a connection is given up, as in Go's net package. */
const PROBES = 9;

/** The system's own number, which connections have as long as none is set. */
let systemProbes: number | undefined;

/** Sets the keepalive of a connection that was accepted, or comes from `connectTcp`. */
export function setTcpKeepalive(connection: Deno.TcpConn, ms: number): void {
  const fd = ms > 0 ? descriptorOf(connection) : undefined;
  if (fd === undefined) connection.setKeepAlive(ms > 0);
  else setKeepaliveOptions(fd, ms);
}

/** Sets the keepalive of a descriptor. */
export function setKeepaliveOptions(fd: number, ms: number): void {
  if (ms > 0) {
    const seconds = Math.ceil(ms / 1_000);
    setOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, seconds);
    setOption(fd, IPPROTO_TCP, TCP_KEEPINTVL, seconds);
    systemProbes ??= getOption(fd, IPPROTO_TCP, TCP_KEEPCNT);
    if (systemProbes !== PROBES) setOption(fd, IPPROTO_TCP, TCP_KEEPCNT, PROBES);
  }
  // Last, as it starts the timer.
  setOption(fd, SOL_SOCKET, SO_KEEPALIVE, ms > 0 ? 1 : 0);
}

/** Logs if the interval cannot be set, so that the system's defaults apply. */
export function logTcpKeepalive(log: Logger, { tcpKeepaliveMs }: TcpKeepaliveOptions): void {
  if (libc || tcpKeepaliveMs === 0) return;
  log.info("tcp keepalive has the system's interval", {
    tcpKeepaliveMs,
    reason: "the C library is not available",
  });
}
