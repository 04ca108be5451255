# Two images of twopass, each with its default model exported inside, so that nothing is exported at a first start:
#
#   docker build -t twopass .                       full: with CPU torch, for models of the hub, plots, and PDF and
#                                                   office files
#   docker build -t twopass:slim --target slim .    without torch: the default model, models exported elsewhere, or
#                                                   another program as encoder
#
# Both need /data writable and, where the root file system is read-only, a tmpfs at /tmp.

FROM python:3.11-slim-bookworm AS builder
WORKDIR /build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv --without-pip /opt/twopass
# By the CPU build's own tag: where its index can't be reached, plain torch==2.13.0 would be the CUDA build. What
# `make setup` left in docker/wheels/ is taken first, so that the file isn't fetched twice.
COPY docker/wheels wheels
RUN pip --python /opt/twopass/bin/python3 install --no-deps --retries 0 --find-links wheels \
        --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu
COPY requirements-run.lock ./
RUN pip --python /opt/twopass/bin/python3 install --no-deps --require-hashes -r requirements-run.lock
# 340 MB that only building and testing C++ extensions, or the packages' own tests, would need.
RUN cd /opt/twopass/lib/python3.11/site-packages \
    && rm -r torch/include torch/share torch/test \
    && find torch/bin -type f ! -name torch_shm_manager -delete \
    && find networkx numpy pandas scipy sklearn sympy -type d -name tests -prune -exec rm -r {} +
# twopass itself goes beside the environment, so that a change of it is a layer of kilobytes.
COPY pyproject.toml README.md ./
COPY index index
COPY server server
RUN pip --python /opt/twopass/bin/python3 install --no-deps --no-build-isolation --prefix /project . \
    && PYTHONPATH=/project/lib/python3.11/site-packages pip --python /opt/twopass/bin/python3 check
# The default model's ONNX file, compared with torch here. A server looks for it below its environment's share/; it
# makes folders for itself alone, and these are for everybody.
RUN PYTHONPATH=/project/lib/python3.11/site-packages /opt/twopass/bin/python3 -m server.cli \
        models export bundled --data-dir /export/share/twopass \
    && rm /export/share/twopass/models/exporting.lock \
    && chmod -R a+rX /export

FROM python:3.11-slim-bookworm AS slim-builder
WORKDIR /build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv --without-pip /opt/twopass
COPY requirements-run.lock docker/slim_lock.py ./
RUN python3 slim_lock.py requirements-run.lock >requirements-slim.lock \
    && pip --python /opt/twopass/bin/python3 install --no-deps --require-hashes -r requirements-slim.lock \
    && cd /opt/twopass/lib/python3.11/site-packages \
    && rm -r onnxruntime/transformers onnxruntime/quantization onnxruntime/tools \
    && find numpy -type d -name tests -prune -exec rm -r {} +

FROM python:3.11-slim-bookworm AS runtime
# A fixed number, so that a folder of the host's can be handed to it: chown 10001:10001 FOLDER.
RUN groupadd --gid 10001 twopass \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin twopass \
    && install -d -o twopass -g twopass /data
COPY docker/healthcheck.py /opt/twopass/healthcheck.py
ENV PATH=/opt/twopass/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TWOPASS_DATA_DIR=/data \
    TWOPASS_SERVER__HOST=0.0.0.0
USER 10001:10001
VOLUME /data
# `twopass serve` reads a config.yaml in its working directory: mount one here to use it.
WORKDIR /etc/twopass
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python3", "-I", "-S", "/opt/twopass/healthcheck.py"]
ENTRYPOINT ["twopass"]
CMD ["serve"]

FROM runtime AS slim
COPY --from=slim-builder /opt/twopass /opt/twopass
COPY --from=builder /export /opt/twopass
COPY --from=builder /project /opt/twopass

FROM runtime AS full
COPY --from=builder /opt/twopass /opt/twopass
COPY --from=builder /export /opt/twopass
COPY --from=builder /project /opt/twopass
