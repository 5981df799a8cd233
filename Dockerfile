# One image for CUDA and CPU: the package index's torch carries its own CUDA libraries.
#
#   CUDA:  docker build -t universal_ray .
#          docker run --gpus all --shm-size 8g -v universal_ray:/data universal_ray
#   CPU:   docker build --build-arg TORCH_WHEEL_INDEX=ADDRESS -t universal_ray .
#          where ADDRESS is the address of PyTorch's CPU wheel index.
#
# No weights inside, but for the five tiny models of the package: what the hub gives is cached in
# the volume /data, beside the runs.
FROM debian:trixie-slim

ARG TORCH_WHEEL_INDEX=""

ENV PATH=/opt/venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    HF_HOME=/data/huggingface

# KubeRay starts Ray in a login shell, which makes its own PATH, and probes a node by wget.
RUN set -eu; \
    apt-get update; \
    apt-get install --yes --no-install-recommends ca-certificates python3-venv wget; \
    rm -rf /var/lib/apt/lists/*; \
    python3 -m venv /opt/venv; \
    echo 'PATH=/opt/venv/bin:$PATH' > /etc/profile.d/venv.sh

WORKDIR /app
COPY requirements.txt requirements.txt
COPY deploy/requirements.txt deploy/requirements.txt
# ray[default] is what a cluster's nodes need beyond a local run: dashboard and job submission.
RUN set -eu; \
    if [ -n "$TORCH_WHEEL_INDEX" ]; then \
        pip install --index-url "$TORCH_WHEEL_INDEX" "$(grep '^torch==' requirements.txt)"; \
    fi; \
    pip install -r requirements.txt -r deploy/requirements.txt 'ray[default]'

COPY . .
RUN set -eu; \
    pip install --no-deps --no-build-isolation -e .; \
    useradd --create-home --uid 1000 researcher; \
    mkdir -p /data/runs; \
    ln -s /data/runs runs; \
    chown -R researcher:researcher /data

# By number: Kubernetes cannot tell that a name is not root's.
USER 1000
VOLUME /data
ENTRYPOINT ["python"]
CMD ["jobs/run.py"]
