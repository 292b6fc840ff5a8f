# SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
# SPDX-License-Identifier: Apache-2.0

# The images hold the programs and what glibc needs, nothing else: no shell, no package manager, no Deno.

FROM docker.io/library/node:22-bookworm-slim AS build
ARG COMMIT
WORKDIR /src
COPY deno.json deno.lock server.ts agent.ts passthrough.ts ./
COPY lib lib
COPY release release
COPY tools tools
RUN COMMIT="$COMMIT" npx -y deno@2.9.6 task compile

FROM gcr.io/distroless/cc-debian12:nonroot AS quic-server
COPY --from=build /src/dist/proxy-server /server
EXPOSE 8443/tcp 8888/udp
ENTRYPOINT ["/server"]

FROM gcr.io/distroless/cc-debian12:nonroot AS quic-client
COPY --from=build /src/dist/proxy-agent /client
ENTRYPOINT ["/client"]

FROM gcr.io/distroless/cc-debian12:nonroot AS quic-client-tcp
COPY --from=build /src/dist/proxy-passthrough /client-tcp
ENTRYPOINT ["/client-tcp"]
