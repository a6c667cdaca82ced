# Prediction image: predict, batch, serve, jobs, evaluate, phantom and doctor, without Lightning and TensorBoard.
# Build from the repository's root: docker build -f docker/predict.Dockerfile -t medseg-predict:cpu .
# docs/docker.md tells the build arguments and secrets.

# A Debian or Ubuntu image with Python 3.11 or later and its venv module; a site's mirror fits.
ARG BASE=python:3.11-slim-bookworm

# pip lives in a virtual environment of its own and stays out of the final image.
FROM ${BASE} AS tools
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/medseg
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_CONFIG_FILE=/run/secrets/pip_config \
    PIP_CONSTRAINT=/src/constraints.txt
WORKDIR /src
COPY constraints.txt ./

# PyTorch alone, as its CPU builds come from an index that has little else.
FROM tools AS torch
ARG DEVICE=cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=secret,id=pip_config --mount=type=secret,id=ca_bundle \
    case "${DEVICE}" in \
        cpu) set -- --index-url "${TORCH_INDEX}" ;; \
        gpu) set -- ;; \
        *) echo "DEVICE=${DEVICE}: must be cpu or gpu" >&2; exit 1 ;; \
    esac \
    && /opt/pip/bin/pip --python /opt/medseg/bin/python install --no-deps "$@" torch

FROM torch AS dependencies
COPY docker/predict-requirements.txt ./
RUN --mount=type=secret,id=pip_config --mount=type=secret,id=ca_bundle \
    /opt/pip/bin/pip --python /opt/medseg/bin/python install -r predict-requirements.txt

# medseg itself, in a folder that is laid over the dependencies: a change of code renews a small layer only.
# Without its dependencies, which would bring the trainer back in.
FROM dependencies AS medseg
COPY pyproject.toml README.md LICENSE ./
COPY conf conf
COPY medseg medseg
RUN --mount=type=secret,id=pip_config --mount=type=secret,id=ca_bundle \
    /opt/pip/bin/pip wheel --no-deps --wheel-dir /wheel . \
    && /opt/pip/bin/pip --python /opt/medseg/bin/python install --no-deps \
        --no-warn-script-location --root /overlay /wheel/*.whl

FROM ${BASE}
ARG DEVICE=cpu
LABEL org.opencontainers.image.title="medseg predict" \
      org.opencontainers.image.description="Segments medical images with a medseg bundle (${DEVICE})" \
      org.opencontainers.image.licenses="Apache-2.0"
# Any user id may run the image (docker run --user), so the folders it writes to are open like /tmp.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /home/medseg --shell /usr/sbin/nologin medseg \
    && install --directory /data \
    && install --directory --mode 1777 /home/medseg /project /project/runs /project/output /cache /state
COPY --from=dependencies /opt/medseg /opt/medseg
COPY --from=medseg /overlay /
# USER: PyTorch asks for the user's name, which a user id from outside has not.
# NVIDIA_*: what the NVIDIA container toolkit passes in; without it they have no effect.
ENV PATH=/opt/medseg/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/home/medseg \
    USER=medseg \
    MEDSEG_CACHE=/cache \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /project
USER 10001:10001
# The build fails where the image would: the right PyTorch, no trainer, prediction loads, the command answers.
RUN python -c "import sys, torch; sys.exit(0 if ('${DEVICE}' == 'gpu') == (torch.version.cuda is not None) else 'PyTorch is not the build for DEVICE=${DEVICE}')" \
    && python -c "import sys; from importlib.util import find_spec; sys.exit(', '.join(n for n in ('lightning', 'pytorch_lightning', 'tensorboard') if find_spec(n)) or 0)" \
    && python -c "import medseg.cli.predict, medseg.cli.batch, medseg.cli.serve, medseg.cli.evaluate, medseg.inference.predictor, medseg.writers.dicom_seg" \
    && python -m medseg predict --help > /dev/null
# A prediction runs once and ends; its exit code tells how it went.
HEALTHCHECK NONE
ENTRYPOINT ["python", "-m", "medseg"]
CMD ["predict", "--help"]
