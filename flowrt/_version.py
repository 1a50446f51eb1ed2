"""The package's version, read by the build and by `flowrt --version`."""

__version__ = "0.2.0"
