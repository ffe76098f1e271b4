# DRIFT on a CUDA server. Build and run:
#     docker build -t drift .
#     docker run --rm --gpus all -v "$PWD/runs:/work/runs" drift run emoji --backend cuda
FROM python:3.12-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src

# Dependencies first: a change of the code does not install them again. On Linux the wheel of
# PyTorch has CUDA's libraries; the driver is the host's.
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY common/embedded/ATTRIBUTION.md common/embedded/LICENSE-APACHE-2.0.txt common/embedded/
RUN mkdir -p drift drift_torch drift_mlx && touch common/__init__.py drift/__init__.py \
    && pip install -c constraints.txt '.[torch]' && pip uninstall --yes drift-toolkit

COPY common common
COPY drift drift
COPY drift_torch drift_torch
COPY drift_mlx drift_mlx
RUN pip install --no-deps . && useradd --create-home --uid 1000 drift && mkdir /work && chown 1000 /work

USER 1000
WORKDIR /work
ENTRYPOINT ["drift"]
CMD ["doctor"]
