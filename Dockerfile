# Both stages are Debian 12: a program linked against a newer C library would not start in the second.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package gristmill-producer --package gristmill-worker --bins

FROM debian:12-slim
# TLS reads the system's root certificates: without them no provider can be reached.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --create-home --uid 10001 gristmill
COPY --from=build /src/target/release/gristmill /src/target/release/gristmill-worker /usr/local/bin/
USER gristmill
WORKDIR /home/gristmill
CMD ["gristmill", "worker"]
