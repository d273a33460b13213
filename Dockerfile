# meadow with everything that compiles, runs and reports; on a board install the wheel instead.
#   docker build -t meadow . && docker run --rm -v "$PWD:/work" meadow compile model.onnx --board zcu102
FROM python:3.12-slim-bookworm AS wheel
WORKDIR /source
COPY . .
RUN pip install --no-cache-dir "build==1.6.1" && python -m build --wheel --outdir /wheel

FROM python:3.12-slim-bookworm
# g++ builds the C simulation of a package
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++=4:12.* \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 meadow
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-cache-dir "$(echo /wheel/*.whl)[compile,reference,serve]"
USER 1000
WORKDIR /work
ENTRYPOINT ["meadowc"]
CMD ["--help"]
