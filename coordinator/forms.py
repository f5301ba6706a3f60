"""The form of what people sign: whether its values are well formed, and how it stands in the ledger. Pure.

Leaves out: whether it may be taken (`intake`), and what a patch's text must be (`admission`).
"""

import re
from base64 import b64encode

from autoresearch import limits, text
from autoresearch.digest import is_machine_id
from autoresearch.hardware import hardware_class, setting
from autoresearch.judging.model import Identity, Machine
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.identity_pb2 import Enrolment
from autoresearch.v1.patch_pb2 import PatchSubmission
from autoresearch.v1.trial_pb2 import Hardware
from coordinator.refusals import InvalidRequestError, NotAllowedError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_TAG = re.compile(rf"[a-z0-9-]{{1,{limits.TAG_CHARACTERS}}}")


def packed(signed: Envelope) -> str:
    """An envelope as it stands in the ledger: its protobuf bytes in base64, without fields that nobody signed."""
    bare = Envelope()
    bare.CopyFrom(signed)
    bare.DiscardUnknownFields()
    return b64encode(bare.SerializeToString()).decode()


def introduction(identity: Identity, machine: Machine | None, signed: Envelope) -> dict[str, object]:
    """An enrolment in the ledger."""
    return {
        "identity_id": identity.identity_id,
        "name": identity.name,
        "machine_id": machine.machine_id if machine else "",
        "hardware_class": machine.hardware_class if machine else "",
        "canary": machine is not None and machine.canary,
        "envelope": packed(signed),
    }


def machine_of(enrolment: Enrolment, identity: Identity, owned: Machine | None, now_ms: int) -> Machine | None:
    """The machine that an enrolment names, if it does; `owned`: as it is known.

    Raises:
        InvalidRequestError: a value is malformed.
        NotAllowedError: it is another identity's.
    """
    if not enrolment.machine_id:
        return None
    if not is_machine_id(enrolment.machine_id):
        raise InvalidRequestError("a machine id is 32 lower-case hex digits")
    if owned is not None and owned.identity_id != identity.identity_id:
        raise NotAllowedError(
            "this machine is enrolled by another identity: remove the machine id file to make a new one"
        )
    _check_hardware(enrolment.hardware)
    enrolled = owned.enrolled_at_ms if owned else now_ms
    return Machine(
        machine_id=enrolment.machine_id,
        identity_id=identity.identity_id,
        hardware_class=hardware_class(enrolment.hardware),
        enrolled_at_ms=enrolled,
        setting=setting(enrolment.hardware, enrolment.software),
        canary=enrolment.canary,
    )


def _check_hardware(hardware: Hardware) -> None:
    if hardware.device_kind not in ("cpu", "cuda", "mps"):
        raise InvalidRequestError("device kind must be cpu, cuda or mps")
    if not text.is_line(hardware.device_name, limits.DEVICE_NAME_CHARACTERS):
        raise InvalidRequestError("the device name is not one line of printable characters")
    if not 1 <= hardware.threads <= 4096 or not 0 < hardware.device_memory_bytes < 2**50:
        raise InvalidRequestError("threads or device memory are not plausible")
    for value in (hardware.operating_system, hardware.driver):
        if value and not text.is_line(value, limits.VERSION_CHARACTERS):
            raise InvalidRequestError("a version is not one line of printable characters")


def check_submission(submission: PatchSubmission) -> None:
    """Raises InvalidRequestError for a value that is malformed."""
    if not text.is_line(submission.title, limits.TITLE_CHARACTERS):
        raise InvalidRequestError(f"a title is one line of 1 to {limits.TITLE_CHARACTERS} printable characters")
    if len(submission.rationale) > limits.RATIONALE_CHARACTERS:
        raise InvalidRequestError(f"a rationale has at most {limits.RATIONALE_CHARACTERS} characters")
    if text.clean_text(submission.rationale, limits.RATIONALE_CHARACTERS) != submission.rationale:
        raise InvalidRequestError("the rationale holds control characters")
    if len(submission.tags) > limits.TAGS or not all(_TAG.fullmatch(tag) for tag in submission.tags):
        raise InvalidRequestError(f"at most {limits.TAGS} tags of lower-case letters, digits and dashes")
    if submission.author_name and not text.is_line(submission.author_name, limits.NAME_CHARACTERS):
        raise InvalidRequestError(f"an author's name is one line of at most {limits.NAME_CHARACTERS} characters")
    if not _COMMIT.fullmatch(submission.base_commit):
        raise InvalidRequestError("the base commit is 40 lower-case hex digits")
