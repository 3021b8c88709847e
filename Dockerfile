FROM python:3.11-slim
# One engine, ctransformers, has no wheel for every platform.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ make && rm -rf /var/lib/apt/lists/*
# These folders are the user's, and so is a volume that is mounted over the last.
RUN useradd --create-home --uid 10001 ggserve \
    && install --directory --owner=10001 /home/ggserve/app /home/ggserve/.cache /home/ggserve/.cache/huggingface
USER 10001
WORKDIR /home/ggserve/app
COPY --chown=10001 . .
RUN python -m venv .venv && .venv/bin/pip install --no-cache-dir -r requirements.txt
ENV HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --start-period=5m CMD [".venv/bin/python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health')"]
CMD [".venv/bin/python", "main.py"]
