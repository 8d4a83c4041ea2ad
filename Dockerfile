FROM rust:1-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY third_party third_party
COPY migrations migrations
COPY src src
RUN cargo build --release --locked

# Needs DATABASE_URL or DATABASE_URL_FILE: a container is no place for the private PostgreSQL.
FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 events
COPY --from=build /src/target/release/elephantasm-events /usr/local/bin/
# By number: Kubernetes' runAsNonRoot cannot tell who a name is.
USER 10001
# Others reach this address: the server starts once a key was made (`key create`), or with EVENTS_INSECURE_NO_AUTH=true.
ENV EVENTS_LISTEN_ADDR=0.0.0.0:50051
EXPOSE 50051
HEALTHCHECK --start-period=10s CMD ["elephantasm-events", "healthcheck"]
ENTRYPOINT ["elephantasm-events"]
