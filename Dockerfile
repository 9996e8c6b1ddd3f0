# The page of `lafr ui` in a container, on a CPU or on NVIDIA's GPUs:
#
#   docker build -t lafr .                                       for CPUs
#   docker build -t lafr:gpu --build-arg TORCH=cu128 .           for GPUs, with CUDA 12.8
#   docker run --rm -p 127.0.0.1:7860:7860 lafr                  then open http://127.0.0.1:7860
#   docker run --rm --gpus all -p 127.0.0.1:7860:7860 lafr:gpu
#
# The port is opened to this computer alone: whoever reaches the page can use it. Other commands run as well:
#
#   docker run --rm -v "$PWD:/photos" -w /photos --user "$(id -u)" lafr restore -i old.jpg -o results
FROM python:3.13-slim-bookworm

# Which build of PyTorch: a folder of https://download.pytorch.org/whl
ARG TORCH=cpu

# What OpenCV's wheels need of the system, and a compiler for LAFR's kernels on CPUs.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 g++ \
    && rm -rf /var/lib/apt/lists/*

RUN pip install --no-cache-dir --index-url "https://download.pytorch.org/whl/${TORCH}" torch torchvision

COPY setup.py pyproject.toml README.md LICENSE /opt/lafr/
COPY lafr /opt/lafr/lafr
COPY lafr_arch /opt/lafr/lafr_arch
COPY lafr_base /opt/lafr/lafr_base
COPY lafr_losses /opt/lafr/lafr_losses
COPY lafr_metrics /opt/lafr/lafr_metrics
COPY lafr_models /opt/lafr/lafr_models
COPY lafr_studies /opt/lafr/lafr_studies
COPY data /opt/lafr/data
RUN pip install --no-cache-dir "/opt/lafr[ui,video]"

RUN useradd --create-home lafr
USER lafr
WORKDIR /home/lafr
# Any user may run it: caches go where everyone may write.
ENV HOME=/tmp

EXPOSE 7860
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860')"]
ENTRYPOINT ["lafr"]
CMD ["ui", "--host", "0.0.0.0", "--port", "7860", "--no_browser"]
