// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { type Authority, formatAuthority } from "../lib/net/authority.ts";

/** Where kube-apiserver has the files of its `tlsConfig`. */
const FILES = "/etc/kubernetes/egress";
/** The server's `--uds-name`, which kube-apiserver sees under the same path. */
const SOCKET = "/run/quic-tunnel/egress.sock";

/**
 * kube-apiserver's configurations for a server with `--listen-tls` and for one with `--uds-name`.
 *
 * `cluster` is traffic to nodes, pods and services; all else stays as it is.
 *
 * @param server as kube-apiserver reaches it; the server's certificate has the host
 * @returns the content by file name
 */
export function egressSelectors(server: Authority): Record<string, string> {
  return {
    "egress-tls.yaml": configuration(`tcp:
          url: https://${formatAuthority(server)}
          tlsConfig:
            caBundle: ${FILES}/ca.crt
            clientCert: ${FILES}/tls.crt
            clientKey: ${FILES}/tls.key`),
    "egress-socket.yaml": configuration(`uds:
          udsName: ${SOCKET}`),
  };
}

const configuration = (transport: string) =>
  `apiVersion: apiserver.k8s.io/v1beta1
kind: EgressSelectorConfiguration
egressSelections:
  - name: cluster
    connection:
      proxyProtocol: HTTPConnect
      transport:
        ${transport}
`;
