ARG BASE_IMAGE=python:3.13-slim-trixie

FROM ${BASE_IMAGE} AS build
# `otel` is `runtime` with OpenTelemetry, for traces: 15 MB more.
ARG LOCK=runtime
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/build.lock requirements/${LOCK}.lock requirements/
# pip and the build backends stay in /opt/build: what is shipped, /opt/worker, has none of them.
# Wheels are made first, since one dependency has none and needs setuptools to be built.
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/build \
    && /opt/build/bin/pip install --quiet --no-deps --require-hashes -r requirements/build.lock \
    && /opt/build/bin/pip wheel --quiet --no-deps --no-build-isolation --require-hashes -r requirements/${LOCK}.lock -w /wheels \
    && python3 -m venv --without-pip /opt/worker \
    && /opt/build/bin/pip --python /opt/worker/bin/python install --quiet --no-deps --no-index /wheels/*.whl
COPY pyproject.toml LICENSE README.md ./
COPY client client
COPY schemas schemas
COPY worker worker
# --root: the project's own files alone, for a layer of their own.
RUN /opt/build/bin/pip wheel --quiet --no-deps --no-build-isolation -w /dist . \
    && /opt/build/bin/pip --python /opt/worker/bin/python install --quiet --no-deps --no-index --no-warn-script-location --root /project /dist/*.whl

FROM ${BASE_IMAGE}
ARG VERSION=0.0.0+unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="aichats-worker" \
      org.opencontainers.image.description="A NATS queue worker that streams text and images from ai-chats.org" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/worker/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1
# Two layers: a change of the code moves kilobytes.
COPY --from=build /opt/worker /opt/worker
COPY --from=build /project /
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["aichats-worker"]
CMD ["run"]
