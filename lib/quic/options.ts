// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Authority } from "../net/authority.ts";
import { type CloseInfo, TlsAlert, tlsAlertOf } from "./errors.ts";
import { type NativeConfig, quiche } from "./quiche/native.ts";
import { BASE_DATAGRAM_BYTES } from "./path/path_mtu.ts";

/** Certificates and key of one end, PEM. */
export interface TlsIdentity {
  /** CA certificates that the peer's certificate must chain to. */
  readonly ca: Uint8Array;
  /** Certificate chain, leaf first. */
  readonly cert: Uint8Array;
  /** Private key of the leaf. */
  readonly key: Uint8Array;
  /** CA certificates that are not valid now, to explain failures with. */
  readonly leftOutCa?: Uint8Array;
}

/**
 * Certificates and key that may be replaced: connections that start from then on use what is
 * current, all others go on. What becomes current has passed {@linkcode checkIdentity}, and is
 * another object than before.
 */
export interface TlsSource {
  readonly current: TlsIdentity;
  /** What is best for a peer of this IP address. @default {current} */
  identityFor?(hostname: string): TlsIdentity;
  /**
   * Learns that a peer's chain failed because a signature in it did not fit.
   *
   * @returns whether another handshake with this IP address may succeed
   */
  refused?(hostname: string, chain: readonly Uint8Array[]): boolean;
}

/** Certificates and key as of now. @param hostname IP address of a peer, if they are for one */
export function identityOf(tls: TlsIdentity | TlsSource, hostname?: string): TlsIdentity {
  if (!("current" in tls)) return tls;
  return hostname !== undefined && tls.identityFor?.(hostname) || tls.current;
}

/** Whether another handshake may succeed after one that this end has ended. */
export function mayRetry(
  tls: TlsIdentity | TlsSource,
  info: CloseInfo,
  { hostname }: Authority,
  chain: readonly Uint8Array[] | null,
): boolean {
  return info.by === "local" && tlsAlertOf(info) === TlsAlert.DecryptError && chain !== null &&
    "current" in tls && tls.refused?.(hostname, chain) === true;
}

/** Time that a handshake through a carrier may take. */
export const CARRIER_HANDSHAKE_MS = 4_000;

/** Algorithms of congestion control, the one that is best for most paths first. */
export const congestionControls = ["bbr", "cubic", "reno"] as const;

/** How a connection uses the path; what is to be chosen by who runs a program. */
export interface PathOptions {
  /** IP packets of this many bytes, whatever the path carries; 0 finds out what it does. */
  readonly mtu: number;
  readonly congestionControl: typeof congestionControls[number];
}

/**
 * What both ends of a connection may set; by default, `mtu` is 0 and congestion control the first
 * there is.
 */
export interface TransportOptions extends Partial<PathOptions> {
  /** Certificates and key. */
  readonly tls: TlsIdentity | TlsSource;
  /** ALPN protocol names, most wanted first (RFC 7301). */
  readonly alpn: readonly string[];
  /** Time without a packet from the peer after which a connection is dead. @default {5000} */
  readonly idleTimeoutMs?: number;
  /** Time a handshake may take. @default {2000} */
  readonly handshakeTimeoutMs?: number;
  /**
   * The same through a carrier, which may lead over distant proxies, and where TCP repeats what is
   * lost.
   *
   * @default {4000}
   */
  readonly carrierHandshakeTimeoutMs?: number;
  /** A PING is sent after this much silence of the peer's; 0 for never. @default {0} */
  readonly keepAliveMs?: number;
  /** Bidirectional streams the peer may have open at a time. @default {10000} */
  readonly maxStreams?: number;
  /**
   * Unidirectional streams the peer may have open at a time, each with 16 KiB under way. quiche
   * 0.18.0 counts one that this end has stopped for ever.
   *
   * @default {3}
   */
  readonly maxUniStreams?: number;
  /** Bytes of one stream that the peer may have under way at first. @default {262144} */
  readonly streamWindowBytes?: number;
  /**
   * Bytes of one stream that the peer may have under way at most: the window grows up to here while
   * the reader keeps up, so this bounds what a stream whose reader has stopped can hold.
   *
   * @default {8388608}
   */
  readonly maxStreamWindowBytes?: number;
}

/** {@linkcode TransportOptions} with every default filled in. */
export type TransportSettings = Required<TransportOptions>;

/** The path options among others. */
export function pathOptions({ mtu, congestionControl }: PathOptions): PathOptions {
  return { mtu, congestionControl };
}

/** Fills in the defaults. */
export function transportSettings(options: TransportOptions): TransportSettings {
  return {
    idleTimeoutMs: 5000,
    handshakeTimeoutMs: 2000,
    carrierHandshakeTimeoutMs: CARRIER_HANDSHAKE_MS,
    keepAliveMs: 0,
    maxStreams: 10_000,
    maxUniStreams: MAX_UNI_STREAMS,
    streamWindowBytes: 256 << 10,
    maxStreamWindowBytes: 8 << 20,
    mtu: 0,
    congestionControl: congestionControls[0],
    ...options,
  };
}

/**
 * Credit for all streams of a connection together: no limit that is ever reached.
 *
 * quiche shrinks a smaller one to what the recent throughput needs. The bytes that stopped readers
 * leave unread would then use it up, and stall every other stream of the connection. Memory is
 * bounded per stream instead.
 */
const CONNECTION_CREDIT = 2 ** 50;

/** Unidirectional streams that each end of this project allows the other one by default. */
export const MAX_UNI_STREAMS = 3;

/** Unidirectional streams carry control messages, which are read as they come. */
const UNI_STREAM_WINDOW_BYTES = 16 << 10;

/**
 * What both ends sign handshakes with and accept, in BoringSSL's notation. Without it BoringSSL
 * leaves Ed25519 and P-521 out, so that a certificate with such a key fails every handshake. The
 * PKCS#1 schemes sign no TLS 1.3 handshake; they tell the peer that its chain may use them.
 */
export const SIGNATURE_ALGORITHMS = [
  "ecdsa_secp256r1_sha256",
  "ed25519",
  "rsa_pss_rsae_sha256",
  "ecdsa_secp384r1_sha384",
  "rsa_pss_rsae_sha384",
  "ecdsa_secp521r1_sha512",
  "rsa_pss_rsae_sha512",
  "rsa_pkcs1_sha256",
  "rsa_pkcs1_sha384",
  "rsa_pkcs1_sha512",
].join(":");

/**
 * Makes the native configuration of one end. Both ends demand and verify a certificate of the
 * peer's.
 *
 * @param maxDatagramBytes what will be sent at most; quiche makes its congestion windows of it
 * @throws {Error} when the certificates or the key cannot be used
 */
export function nativeConfig(
  settings: TransportSettings,
  maxDatagramBytes = BASE_DATAGRAM_BYTES,
  tls = identityOf(settings.tls),
): NativeConfig {
  const config = quiche.Config.withBoringSslCtx(
    true,
    false,
    tls.ca,
    [tls.key],
    [tls.cert],
    SIGNATURE_ALGORITHMS,
  );
  config.setApplicationProtos([...settings.alpn]);
  config.setMaxIdleTimeout(settings.idleTimeoutMs);
  config.setMaxRecvUdpPayloadSize(MAX_RECEIVED_DATAGRAM_BYTES);
  config.setMaxSendUdpPayloadSize(maxDatagramBytes);
  config.setInitialMaxData(CONNECTION_CREDIT);
  config.setMaxConnectionWindow(CONNECTION_CREDIT);
  config.setInitialMaxStreamDataBidiLocal(settings.streamWindowBytes);
  config.setInitialMaxStreamDataBidiRemote(settings.streamWindowBytes);
  config.setMaxStreamWindow(settings.maxStreamWindowBytes);
  config.setInitialMaxStreamsBidi(settings.maxStreams);
  config.setInitialMaxStreamsUni(settings.maxUniStreams);
  config.setInitialMaxStreamDataUni(UNI_STREAM_WINDOW_BYTES);
  // Without these two, quiche 0.18.0 keeps state for as many addresses and connection ids as the
  // peer likes.
  config.setActiveConnectionIdLimit(2);
  config.setDisableActiveMigration(true);
  config.setCcAlgorithmName(settings.congestionControl);
  config.enablePacing(false);
  return config;
}

/**
 * Finds out whether connections could be made with certificates and key.
 *
 * @throws {Error} when they could not
 */
export function checkIdentity(tls: TlsIdentity): void {
  nativeConfig(transportSettings({ tls, alpn: [] }));
}

/** Room for a received datagram; longer ones are dropped. */
export const MAX_RECEIVED_DATAGRAM_BYTES = 16_384;
