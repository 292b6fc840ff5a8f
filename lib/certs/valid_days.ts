// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** How long certificates are valid, in days, unless somebody says otherwise. */
export const VALID_DAYS = 365;
