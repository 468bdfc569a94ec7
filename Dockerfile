# alignkit for a CPU, or with --build-arg DEVICE=gpu for NVIDIA GPUs (driver 580 or newer and its container toolkit on the host).
# docs/containers.md has the commands.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm
ARG DEVICE=cpu
# an index of torch's builds for CPUs, where the first one has only those for GPUs
ARG PIP_EXTRA_INDEX_URL=""
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# a compiler: DeepSpeed, vLLM and Triton build small kernels; tini hands on SIGTERM, upon which a run leaves a checkpoint
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make tini \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/alignkit
COPY requirements-${DEVICE}.txt ./
# the pins are whole, so nothing is resolved; deepspeed's own build looks at the installed torch
RUN grep -vE '^(#|deepspeed==)' "requirements-${DEVICE}.txt" > without-deepspeed.txt \
    && pip install --no-cache-dir --no-deps -r without-deepspeed.txt \
    && pip install --no-cache-dir --no-deps --no-build-isolation "$(grep '^deepspeed==' "requirements-${DEVICE}.txt")"

COPY pyproject.toml README.md LICENSE ./
COPY alignkit alignkit
COPY recipes recipes
COPY reward_models reward_models
COPY evals evals
COPY launch launch
RUN pip install --no-cache-dir --no-deps --no-build-isolation . \
    && useradd --create-home alignkit \
    && mkdir /home/alignkit/work \
    && chmod --recursive a+rwX /home/alignkit

USER alignkit
# for --user, too: models of the hub are kept below it
ENV HOME=/home/alignkit
WORKDIR /home/alignkit/work
# threads that spin while they wait make processes that share few cores 10 times slower
ENV OMP_WAIT_POLICY=PASSIVE
ENTRYPOINT ["tini", "--", "alignkit"]
CMD ["--help"]
