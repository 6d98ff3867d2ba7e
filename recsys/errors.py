"""All errors that a user can cause or must act on. The command line prints them in one line and exits with code 2.

RecsysError
├── ConfigError       an invalid configuration key, type or value
├── DataError         invalid input data
├── ArtifactError     a run directory or file that is missing, corrupted or of another version
├── ModelError        a model that does not support what is needed
└── DependencyError   a missing optional package

A message states what was given, what is allowed, and what to do.
"""


class RecsysError(Exception):
    """Base of all errors of this package."""


class ConfigError(RecsysError):
    """An invalid configuration key, type or value."""


class DataError(RecsysError):
    """Invalid input data."""


class ArtifactError(RecsysError):
    """A run directory or file that is missing, corrupted or of another version."""


class ModelError(RecsysError):
    """A model that does not support what is needed."""


class DependencyError(RecsysError):
    """A missing optional package."""
