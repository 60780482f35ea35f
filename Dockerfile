# The worker image: Flink's worker pools and Dataflow run the pipeline's DoFns in it.
#
#     docker build --tag fullgrad-worker:0.1.0 .
#
# A launcher has the same minor version of Python and the same Beam; tests/test_image.py holds all versions against
# pyproject.toml and the lock files, and runs the steps below without a container engine.

# Beam's entry point, of the Beam that is installed: it fetches what a job stages, then starts Python.
FROM apache/beam_python3.11_sdk:2.77.0 AS beam

# The base is plain Python; CUDA and cuDNN are the wheels that TensorFlow itself asks for, pinned like all the rest. A tag
# such as tensorflow/tensorflow:2.21.0-gpu says neither which Python is in it, which must be that of Beam's entry point
# and of the launcher, nor which CUDA. Of the host only the driver is needed.
FROM python:3.11.15-slim-bookworm AS worker

# By number, so that Kubernetes can tell that it is not root.
RUN useradd --create-home --uid 1000 worker

# From what changes least to what changes most, so that a change of code makes one small layer anew.
WORKDIR /opt/fullgrad
COPY requirements-cuda.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements-cuda.lock
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock
COPY --from=beam /opt/apache/beam /opt/apache/beam
COPY pyproject.toml setup.py README.md LICENSE fullgrad_beam.py ./
COPY pipeline pipeline
COPY transforms transforms
RUN pip install --no-cache-dir --no-deps --no-build-isolation . && pip check

# Compiled code, so that no worker on a CPU like this one compiles it. On another CPU a worker compiles what it needs and
# keeps it among its temporary files.
ENV FULLGRAD_CACHE=/opt/fullgrad/cache
RUN python -m transforms.fullgrad.tensorflow.native

# Where Dataflow and GKE mount the driver.
ENV PATH=/usr/local/nvidia/bin:$PATH \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64
# The image is the environment. The entry point would make a virtual one for every worker, in a folder of root's.
ENV RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
WORKDIR /home/worker
# A worker is told all else by arguments; `--worker_pool` alone makes the container a pool that listens on port 50000.
ENTRYPOINT ["/opt/apache/beam/boot"]

# Without root. Should Dataflow give the worker folders that only root may write (reported in 2022, see
# github.com/pangeo-data/pangeo-docker-images/pull/360), `docker build --target worker` is the same image with root.
FROM worker
USER 1000
