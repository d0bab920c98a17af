# The program `gristmill`: workers, producers, migrations. Runs without root, on a read-only root, and writes nothing but what
# it is told to: mount a volume on /work to keep files there.
#
#   docker build -t gristmill .
#   docker run --rm --read-only gristmill gristmill --help

# Both stages are Debian 12: a program linked against a newer C library would not start in the second.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The caches are not part of any layer; the line tables are for debuggers, which an image has no use for.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package gristmill-producer --bin gristmill \
    && install -D --strip --mode=755 target/release/gristmill /out/gristmill

FROM debian:12-slim
# TLS reads the system's root certificates: without them no provider can be reached.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 gristmill \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /work --no-log-init gristmill \
    && install --directory --owner=gristmill --group=gristmill /work
COPY --from=build /out/gristmill /usr/local/bin/gristmill
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
WORKDIR /work
CMD ["gristmill", "worker"]
