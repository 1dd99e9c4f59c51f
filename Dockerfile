# syntax=docker/dockerfile:1
#
# The image of streamworker, and the base of yours:
#
#     FROM streamworker
#     USER root
#     COPY requirements.txt .
#     RUN pip install --no-cache-dir -r requirements.txt
#     USER 10001:10001
#     COPY app.py .
#
# runs `streamworker run app:app`; give other words of the command line with CMD ["run", "orders:app"].
# It writes nothing but a file in /tmp: with a read-only root file system, mount /tmp as tmpfs.

FROM python:3.14-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/streamworker
ENV PATH=/opt/streamworker/bin:$PATH
WORKDIR /build

# The dependencies first: this layer is made again when pyproject.toml changes, not when the code does.
COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *p['optional-dependencies']['uvloop'], *p['optional-dependencies']['http'], sep='\n')" > requirements.txt \
    && pip install --no-cache-dir -r requirements.txt

COPY README.md LICENSE ./
COPY streamworker/ streamworker/
RUN pip install --no-cache-dir --no-deps .


FROM python:3.14-slim AS runtime
LABEL org.opencontainers.image.title="streamworker" \
      org.opencontainers.image.description="An asyncio worker for Redis Streams" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/streamworker /opt/streamworker
# In a container an embedded server would be lost with it: without a Redis URL the worker says so and ends.
ENV PATH=/opt/streamworker/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    STREAMWORKER_EMBEDDED=never
WORKDIR /app
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=3s --start-period=10s CMD ["streamworker", "healthcheck"]
ENTRYPOINT ["streamworker"]
CMD ["run", "app:app"]


# What docker-compose.yml runs, and how an app is put on top.
FROM runtime AS flights
COPY examples/ examples/
CMD ["run", "examples.flights:app"]


# The last stage is what `docker build .` makes: the runtime without the example.
FROM runtime
