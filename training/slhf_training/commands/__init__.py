"""The subcommands of `slhf-train`, a module each: `HELP`, `add_arguments(parser)` and `run(arguments)`."""
