# The wheel is built and its dependencies, those of every extra too, are installed, from locked hashes, in one stage;
# the image that runs has neither pip's cache nor a builder in it. Everything it writes goes to /data, so that the root
# may be read-only.

FROM python:3.13-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv /builder && python -m venv --without-pip /opt/forwarder
COPY requirements/build.txt requirements/extras.txt requirements/
RUN /builder/bin/pip install --no-deps --only-binary :all: --require-hashes -r requirements/build.txt \
 && /builder/bin/pip --python /opt/forwarder/bin/python install \
      --no-deps --only-binary :all: --require-hashes -r requirements/extras.txt
COPY pyproject.toml README.md CHANGELOG.md ./
COPY forwarder forwarder
ARG SOURCE_DATE_EPOCH=1700000000
RUN /builder/bin/hatchling build -t wheel -d /dist \
 && /builder/bin/pip --python /opt/forwarder/bin/python install --no-deps --no-index /dist/*.whl \
 && /builder/bin/pip --python /opt/forwarder/bin/python check \
 && python -m compileall -q /opt/forwarder

FROM python:3.13-slim-bookworm
# `make image` gives these; SOURCE is where your copy of this repository lives.
ARG VERSION=0.2.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG SOURCE=
LABEL org.opencontainers.image.title="forwarder" \
      org.opencontainers.image.description="A durable bridge between Courier and RudderStack / Segment" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}"
ENV PATH=/opt/forwarder/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    FORWARDER_DATA_DIR=/data
COPY --from=build /opt/forwarder /opt/forwarder
# Numeric, so that Kubernetes' runAsNonRoot can judge it; the volume inherits owner and mode.
RUN install -d -m 0700 -o 10001 -g 10001 /data
USER 10001:10001
# Give it a name (`-v forwarder-data:/data`): `--rm` deletes a volume without one, and the events in it.
VOLUME /data
WORKDIR /data
EXPOSE 8080
# A drain takes up to FORWARDER_DRAIN_MAX_S (25), and `docker stop` kills after 10: run with --stop-timeout 40.
STOPSIGNAL SIGTERM
# Alive, not ready: a daemon that turns senders away for later is well. It finds the address itself, and asks no proxy.
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 \
  CMD ["forwarder", "status", "--health"]
ENTRYPOINT ["forwarder"]
CMD ["run"]
