# The relayer. The ledger lives in /data: mount a volume there.
#   docker build -t stipend .
#   docker run -v ledger:/data -v ./keys:/keys:ro -p 127.0.0.1:8420:8420 stipend \
#     serve --chain-id 8453 --escrow 0x… --guardian 0x… --start-block 123 --rpc-url https://… \
#     --keystore /keys/submitter.json --password-file /keys/submitter.pass
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package stipend-cli && mkdir /data

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/stipend /usr/local/bin/stipend
COPY --from=build --chown=nonroot:nonroot /data /data
WORKDIR /data
VOLUME /data
ENV STIPEND_LISTEN=0.0.0.0:8420 STIPEND_DATABASE=/data/stipend.db
EXPOSE 8420
ENTRYPOINT ["stipend"]
CMD ["--help"]
