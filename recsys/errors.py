"""Every error a user can cause or must act on. The command line prints them as one line and exits with code 2.

RecsysError
├── ConfigError       a configuration key, type or value that is not allowed
├── DataError         input data that cannot be used as it is
├── ArtifactError     a run directory or a file in it that is missing, corrupted or of another version
├── ModelError        a backbone that cannot do what is asked of it
└── DependencyError   an optional package that is needed and not installed

A message says what was got, what is allowed, and what to do.
"""


class RecsysError(Exception):
    """Base of all errors of this package."""


class ConfigError(RecsysError):
    """A configuration key, type or value that is not allowed."""


class DataError(RecsysError):
    """Input data that cannot be used as it is."""


class ArtifactError(RecsysError):
    """A run directory, or a file in it, that is missing, corrupted or of another version."""


class ModelError(RecsysError):
    """A backbone that cannot do what is asked of it."""


class DependencyError(RecsysError):
    """An optional package that is needed and not installed."""
