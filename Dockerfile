# The service and both pages.
#
#   docker build -t fish-speech-server .                                       for CPUs
#   docker build -t fish-speech-server:cuda --build-arg VARIANT=cuda .         for NVIDIA cards
#   docker build -t fish-speech-server:cluster --build-arg VARIANT=cuda --build-arg CLUSTER=true .
#
# The CUDA libraries come with torch's wheels: the host needs a driver and the NVIDIA Container
# Toolkit, nothing else. Weights are not part of the image; mount them at /models.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS environment
ARG VARIANT=cpu
ARG CLUSTER=false
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY requirements.txt requirements-cluster.txt ./
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
RUN case "$VARIANT" in \
        cpu) index=https://download.pytorch.org/whl/cpu ;; \
        cuda) index=https://download.pytorch.org/whl/cu130 ;; \
        *) echo "VARIANT is cpu or cuda, not $VARIANT" >&2; exit 1 ;; \
    esac; \
    pip install --no-cache-dir torch==2.13.0 --index-url "$index" --extra-index-url https://pypi.org/simple
RUN case "$CLUSTER" in \
        true) pip install --no-cache-dir -r requirements-cluster.txt ;; \
        false) pip install --no-cache-dir -r requirements.txt ;; \
        *) echo "CLUSTER is true or false, not $CLUSTER" >&2; exit 1 ;; \
    esac

FROM python:${PYTHON}-slim-bookworm
ARG VARIANT=cpu
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# Triton compiles a small launcher for every kernel when it first runs.
# hadolint ignore=DL3008
RUN if [ "$VARIANT" = cuda ]; then \
        apt-get update; \
        apt-get install -y --no-install-recommends gcc libc6-dev; \
        rm -rf /var/lib/apt/lists/*; \
    fi
RUN useradd --create-home --uid 10001 speech \
    && install -d -o speech -g speech /data /models
COPY --from=environment /opt/venv /opt/venv
WORKDIR /app
COPY LICENSE ./
COPY backend backend
COPY ui ui
COPY scripts scripts
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 \
    DATA_DIR=/data \
    MODELS_DIR=/models
USER 10001:10001
VOLUME ["/data", "/models"]
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=10m --start-interval=2s --retries=4 \
    CMD ["python", "-m", "scripts.check_ready"]
CMD ["python", "-m", "backend.app"]
