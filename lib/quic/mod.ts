// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** QUIC (RFC 9000) with mutual TLS, on the native layer of `@matrixai/quic`. */
export { CarrierRelay } from "./deno/carrier_relay.ts";
export {
  type AgentConnection,
  type AgentStream,
  type PeerStats,
  type QuicLibrary,
  type QuicLibraryChoice,
  quicLibraryChoices,
  quicLibraryOf,
} from "./agent_connection.ts";
export { QuicConnection } from "./connection.ts";
export type { ConnectionStats } from "./connection_stats.ts";
export type {
  DatagramEvents,
  DatagramSocket,
  OpenDatagramSocket,
  PeerLocation,
} from "./datagram_socket.ts";
export { checkDenoIdentity, DenoQuicEndpoint } from "./deno/endpoint.ts";
export { trustNoOtherCa } from "./deno/trust.ts";
export { type BindOptions, type CarrierOptions, QuicEndpoint } from "./endpoint.ts";
export { type DropReason, dropReasons, type EndpointStats } from "./endpoint_stats.ts";
export {
  type CloseInfo,
  ConnectionClosedError,
  describeClose,
  StreamEndedError,
  StreamOpenError,
  StreamResetError,
  StreamStoppedError,
  TlsAlert,
  tlsAlertOf,
} from "./errors.ts";
export type { ListenOptions } from "./listener.ts";
export { live } from "./live.ts";
export { NativeLibraryError } from "./quiche/native.ts";
export { BASE_DATAGRAM_BYTES, MIN_DATAGRAM_BYTES } from "./path/path_mtu.ts";
export {
  CARRIER_HANDSHAKE_MS,
  checkIdentity,
  congestionControls,
  identityOf,
  MAX_UNI_STREAMS,
  type PathOptions,
  pathOptions,
  type TlsIdentity,
  type TlsSource,
  type TransportOptions,
} from "./options.ts";
export { QuicStream } from "./stream.ts";
