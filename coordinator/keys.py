"""The coordinator's keys on disk: the Ed25519 key that signs for the swarm, and the TLS key and certificate.

Makes them at the first start and loads them ever after. A private key is written complete or not at all, never
overwritten, and refused when others may read it. What is signed with them is decided elsewhere.
"""

import os
import shlex
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from autoresearch.digest import sha256_hex
from coordinator.errors import OperatorError

TLS_NAME: Final = "autoresearch-swarm"  # what a client expects the certificate to name, whatever address it dialled
_VALID: Final = timedelta(days=3652)  # ten years: clients pin the key, so renewal protects nobody
_CLOCK_SKEW: Final = timedelta(days=1)  # home machines' clocks are wrong by hours
_PEM_BYTES: Final = 64 * 1024  # a long certificate chain has 20 KiB


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """What the coordinator serves TLS with."""

    certificate_pem: bytes
    key_pem: bytes
    key_sha256: str  # sha256 of the DER SubjectPublicKeyInfo, lower-case hex; clients compute it from the certificate

    def __repr__(self) -> str:
        """Without the key: reprs end up in logs."""
        return f"TlsIdentity(key_sha256={self.key_sha256!r})"


def load_or_make_signing_key(path: Path) -> Ed25519PrivateKey:
    """The swarm's signing key, PEM PKCS8 at `path`; made there if the file does not exist.

    Raises:
        OperatorError: others may read the file, it holds no Ed25519 key, or it cannot be read or written.
    """
    if not path.exists():
        _write_new(path, _pem(Ed25519PrivateKey.generate()), 0o600)
    key = _load_key(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise OperatorError(f"{path} holds no Ed25519 key: restore the swarm's signing key from a copy")
    return key


def load_or_make_tls(folder: Path, now: datetime) -> TlsIdentity:
    """The coordinator's own TLS identity: P-256 key `folder/tls.key`, self-signed certificate `folder/tls.crt`.

    The key is made once; the certificate is made anew when it is missing or not valid now.

    Args:
        folder: made if missing.
        now: an aware instant.

    Raises:
        OperatorError: as `load_tls`, or a file cannot be written.
    """
    key_path, certificate_path = folder / "tls.key", folder / "tls.crt"
    if not key_path.exists():
        _write_new(key_path, _pem(ec.generate_private_key(ec.SECP256R1())), 0o600)
    key = _load_key(key_path)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise OperatorError(f"{key_path} holds no key of the kind made here: delete it and tls.crt to make new ones")
    if certificate_path.exists() and not _valid_at(_first_certificate(certificate_path), now):
        certificate_path.unlink()
    if not certificate_path.exists():
        _write_new(certificate_path, _self_signed(key, now), 0o644)
    return load_tls(certificate_path, key_path, now)


def load_tls(certificate_path: Path, key_path: Path, now: datetime) -> TlsIdentity:
    """A TLS identity from the operator's own files, PEM; the certificate file may hold a chain, its own one first.

    Raises:
        OperatorError: a file is missing, too large or unreadable, others may read the key, the certificate is for
            another key, expired or not yet valid.
    """
    certificate = _first_certificate(certificate_path)
    key = _load_key(key_path)
    key_sha256 = sha256_hex(_spki(key.public_key()))
    if sha256_hex(_spki(certificate.public_key())) != key_sha256:
        raise OperatorError(f"the certificate {certificate_path} is for another key than {key_path}: give the pair")
    if not _valid_at(certificate, now):
        begin, end = certificate.not_valid_before_utc.date(), certificate.not_valid_after_utc.date()
        raise OperatorError(f"the certificate {certificate_path} is valid from {begin} to {end}, not now: renew it")
    return TlsIdentity(_read(certificate_path), _pem(key), key_sha256)


def _self_signed(key: ec.EllipticCurvePrivateKey, now: datetime) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, TLS_NAME)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(TLS_NAME), x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _valid_at(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def _first_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(_read(path))[0]
    except ValueError as error:
        raise OperatorError(f"{path} holds no PEM certificate: {error}") from error


def _load_key(path: Path) -> PrivateKeyTypes:
    _refuse_loose(path)
    try:
        return serialization.load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: a passphrase is needed
        raise OperatorError(f"{path} holds no usable private key (PEM, no passphrase): {error}") from error


def _refuse_loose(path: Path) -> None:
    """PostgreSQL's rule: 0600 or less; 0640 too when root owns it, as certificate tools and Kubernetes leave it."""
    try:
        found = path.stat()
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror}") from error
    allowed = 0o740 if found.st_uid == 0 and os.geteuid() != 0 else 0o700
    if stat.S_IMODE(found.st_mode) & 0o777 & ~allowed:
        raise OperatorError(f"others may read the private key {path}; run: chmod 600 {shlex.quote(str(path))}")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_PEM_BYTES + 1)
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > _PEM_BYTES:
        raise OperatorError(f"{path} is larger than {_PEM_BYTES} bytes: that is no key or certificate")
    return data


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Durable, complete or not at all; whoever was first wins.

    Raises:
        OperatorError: it cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as partial:
            os.fchmod(partial.fileno(), mode)
            partial.write(data)
            partial.flush()
            os.fsync(partial.fileno())
            with suppress(FileExistsError):
                path.hardlink_to(partial.name)  # unlike a rename it never replaces a key that another process just made
        _sync_folder(path.parent)
    except OSError as error:
        raise OperatorError(f"cannot write {path}: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _pem(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
