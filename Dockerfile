# The worker image: Flink's worker pools and Dataflow run the pipeline's DoFns in it.
# Python and Beam must be those of the launcher: Beam's SDK container brings the entry point that fits its version.
FROM apache/beam_python3.11_sdk:2.77.0 AS beam

FROM python:3.11-slim-bookworm

COPY --from=beam /opt/apache/beam /opt/apache/beam

WORKDIR /opt/fullgrad
COPY pyproject.toml README.md LICENSE ./
COPY pipeline pipeline
COPY transforms transforms
# TensorFlow's own wheels of CUDA and cuDNN, so that the image needs nothing of the host but the driver.
RUN pip install --no-cache-dir '.[gcp]' 'tensorflow[and-cuda]>=2.21,<2.22' \
    && useradd --create-home worker
USER worker

ENTRYPOINT ["/opt/apache/beam/boot"]
