// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Connections, bidirectional and unidirectional streams of this process that have not ended, for
 * leak checks.
 */
export const live = { connections: 0, streams: 0, uniStreams: 0 };
