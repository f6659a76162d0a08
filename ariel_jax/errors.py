"""The exceptions this library raises on purpose.

Every class derives from `ArielError` and from the builtin that a caller would expect, so both
`except ArielError` and `except ValueError` work. A message says what was given, what is allowed
and what to do. The command line prints the message alone and exits with status 2.
"""


class ArielError(Exception):
    """Base of every error that this library raises on purpose."""


class ConfigError(ArielError, ValueError):
    """An argument, option or configuration value is not allowed."""


class UnsafeTransformError(ConfigError):
    """A step of a sampling chain would undo what an earlier one guarantees about private rows."""


class UnprovenMechanismError(ConfigError):
    """No proof bounds what this combination of settings tells about a private record."""


class PrivacyConfigError(ConfigError):
    """A privacy parameter, or several together, lie outside what a guarantee holds for."""


class AccountingMismatchError(ConfigError):
    """The price that is asked for is that of another way of drawing records."""


class PrivacyUnitError(ConfigError):
    """Several records belong to one owner, and nothing says how they are to be protected."""


class DemoTooLongError(ConfigError):
    """A private demonstration is longer than the public maximum."""


class RowCouplingError(ConfigError):
    """In this model one row of a batch may change the logits of another one."""


class InvalidRequestError(ConfigError):
    """A disclosure request names no data or no recipient, or a slot holds no node."""


class UnknownNodeError(ConfigError):
    """A slot, node or type of edge does not exist.

    Attributes:
        slot: it was looked for in.
        node: what was given.
        nearest: ids that look like it.
    """

    def __init__(self, message: str, *, slot: str, node: str, nearest: tuple[str, ...]) -> None:
        super().__init__(message)
        self.slot = slot
        self.node = node
        self.nearest = nearest


class OntologyCycleError(ConfigError):
    """Facts make different things equal: a cycle of edges that are not declared `same`.

    Attributes:
        path: ids of its nodes, in order.
    """

    def __init__(self, message: str, *, path: tuple[str, ...]) -> None:
        super().__init__(message)
        self.path = path


class ContradictoryJudgementError(ConfigError):
    """An import judges one request in two ways at the same time.

    Attributes:
        ids: of the rows.
    """

    def __init__(self, message: str, *, ids: tuple[int, ...]) -> None:
        super().__init__(message)
        self.ids = ids


class UntrustedSourceError(ConfigError):
    """A judgement comes from somebody who may not judge for the user."""


class HttpError(ArielError):
    """A call over HTTP is refused for how it was made.

    Attributes:
        status: that says so.
        kind: named in the error body.
    """

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


class MapperUnavailableError(ArielError, RuntimeError):
    """An encoder or a language model that maps text to nodes cannot be reached or used."""


class CheckpointError(ArielError, ValueError):
    """A file of weights, a tokenizer or a saved state is missing, damaged or not understood."""


class CapacityError(ArielError, RuntimeError):
    """A cache, buffer or memory limit is too small for what was asked."""


class MemoryLimitError(CapacityError, MemoryError):
    """A cache would take more memory than the caller allows; nothing was allocated."""


class KernelUnavailableError(ArielError, NotImplementedError):
    """No implementation of an operation can run here; the message lists every reason."""


class BackendError(ArielError, RuntimeError):
    """The asked platform, device or device feature is not there."""


class MissingExtraError(ArielError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class StorageError(ArielError, OSError):
    """A file could not be written durably (disk full, read-only, no permission).

    What the file held before is still there.
    """


class IntegrityError(ArielError, RuntimeError):
    """Stored or received data do not match their checksum, chain or signature."""


class EmptyLogError(IntegrityError):
    """A log that may only be read holds nothing, as a kill right after its file was made leaves it."""


class LedgerRollbackError(IntegrityError):
    """A ledger lacks events that were seen before: an older copy of it was put in its place."""


class PrivacyBudgetError(ArielError, RuntimeError):
    """A privacy budget does not cover what was asked; nothing was spent."""


class BudgetExceededError(PrivacyBudgetError):
    """A privacy budget does not cover a request for private text; nothing was spent.

    Attributes:
        needed: epsilon that the account would stand at afterwards.
        left: epsilon that is left.
        most_tokens: the longest request that would fit, in tokens; 0 where none does.
    """

    def __init__(self, message: str, *, needed: float, left: float, most_tokens: int) -> None:
        super().__init__(message)
        self.needed = needed
        self.left = left
        self.most_tokens = most_tokens


class ModelOutputError(ArielError, RuntimeError):
    """A model gave logits that nothing can be drawn from, such as NaN."""


class DisclosureDenied(ArielError, PermissionError):
    """A policy forbids handing out the asked data."""


def missing_extra(package: str, extra: str, purpose: str) -> MissingExtraError:
    """Returns the error for an optional package that is not installed.

    Args:
        package: the import name that failed, such as `"matplotlib"`.
        extra: the extra of this package that brings it, such as `"plot"`.
        purpose: what the package is needed for, as the subject of a sentence.

    Returns:
        An error to raise; its message names the command that installs the extra.
    """
    return MissingExtraError(
        f"{purpose} needs the package {package!r}, which is not installed. "
        f'Install it with: pip install "ariel-jax[{extra}]"'
    )
