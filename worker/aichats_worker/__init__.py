"""The worker: NATS requests in, streamed events out. `docs/architecture.md` shows the way of one request."""
