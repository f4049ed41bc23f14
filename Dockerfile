# The directory in a container. docs/packaging.md says how to run it; an agent belongs on the proxy itself.

# The compiler of rust-toolchain.toml; the tests compare them.
FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package pikepole

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 pikepole \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/pikepole --shell /usr/sbin/nologin pikepole \
 && install -d -m 0750 -o pikepole -g pikepole /var/lib/pikepole /var/lib/pikepole/directory
COPY --from=build /src/target/release/pikepole /usr/bin/pikepole
# A number, so that Kubernetes' runAsNonRoot can tell that it is not root.
USER 10001:10001
EXPOSE 8044
VOLUME ["/var/lib/pikepole"]
# Needs no token. With TLS, or another port, give your own: --health-cmd, or none: --no-healthcheck.
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s \
  CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8044 && printf 'GET /healthz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r line <&3 && [[ $line == *' 200 '* ]]"]
# It stops on SIGTERM, within 5 s.
ENTRYPOINT ["pikepole"]
CMD ["directory", "-c", "/etc/pikepole/directory.toml"]
