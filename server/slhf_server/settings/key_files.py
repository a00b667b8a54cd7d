"""Reads a key that a setting holds, or a file that another setting names."""

import re
from pathlib import Path

from pydantic import SecretStr


def read_key(name: str, key: SecretStr | None, file: Path | None) -> SecretStr | None:
    """The key of the settings `NAME` and `NAME_file`; None: there is none.

    Raises ValueError, without the key, for both at once, a file that cannot be read, and what no header can hold.
    """
    if key is not None and file is not None:
        raise ValueError(f"{name} and {name}_file are both set: give one")
    source = name if file is None else f"{name}_file {str(file)!r}"
    if file is not None:
        try:
            key = SecretStr(file.read_text(encoding="utf-8-sig").strip())
        except (OSError, UnicodeDecodeError) as exc:
            problem = exc.strerror if isinstance(exc, OSError) else "not UTF-8 text"
            raise ValueError(f"{source}: {problem}") from exc
    if key is not None and not re.fullmatch(r"[!-~]+", key.get_secret_value()):
        raise ValueError(f"{source} is empty, or no key: it has spaces or letters beyond ASCII")
    if key is not None and re.fullmatch(r"""(["']).*\1""", key.get_secret_value()):
        raise ValueError(f"{source} stands in quotes, which docker's --env-file hands on")
    return key
