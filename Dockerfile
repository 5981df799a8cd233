# One image for CUDA and CPU: the package index's torch carries its own CUDA libraries.
#
#   CUDA:  docker build -t universal_ray .
#          docker run --gpus all --shm-size 8g -v universal_ray:/data universal_ray
#   CPU:   docker build --build-arg TORCH_WHEEL_INDEX=ADDRESS -t universal_ray .
#          where ADDRESS is the address of PyTorch's CPU wheel index.
#
# No weights inside, but for the five tiny models of the package: what the hub gives is cached in
# the volume /data, beside the runs.
FROM python:3.12-slim

ARG TORCH_WHEEL_INDEX=""

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/data/huggingface

WORKDIR /app
COPY requirements.txt ./
# ray[default] is what a cluster's nodes need beyond a local run: dashboard and job submission.
RUN set -eu; \
    if [ -n "$TORCH_WHEEL_INDEX" ]; then \
        pip install --index-url "$TORCH_WHEEL_INDEX" "$(grep '^torch==' requirements.txt)"; \
    fi; \
    pip install -r requirements.txt 'ray[default]'

COPY . .
RUN set -eu; \
    pip install --no-deps --no-build-isolation -e .; \
    useradd --create-home --uid 1000 researcher; \
    mkdir -p /data/runs; \
    ln -s /data/runs runs; \
    chown -R researcher:researcher /data

USER researcher
VOLUME /data
ENTRYPOINT ["python"]
CMD ["jobs/run.py"]
