"""Reaches a coordinator and believes it only when it proves to hold the key that the join address names.

The certificate that the coordinator shows becomes the only root of the connection; the signed SwarmInfo must name that
certificate's key, so a relay in the middle cannot pass the statement on over a connection of its own. A certificate
that a public authority vouches for works too, checked against the system's roots. Left out: the calls that follow
(`client.py`).
"""

import asyncio
import hashlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.message import DecodeError

from autoresearch import envelope, limits
from autoresearch.digest import sha256_hex
from autoresearch.text import is_line
from autoresearch.v1.challenge_pb2 import GRADER_KIND_BITS_PER_BYTE, Challenge
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.volunteer_service_pb2 import GetSwarmRequest, GetSwarmResponse, SwarmInfo
from autoresearch.v1.volunteer_service_pb2_grpc import VolunteerServiceStub
from volunteer.address import Address
from volunteer.errors import AddressError, UpgradeError, WrongCoordinatorError
from volunteer.rpc_errors import of_status, translate

CONNECT_S: Final = 10.0
# The name in the certificate that a coordinator makes for itself: it has no other, whatever host it runs on.
OWN_CERTIFICATE_NAME: Final = "autoresearch-swarm"
_CHALLENGE_BYTES: Final = 64 * 1024  # a dozen numbers and digests


@dataclass(frozen=True, slots=True)
class Swarm:
    """A swarm whose coordinator proved who it is."""

    # With the fingerprint of the key that signed.
    address: Address
    swarm_id: str
    challenge: Challenge
    challenge_sha256: str
    # The challenge as it is hashed.
    challenge_bytes: bytes = b""
    # What a new identity has to bring: zero bits of the puzzle's answer, or an invitation.
    work_bits: int = 0
    by_invitation: bool = False

    @property
    def fingerprint(self) -> str:
        """`digest.key_id` of the coordinator's key."""
        assert self.address.fingerprint is not None
        return self.address.fingerprint


@dataclass(frozen=True, slots=True)
class _Certificate:
    pem: bytes
    # sha256 of the DER SubjectPublicKeyInfo.
    key_sha256: str
    # Made by a coordinator for itself, not issued by a public authority.
    own: bool


async def connect(address: Address, *, trust_first_use: bool = False) -> tuple[grpc.aio.Channel, Swarm]:
    """An open channel to the coordinator at `address`, and the swarm that it proved to serve.

    Raises:
        RpcError: nobody answers.
        AddressError: the address has no fingerprint and nothing else vouches for the coordinator.
        WrongCoordinatorError: somebody else answers, or the answer is malformed.
        UpgradeError: it speaks another protocol.
    """
    certificate = await _fetch_certificate(address)
    if address.fingerprint is None and certificate.own and not trust_first_use:
        raise AddressError(
            str(address), "has no fingerprint (--trust-first-use believes whoever answers now, and keeps to that key)"
        )
    channel = grpc.aio.secure_channel(address.target, _credentials(certificate), _options(certificate))
    try:
        return channel, _verified(await _get_swarm(channel, address), address, certificate)
    except BaseException:
        await channel.close()
        raise


async def _fetch_certificate(address: Address) -> _Certificate:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # believed only after the signed SwarmInfo names its key
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
    except TimeoutError:
        raise of_status(grpc.StatusCode.DEADLINE_EXCEEDED, "", address.target) from None
    except ssl.SSLError as error:
        raise WrongCoordinatorError(
            f"what answers at {address.target} does not speak TLS: is it the coordinator's port?"
        ) from error
    except OSError as error:
        raise of_status(grpc.StatusCode.UNAVAILABLE, str(error), address.target) from error
    try:
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        return _read_certificate(tls.getpeercert(binary_form=True) or b"", address)
    finally:
        writer.transport.abort()


def _read_certificate(der: bytes, address: Address) -> _Certificate:
    try:
        parsed = x509.load_der_x509_certificate(der)
        key = parsed.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        pem = parsed.public_bytes(Encoding.PEM)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise WrongCoordinatorError(
            f"the certificate of {address.target} cannot be read: is it a coordinator?"
        ) from error
    return _Certificate(pem, hashlib.sha256(key).hexdigest(), OWN_CERTIFICATE_NAME in _names(parsed))


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return names.get_values_for_type(x509.DNSName)


def _credentials(certificate: _Certificate) -> grpc.ChannelCredentials:
    if certificate.own:
        return grpc.ssl_channel_credentials(root_certificates=certificate.pem)
    roots = ssl.get_default_verify_paths().cafile
    # Without a system bundle gRPC falls back on the one it brings along.
    return grpc.ssl_channel_credentials(root_certificates=Path(roots).read_bytes() if roots else None)


def _options(certificate: _Certificate) -> list[tuple[str, int | str]]:
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", limits.MESSAGE_BYTES),
        ("grpc.max_send_message_length", limits.MESSAGE_BYTES),
        ("grpc.enable_http_proxy", 0),  # the certificate was fetched without one
        # Finds a dead line under a quiet stream. Servers hang up on whoever pings more often than every 5 minutes; a
        # session finds out sooner by itself.
        ("grpc.keepalive_time_ms", 320_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
    if certificate.own:
        options.append(("grpc.ssl_target_name_override", OWN_CERTIFICATE_NAME))
    return options


async def _get_swarm(channel: grpc.aio.Channel, address: Address) -> GetSwarmResponse:
    try:
        return await VolunteerServiceStub(channel).GetSwarm(GetSwarmRequest(), timeout=CONNECT_S)
    except grpc.aio.AioRpcError as error:
        if "CERTIFICATE_VERIFY_FAILED" in (error.details() or ""):
            raise WrongCoordinatorError(
                f"the certificate of {address.target} is neither its own nor vouched for by an authority: "
                "is it the coordinator's port?"
            ) from None
        raise translate(error, address.target) from None


def _verified(answer: GetSwarmResponse, address: Address, certificate: _Certificate) -> Swarm:
    info, signer = _open_info(answer.info, address)
    if info.protocol != limits.PROTOCOL:
        raise UpgradeError(
            f"the coordinator at {address.target} speaks protocol {info.protocol} and this program {limits.PROTOCOL}: "
            + ("upgrade autoresearch-swarm" if info.protocol > limits.PROTOCOL else "its operator should upgrade")
        )
    # Empty is for TLS that ends in front of the coordinator, which only a public certificate can vouch for.
    if info.tls_key_sha256 != certificate.key_sha256 and (info.tls_key_sha256 or certificate.own):
        raise WrongCoordinatorError(
            f"the connection to {address.target} does not end at its coordinator: somebody stands in between; "
            "try from another network"
        )
    if not is_line(info.swarm_id, limits.VERSION_CHARACTERS):
        raise WrongCoordinatorError(f"the coordinator at {address.target} names no swarm: tell its operator")
    pinned = Address(address.host, address.port, signer)
    return Swarm(
        pinned,
        info.swarm_id,
        _challenge(answer.challenge, info, address),
        info.challenge_sha256,
        answer.challenge,
        work_bits=info.work_bits,
        by_invitation=info.by_invitation,
    )


def _open_info(signed: Envelope, address: Address) -> tuple[SwarmInfo, str]:
    try:
        signer = envelope.verify(signed, envelope.SWARM_INFO).signer_id
        if address.fingerprint not in {None, signer}:
            raise WrongCoordinatorError(
                f"the coordinator at {address.target} has another key: the address says {address.fingerprint}, "
                f"it shows {signer}; ask its operator for the join address of today"
            )
        return envelope.open_as(signed, envelope.SWARM_INFO, SwarmInfo)[0], signer
    except envelope.EnvelopeError as error:
        raise WrongCoordinatorError(f"the coordinator at {address.target} does not prove who it is: {error}") from error


def _challenge(data: bytes, info: SwarmInfo, address: Address) -> Challenge:
    if len(data) > _CHALLENGE_BYTES or sha256_hex(data) != info.challenge_sha256:
        raise WrongCoordinatorError(
            f"the challenge that {address.target} sends is not the one it signed: try again, then tell its operator"
        )
    challenge = Challenge()
    try:
        challenge.ParseFromString(data)
    except DecodeError as error:
        raise WrongCoordinatorError(f"the challenge of {address.target} cannot be read: tell its operator") from error
    if challenge.format != 1 or challenge.grader != GRADER_KIND_BITS_PER_BYTE:
        raise UpgradeError(f"the challenge of {address.target} is of a newer kind: upgrade autoresearch-swarm")
    return challenge
