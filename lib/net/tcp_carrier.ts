// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Options of TCP connections that carry datagrams, on Linux and with `--allow-ffi`. */
import { IPPROTO_TCP, libc, setOption, TCP_NODELAY } from "./libc.ts";

/** tcp(7) */
const TCP_CONGESTION = 13;
const TCP_NOTSENT_LOWAT = 25;

/** Bytes that the system takes beyond those that it may send now: what waits there delays the rest. */
const NOTSENT_BYTES = 128 << 10;

/** Not slowed down by single losses. Without it, or the right to use it, the default stays. */
const ALGORITHM = new TextEncoder().encode("bbr");

/** Sets them on a connection, or on a listener, whose connections have them then (accept(2)). */
export function setCarrierOptions(fd: number): void {
  setOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  setOption(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOTSENT_BYTES);
  libc?.setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, ALGORITHM, ALGORITHM.byteLength);
}
