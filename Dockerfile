# SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
# SPDX-License-Identifier: Apache-2.0

# The images hold the programs and what glibc needs, nothing else: no shell, no package manager, no Deno.

# Nothing runs on the platform that an image is for, so one machine builds them for all. Those of agents can also be built
# for linux/arm64, where proxy-server does not run.
FROM --platform=$BUILDPLATFORM docker.io/library/node:22-bookworm-slim AS build
ARG COMMIT
ARG TARGETARCH
WORKDIR /src
COPY deno.json deno.lock server.ts agent.ts passthrough.ts ./
COPY lib lib
COPY release release
COPY tools tools
RUN case "$TARGETARCH" in arm64) arch=aarch64 ;; *) arch=x86_64 ;; esac && \
  COMMIT="$COMMIT" npx -y deno@2.9.6 task compile --target="$arch-unknown-linux-gnu"

FROM gcr.io/distroless/cc-debian12:nonroot AS quic-server
COPY --from=build /src/dist/*-linux-gnu/proxy-server /server
EXPOSE 8443/tcp 8888/udp
ENTRYPOINT ["/server"]

FROM gcr.io/distroless/cc-debian12:nonroot AS quic-client
COPY --from=build /src/dist/*-linux-gnu/proxy-agent /client
ENTRYPOINT ["/client"]

FROM gcr.io/distroless/cc-debian12:nonroot AS quic-client-tcp
COPY --from=build /src/dist/*-linux-gnu/proxy-passthrough /client-tcp
ENTRYPOINT ["/client-tcp"]
