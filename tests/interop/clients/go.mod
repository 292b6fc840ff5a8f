// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

module qrht.invalid/tests/interop/clients

go 1.22
