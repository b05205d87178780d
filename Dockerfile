# Strake with everything it needs, for one container (compose.yaml) or several (compose.full.yaml, contrib/kubernetes).
# docs/operations.md, "In a container", says how to run it. For a fixed base: --build-arg BASE=python@sha256:…
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /opt/strake
# Wheels only, with hashes, as in the Makefile. pip, and what makes sbom.json, stay in this stage.
ARG WHEELS="install --quiet --disable-pip-version-check --no-cache-dir --require-hashes --no-deps --only-binary :all:"
COPY requirements-sbom.txt /opt/build/
RUN python3 -m venv /opt/build/venv && /opt/build/venv/bin/pip ${WHEELS} -r /opt/build/requirements-sbom.txt
COPY requirements.txt ./
# Without translations and API browsers, which Strake does not serve, and the sources of compiled modules.
RUN python3 -m venv --without-pip .venv \
    && /opt/build/venv/bin/pip --python .venv/bin/python ${WHEELS} -r requirements.txt \
    && /opt/build/venv/bin/cyclonedx-py requirements requirements.txt --output-reproducible --of JSON -o sbom.json \
    && find .venv \( -name '*.po' -o -name '*.mo' -o -name '*.pyx' -o -name '*.c' -o -path '*/ninja/static/*' \) -delete
COPY . .
# Compiled here, because a read-only container keeps nothing. A checkout may have been made with any umask.
RUN rm requirements-sbom.txt \
    && .venv/bin/python -m compileall -q accounts credentials proxy strake \
    && chmod -R u+rwX,go+rX,go-w .

FROM ${BASE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Strake" \
      org.opencontainers.image.description="A proxy that keeps provider keys in a vault and gives out tokens instead" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Another user works too (--user), if /data belongs to it.
RUN useradd --uid 10001 --user-group --home-dir /data --no-create-home --no-log-init --shell /usr/sbin/nologin strake \
    && install -d -m 0700 -o strake -g strake /data /vault
COPY --from=build /opt/strake /opt/strake
WORKDIR /opt/strake
# *:8000 is every address of the container. compose.yaml publishes the port on this machine only.
ENV PATH=/opt/strake/.venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 \
    STRAKE_BIND=*:8000 STRAKE_HOME=/data STRAKE_RUNTIME=/tmp/strake
USER 10001:10001
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('localhost', 8000, timeout=4); c.request('GET', '/livez'); exit(c.getresponse().status != 200)"]
ENTRYPOINT ["python", "manage.py"]
CMD ["serve"]
