"""The entry point of a checkout: `uvicorn main:app` or `python main.py`. An installed package has the command
`ggserve`."""

import sys

# The model file to serve, if you prefer editing this line to setting MODEL_PATH, which takes precedence.
model_path = ""

if __name__ == "__main__":
    from ggserve.cli import main

    sys.exit(main(["serve", *sys.argv[1:]], model_path=model_path))

from ggserve.app import create_app

app = create_app(model_path=model_path)
