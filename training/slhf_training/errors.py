"""What the user of `slhf-train` has to mend. The message names the file and line, or the key and value.

TrainingError
├── DataError        a file or data set that does not have the schema
├── SettingsError    a bad key or value in a configuration
├── JudgeError       a preference source that failed too often
├── DivergedError    a training whose loss or weights are no finite numbers
├── EngineError      an engine that failed while it wrote answers
└── RolloutError     a sampler that failed

slhf.errors has one more: SandboxError, of a host that cannot hold back the programs of answers, so that unit tests do
not run.
"""


class TrainingError(Exception):
    """The base class of what a user has to mend."""


class DataError(TrainingError):
    pass


class SettingsError(TrainingError):
    pass


class JudgeError(TrainingError):
    pass


class DivergedError(TrainingError):
    pass


class EngineError(TrainingError):
    pass


class RolloutError(TrainingError):
    pass
