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


class TooSlowError(RefusalError):
    """What the call needs did not come in time."""


class TooOftenError(RefusalError):
    """A quota is used up; `wait_ms` says when to call again."""

    def __init__(self, message: str, wait_ms: int) -> None:
        super().__init__(message)
        self.wait_ms = wait_ms
