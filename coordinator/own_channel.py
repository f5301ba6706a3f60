"""A channel to a coordinator whose certificate file is at hand: for programs on its own host."""

from pathlib import Path

import grpc

from autoresearch import limits
from coordinator.errors import OperatorError
from coordinator.keys import TLS_NAME


def own_channel(target: str, certificate: Path) -> grpc.Channel:
    """A channel to `host:port` that believes exactly this certificate.

    Raises:
        OperatorError: the certificate cannot be read.
    """
    try:
        pem = certificate.read_bytes()
    except OSError as error:
        raise OperatorError(
            f"cannot read {certificate} ({error.strerror}): name the folder of a swarm that was served with --data"
        ) from error
    options = [
        ("grpc.ssl_target_name_override", TLS_NAME),
        ("grpc.max_receive_message_length", limits.MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(pem), options)
