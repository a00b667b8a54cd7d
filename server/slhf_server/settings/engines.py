"""`python -m slhf_server.settings.engines FLAG...`: the engines that a server with these settings needs, one a line.

`engine` is the one in the server's own process. scripts/environment asks, to know what has to be installed.
"""

import sys

from slhf_server.settings.reading import load_settings

if __name__ == "__main__":
    sys.stdout.writelines(f"{name}\n" for name in load_settings(sys.argv[1:]).engine_names)
