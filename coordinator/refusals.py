"""Why a request is refused: the caller's to mend. `rpc_errors.py` turns each class into one gRPC status."""

from coordinator.errors import CoordinatorError


class RefusalError(CoordinatorError):
    """Base: nothing was changed, and the message says what to do."""


class InvalidRequestError(RefusalError):
    """A value is missing, malformed or over its limit."""


class NotFoundError(RefusalError):
    """No such thing."""


class AlreadyExistsError(RefusalError):
    """The same thing is here already, under the id in the message."""


class NotAllowedError(RefusalError):
    """The signer may not do this."""


class NotNowError(RefusalError):
    """Not possible in the current state."""


class UnauthenticatedError(RefusalError):
    """The signature or proof does not hold."""
