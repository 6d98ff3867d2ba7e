# The endpoint in a container: docker build -t recsys . && docker run -p 8000:8000 -v ./bundle:/bundle:ro -v ./keys.json:/keys.json:ro recsys
# On Linux plain `pip install torch` brings CUDA along; --build-arg PIP_EXTRA_INDEX_URL=... points to CPU-only wheels.
FROM python:3.12-slim AS build
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_EXTRA_INDEX_URL=${PIP_EXTRA_INDEX_URL} PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
RUN python -m venv /opt/recsys
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY recsys recsys
COPY pipelines pipelines
COPY serving serving
COPY configs configs
RUN /opt/recsys/bin/pip install -c constraints.txt '.[cpu,redis]'

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 recsys && mkdir /state && chown recsys /state
COPY --from=build /opt/recsys /opt/recsys
ENV PATH=/opt/recsys/bin:$PATH PYTHONUNBUFFERED=1
USER recsys
WORKDIR /state
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
# On addresses other than loopback it needs keys: `recsys keys create --keys keys.json --name NAME` writes the file.
CMD ["recsys", "serve", "/bundle", "--host", "0.0.0.0", "--port", "8000", "--keys", "/keys.json"]
