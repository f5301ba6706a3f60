"""Keys on disk: made once, kept for ever, refused when loose; and a client that pins the TLS key can connect."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from autoresearch.digest import sha256_hex
from coordinator.errors import OperatorError
from coordinator.keys import TLS_NAME, TlsIdentity, load_or_make_signing_key, load_or_make_tls, load_tls

NOW = datetime(2026, 3, 1, tzinfo=UTC)
YEAR = timedelta(days=365)


def key_digest_of(certificate_pem: bytes) -> str:
    """As a client computes it."""
    key = x509.load_pem_x509_certificate(certificate_pem).public_key()
    return sha256_hex(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


class TestSigningKey:
    def test_it_is_made_once_and_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "keys" / "signing.pem"
        made = load_or_make_signing_key(path)
        assert load_or_make_signing_key(path).private_bytes_raw() == made.private_bytes_raw()
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
        assert [entry.name for entry in path.parent.iterdir()] == ["signing.pem"]

    def test_two_at_once_get_the_same_key(self, tmp_path: Path) -> None:
        with ThreadPoolExecutor(8) as pool:
            keys = pool.map(load_or_make_signing_key, [tmp_path / "signing.pem"] * 8)
        assert len({key.private_bytes_raw() for key in keys}) == 1

    @pytest.mark.parametrize("mode", [0o644, 0o604, 0o620])
    def test_a_loose_key_is_refused_with_the_command_to_run(self, tmp_path: Path, mode: int) -> None:
        path = tmp_path / "it's mine.pem"
        load_or_make_signing_key(path)
        path.chmod(mode)
        with pytest.raises(OperatorError, match="others may read the private key") as caught:
            load_or_make_signing_key(path)
        subprocess.run(str(caught.value).partition("; run: ")[2], shell=True, check=True)
        load_or_make_signing_key(path)

    @pytest.mark.parametrize(
        ("content", "said"),
        [(b"", "no usable private key"), (b"junk", "no usable private key"), (bytes(100_000), "larger than")],
    )
    def test_another_file_is_refused_and_kept(self, tmp_path: Path, content: bytes, said: str) -> None:
        path = tmp_path / "signing.pem"
        path.touch(mode=0o600)
        path.write_bytes(content)
        with pytest.raises(OperatorError, match=said):
            load_or_make_signing_key(path)
        assert path.read_bytes() == content

    def test_a_key_of_another_kind_is_refused(self, tmp_path: Path) -> None:
        load_or_make_tls(tmp_path, NOW)
        with pytest.raises(OperatorError, match="no Ed25519 key"):
            load_or_make_signing_key(tmp_path / "tls.key")

    def test_a_key_with_a_passphrase_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "signing.pem"
        path.touch(mode=0o600)
        path.write_bytes(
            ec.generate_private_key(ec.SECP256R1()).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            )
        )
        with pytest.raises(OperatorError, match="no passphrase"):
            load_or_make_signing_key(path)

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(OperatorError, match="cannot write"):
            load_or_make_signing_key(tmp_path / "file" / "signing.pem")

    def test_a_folder_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "signing.pem").mkdir(mode=0o700)
        with pytest.raises(OperatorError, match="cannot read"):
            load_or_make_signing_key(tmp_path / "signing.pem")


class TestOwnCertificate:
    def test_it_is_made_once_and_kept(self, tmp_path: Path) -> None:
        made = load_or_make_tls(tmp_path, NOW)
        assert load_or_make_tls(tmp_path, NOW + 9 * YEAR) == made
        assert made.key_sha256 == key_digest_of(made.certificate_pem)
        assert (tmp_path / "tls.key").stat().st_mode & 0o777 == 0o600

    def test_when_it_expires_the_key_stays(self, tmp_path: Path) -> None:
        made = load_or_make_tls(tmp_path, NOW)
        renewed = load_or_make_tls(tmp_path, NOW + 11 * YEAR)
        assert renewed.certificate_pem != made.certificate_pem
        assert renewed.key_sha256 == made.key_sha256

    def test_a_lost_certificate_is_made_anew_for_the_same_key(self, tmp_path: Path) -> None:
        made = load_or_make_tls(tmp_path, NOW)
        (tmp_path / "tls.crt").unlink()
        assert load_or_make_tls(tmp_path, NOW).key_sha256 == made.key_sha256

    def test_a_loose_key_is_refused(self, tmp_path: Path) -> None:
        load_or_make_tls(tmp_path, NOW)
        (tmp_path / "tls.key").chmod(0o644)
        with pytest.raises(OperatorError, match="chmod 600"):
            load_or_make_tls(tmp_path, NOW)

    def test_its_repr_hides_the_key(self, tmp_path: Path) -> None:
        assert "PRIVATE" not in repr(load_or_make_tls(tmp_path, NOW))

    @pytest.mark.parametrize("name", [TLS_NAME, "localhost"])
    def test_a_client_that_trusts_just_this_certificate_connects(self, tmp_path: Path, name: str) -> None:
        identity = load_or_make_tls(tmp_path, datetime.now(UTC))
        assert answer_over_tls(identity, identity.certificate_pem, name) == b"pong"

    def test_a_client_that_trusts_another_certificate_does_not(self, tmp_path: Path) -> None:
        now = datetime.now(UTC)
        identity, other = load_or_make_tls(tmp_path / "a", now), load_or_make_tls(tmp_path / "b", now)
        with pytest.raises(grpc.RpcError):
            answer_over_tls(identity, other.certificate_pem, TLS_NAME)


class TestOperatorsCertificate:
    @pytest.fixture
    def pair(self, tmp_path: Path) -> tuple[Path, Path]:
        load_or_make_tls(tmp_path, NOW)
        return tmp_path / "tls.crt", tmp_path / "tls.key"

    def test_a_chain_is_served_whole(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        certificate, key = pair
        issuer = load_or_make_tls(tmp_path / "issuer", NOW)
        certificate.write_bytes(certificate.read_bytes() + issuer.certificate_pem)
        loaded = load_tls(certificate, key, NOW)
        assert loaded.certificate_pem == certificate.read_bytes()
        assert loaded.key_sha256 == key_digest_of(loaded.certificate_pem)

    def test_files_that_do_not_belong_together(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        load_or_make_tls(tmp_path / "other", NOW)
        with pytest.raises(OperatorError, match="for another key"):
            load_tls(pair[0], tmp_path / "other" / "tls.key", NOW)

    @pytest.mark.parametrize("at", [NOW + 11 * YEAR, NOW - YEAR])
    def test_not_valid_now(self, pair: tuple[Path, Path], at: datetime) -> None:
        with pytest.raises(OperatorError, match="valid from 2026-02-28 to 2036-"):
            load_tls(*pair, at)

    def test_swapped_files(self, pair: tuple[Path, Path]) -> None:
        certificate, key = pair
        certificate.chmod(0o600)
        with pytest.raises(OperatorError, match="holds no PEM certificate"):
            load_tls(key, certificate, NOW)

    def test_missing_files(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        with pytest.raises(OperatorError, match=r"cannot read .*absent"):
            load_tls(tmp_path / "absent", pair[1], NOW)
        with pytest.raises(OperatorError, match=r"cannot read .*absent"):
            load_tls(pair[0], tmp_path / "absent", NOW)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of root's")
    def test_a_group_readable_key_is_fine_only_as_roots_gift(
        self, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Kubernetes and certificate tools hand a service its key so; root itself keeps to the stricter rule."""
        pair[1].chmod(0o640)
        with pytest.raises(OperatorError, match="chmod 600"):
            load_tls(*pair, NOW)
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        load_tls(*pair, NOW)


def answer_over_tls(identity: TlsIdentity, trusted_pem: bytes, name: str) -> bytes:
    """One real call to a server that has `identity`, from a client that trusts `trusted_pem` to be called `name`."""
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(lambda request, context: b"pong")
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test", {"Ping": handler})])
    port = server.add_secure_port(
        "127.0.0.1:0", grpc.ssl_server_credentials([(identity.key_pem, identity.certificate_pem)])
    )
    server.start()
    options = [("grpc.ssl_target_name_override", name)]
    credentials = grpc.ssl_channel_credentials(trusted_pem)
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        try:
            ping: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/test/Ping")
            return ping(b"", timeout=20)
        finally:
            server.stop(None).wait()
