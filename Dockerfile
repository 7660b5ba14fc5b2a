# Images of the service, and of the tools that prepare models for it:
#
#   docker build --tag normfold .                              the service, on the CPU
#   docker build --tag normfold:gpu --build-arg ORT=gpu .      the service, on NVIDIA GPUs
#   docker build --tag normfold:export --target export .       fold, verify and export ONNX files (no torch)
#   docker build --tag normfold:train --target train .         training too (torch)
#
# Packages are pinned in requirements/, with hashes; `make lock` writes it.

ARG ORT=cpu

FROM python:3.11-slim-bookworm AS base
ENV PATH=/opt/normfold/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1
# A volume that is first mounted here gets this owner.
RUN mkdir /models && chown 10001:10001 /models
WORKDIR /tmp

# Normfold only, copied over the packages: a change of it leaves the layer of packages unchanged.
FROM base AS normfold
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/normfold
COPY requirements/build.txt requirements/
RUN pip --python /opt/normfold/bin/python install --require-hashes --requirement requirements/build.txt
COPY pyproject.toml hatch_build.py README.md LICENSE source/
COPY normfold source/normfold
COPY contract source/contract
COPY models source/models
COPY export source/export
COPY service source/service
COPY display source/display
COPY cli source/cli
RUN pip --python /opt/normfold/bin/python install --no-deps --no-build-isolation --prefix /installed ./source

FROM base AS packages
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/normfold

FROM packages AS serve-packages
ARG ORT
COPY requirements/serve-${ORT}.txt requirements/
# Tests and sources of other languages, which are never loaded, are an eighth of its size. ONNX Runtime's library for
# programs in C is another 35 MB; Python's has everything in it. (On a GPU that was not tried, so it stays there.)
RUN pip --python /opt/normfold/bin/python install --no-deps --require-hashes --requirement requirements/serve-${ORT}.txt \
    && find /opt/normfold/lib -depth \
        \( -type d -name tests -o -name '*.[ch]' -o -name '*.cpp' -o -name '*.pyx' -o -name '*.pxd' \) -exec rm -r {} + \
    && if [ "$ORT" = cpu ]; then rm /opt/normfold/lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime.so.*; fi

FROM packages AS export-packages
COPY requirements/export.txt requirements/
RUN pip --python /opt/normfold/bin/python install --no-deps --require-hashes --requirement requirements/export.txt

# torch's CPU and CUDA builds share a version number, so it has no hash here. With an empty TORCH_INDEX: the CUDA build.
FROM packages AS train-packages
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements/train.txt requirements/torch.txt requirements/
RUN pip --python /opt/normfold/bin/python install --no-deps --require-hashes --requirement requirements/train.txt
# hadolint ignore=DL3059
RUN pip --python /opt/normfold/bin/python install ${TORCH_INDEX:+--extra-index-url $TORCH_INDEX} \
    --requirement requirements/torch.txt

FROM base AS train
LABEL org.opencontainers.image.title="Normfold, training" \
      org.opencontainers.image.description="Train batch-normalised networks, fold them, and publish them for serving" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=train-packages /opt/normfold /opt/normfold
COPY --from=normfold /installed /opt/normfold
ENV HOME=/tmp
USER 10001:10001
ENTRYPOINT ["normfold"]
CMD ["--help"]

FROM base AS export
LABEL org.opencontainers.image.title="Normfold, export" \
      org.opencontainers.image.description="Fold, verify and export ONNX files, and keep a repository of models" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=export-packages /opt/normfold /opt/normfold
COPY --from=normfold /installed /opt/normfold
ENV HOME=/tmp
USER 10001:10001
ENTRYPOINT ["normfold"]
CMD ["--help"]

FROM base AS serve
LABEL org.opencontainers.image.title="Normfold" \
      org.opencontainers.image.description="Serve batch-normalised networks over REST through ONNX Runtime" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=serve-packages /opt/normfold /opt/normfold
COPY --from=normfold /installed /opt/normfold
ENV HOME=/tmp \
    NORMFOLD_HOST=0.0.0.0 \
    NORMFOLD_REPOSITORY=/models \
    NORMFOLD_LOG_FORMAT=json
USER 10001:10001
# 8001: gRPC, with NORMFOLD_GRPC_PORT=8001.
EXPOSE 8000 8001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-m", "normfold.service.healthcheck"]
# PID 1: receives SIGTERM, forwards it to the worker processes, and waits for them.
ENTRYPOINT ["normfold"]
CMD ["serve"]
