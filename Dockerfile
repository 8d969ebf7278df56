# The server with everything that a cluster needs:  docker build -t lichtspiel . && docker run -p 8000:8000 lichtspiel
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
ENV LICHTSPIEL_HOME=/home/lichtspiel/data
EXPOSE 8000
ENTRYPOINT ["lichtspiel"]
# Strangers reach the port of a container, so keys are asked for.
CMD ["serve", "--host", "0.0.0.0", "--require-key"]
