FROM rust:1-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY third_party third_party
COPY migrations migrations
COPY console console
COPY src src
RUN cargo build --release --locked

# Requires DATABASE_URL or DATABASE_URL_FILE: the image does not contain a private PostgreSQL.
FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 events
COPY --from=build /src/target/release/elephantasm-events /usr/local/bin/
# A numeric id, because Kubernetes' runAsNonRoot cannot verify a name.
USER 10001
# On a public address the server starts only if an API key exists (`key create`) or EVENTS_INSECURE_NO_AUTH=true.
ENV EVENTS_LISTEN_ADDR=0.0.0.0:50051
EXPOSE 50051
HEALTHCHECK --start-period=10s CMD ["elephantasm-events", "healthcheck"]
ENTRYPOINT ["elephantasm-events"]
