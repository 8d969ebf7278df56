# The server with everything that a cluster needs. Identity, keys, jobs, videos and the record lie in a volume:
#   docker build -t lichtspiel .
#   docker run --name lichtspiel -p 8000:8000 -v lichtspiel:/home/lichtspiel/data lichtspiel     (with a GPU: --gpus all)
#   docker exec lichtspiel lichtspiel serve key create ada
# For processors alone, add  --build-arg TORCH="torch --index-url https://download.pytorch.org/whl/cpu"  to the build.
FROM python:3.12-slim
ARG TORCH="torch"
RUN useradd --create-home --uid 1000 lichtspiel
WORKDIR /src
RUN pip install --no-cache-dir ${TORCH}
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY lichtspiel lichtspiel
RUN pip install --no-cache-dir '.[cluster,moderation,s3,serve]'
USER lichtspiel
WORKDIR /home/lichtspiel
RUN mkdir --mode=700 data
VOLUME /home/lichtspiel/data
ENV LICHTSPIEL_HOME=/home/lichtspiel/data
EXPOSE 8000
HEALTHCHECK --start-period=60s --interval=30s --timeout=5s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["lichtspiel"]
# Strangers reach the port of a container, so keys are asked for.
CMD ["serve", "--host", "0.0.0.0", "--require-key"]
