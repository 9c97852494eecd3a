# nplrp serve. Build: docker build -t nplrp . ; run: see docs/serving.md
FROM python:3.11-slim

# GNU's OpenMP wakes threads in microseconds; without it threads of nplrp's own share the work.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*

COPY . /src
RUN pip install --no-cache-dir "/src[serve]" && rm -rf /src

# Kernels are compiled for the CPU that builds the image, and found by their CPU's name. On another CPU they are compiled again
# at the first start: into memory if /var/cache/nplrp can't be written, else for good.
ENV NPLRP_CACHE=/var/cache/nplrp
RUN useradd --system --uid 10001 --home-dir /nonexistent nplrp && mkdir -p /var/cache/nplrp && chown nplrp /var/cache/nplrp
USER nplrp
RUN nplrp warmup

EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/v2/health/ready', timeout=2)"]
ENTRYPOINT ["nplrp", "serve", "--host", "0.0.0.0"]
CMD ["--weights", "/weights/model.h5"]
