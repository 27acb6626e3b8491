"""Every error Steersman raises on purpose.

A message says what is wrong, why, and how to fix it. All of them derive from :class:`SteersmanError`, and also from
the builtin a caller would expect (``ValueError``, ``RuntimeError``), so that neither kind of handler misses one.
"""

from __future__ import annotations

__all__ = [
    "ArchitectureError",
    "BoundaryError",
    "BusyError",
    "DataError",
    "FileFormatError",
    "InterventionError",
    "JudgeError",
    "MismatchError",
    "NotAppliedError",
    "NotSavedError",
    "PromptError",
    "ResourceError",
    "SiteUnavailableError",
    "SpecError",
    "SteersmanError",
    "TraceError",
    "UnknownVectorError",
    "UnsupportedError",
    "VerificationError",
    "VersionError",
]


class SteersmanError(Exception):
    """Base class of all errors raised on purpose."""


class InterventionError(SteersmanError, ValueError):
    """An intervention that makes no sense on any model: NaN, no direction, an unknown site or position."""


class SpecError(SteersmanError, ValueError):
    """A JSON, TOML or command-line form of a plan that does not follow the schema."""


class UnknownVectorError(SpecError):
    """A name of a vector that stands for nothing; the message says what there is."""


class MismatchError(SteersmanError, ValueError):
    """A plan or vector that does not fit this model: width, layers, heads, batch size, fingerprint."""


class ArchitectureError(SteersmanError, ValueError):
    """A model whose parts could not be found, or which failed the proof that they are the right ones."""


class SiteUnavailableError(MismatchError):
    """A site that this model does not have: the middle of a parallel block, the neurons of a mixture of experts."""


class NotAppliedError(SteersmanError, RuntimeError):
    """A selector of positions that resolves to no token of a row."""


class BoundaryError(SteersmanError, RuntimeError):
    """A forward pass from which nobody can tell where the prompt ends, with a plan that needs to know."""


class BusyError(SteersmanError, RuntimeError):
    """A second thread entered a steering context on a model that another thread is steering."""


class PromptError(SteersmanError, ValueError):
    """A prompt that is empty, of the wrong type, or longer than the model's context."""


class DataError(SteersmanError, ValueError):
    """Contrast pairs or other data that cannot be used: empty, not text, missing columns."""


class ResourceError(SteersmanError, RuntimeError):
    """Memory, or workers, that do not suffice for the smallest piece of the work."""


class JudgeError(SteersmanError, RuntimeError):
    """A language model that was to rate texts, and did not: unreachable, refusing, or answering without a number."""


class FileFormatError(SteersmanError, ValueError):
    """A file that is truncated, hostile, of a newer format, or not what it claims to be."""


class UnsupportedError(SteersmanError, NotImplementedError):
    """Something an engine cannot do exactly, and therefore does not do at all."""


class TraceError(SteersmanError, RuntimeError):
    """A trace written in a way that cannot run: no prompt, layers out of order, a plan applied too late."""


class NotSavedError(SteersmanError, NameError):
    """A name used after a trace that did not bring it out."""


class VersionError(SteersmanError, ImportError):
    """A library in a version that this part was not tested with."""


class VerificationError(SteersmanError, RuntimeError):
    """What was baked does not do what the hooks do; nothing of it was left behind."""
