"""The audit of a real swarm's ledger: clean as it is, and whatever is done to a copy is found and named."""

import base64
import functools
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from autoresearch import checkpoint, envelope, merkle
from autoresearch.digest import key_id, sha256_hex
from autoresearch.judging import ledger
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.patch_service_pb2 import GetBestResponse
from autoresearch.v1.trial_pb2 import Result
from coordinator import keys
from coordinator.archive import Archive
from tests.integration.swarm_on_wire import Starter
from volunteer import address, auditing, commits, merging, witness
from volunteer.client import Client
from volunteer.errors import AuditError, InputError, WrongCoordinatorError
from volunteer.git import Git, GitError

Entries = list[dict[str, Any]]
_GIT = merging.merger(Git(dict(os.environ)))
assert _GIT is not None
MERGE = functools.cache(_GIT)  # the same few merges in hundreds of audits


@pytest.fixture
def lines(lived: Path) -> list[bytes]:
    return list(Archive(lived).lines())


@pytest.fixture
def entries(lines: list[bytes]) -> Entries:
    return [json.loads(line) for line in lines]


def chained(entries: Entries) -> list[bytes]:
    """A ledger with these kinds and bodies whose chain holds: whoever wants to can make one."""
    made, head = [], ledger.EMPTY
    for entry in entries:
        line, head = ledger.append(head, entry["kind"], entry["body"], entry["at_ms"])
        made.append(line)
    return made


def audit(lines: list[bytes], folder: Path, coordinator_id: str = "") -> auditing.Audit:
    path = folder / "copy.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return auditing.audit_files(path, folder / "home", coordinator_id, lambda entries: None, MERGE)


def difference(lines: list[bytes], folder: Path) -> tuple[int, str]:
    with pytest.raises(AuditError) as found:
        audit(lines, folder)
    return found.value.entry, str(found.value)


def remember(lived: Path, lines: list[bytes], home: Path) -> None:
    """As if this home had seen the coordinator's statement of this ledger."""
    key = keys.load_or_make_signing_key(lived / "signing.key")
    body = json.loads(lines[0])["body"]
    root = merkle.root_of([merkle.leaf_hash(line) for line in lines])
    head = checkpoint.sign(body["swarm_id"], len(lines), root, 1, key)
    witness._write(witness._path(home, body["swarm_id"]), head)


def at(entries: Entries, kind: str, **facts: object) -> int:
    """The first entry of a kind with these facts."""
    return next(
        number
        for number, entry in enumerate(entries)
        if entry["kind"] == kind and facts.items() <= entry["body"].items()
    )


# --- as it is ---


def test_a_true_ledger_is_clean(lines: list[bytes], tmp_path: Path) -> None:
    found = audit(lines, tmp_path)
    assert found.ledger.entries == len(lines) > 25
    assert found.replay.best.generation == 2
    assert found.unsettled == []
    assert found.ledger.unmade == 0
    assert {"promoted": 2, "withdrawn": 1}.items() <= auditing.verdicts(found.replay).items()


async def test_a_running_swarm_is_clean_and_its_statement_remembered(lived: Path, tmp_path: Path) -> None:
    shutil.copytree(lived, tmp_path / "swarm")
    async with Starter(tmp_path)() as swarm, await Client.open(address.parse(swarm.running.address)) as client:
        for _ in range(2):
            found = await auditing.audit_swarm(client, tmp_path / "home", lambda entries: None)
            assert found.answers
            assert found.ledger.checkpoints >= 1
        seen = witness.remembered(tmp_path / "home", client.swarm.swarm_id, client.swarm.fingerprint)
        assert seen is not None
        assert (seen.size, seen.root) == (found.ledger.entries, found.ledger.root)


async def test_answers_that_do_not_follow_are_named(
    lived: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(lived, tmp_path / "swarm")
    true_best, true_board = Client.best, Client.leaderboard

    async def best(self: Client) -> GetBestResponse:
        answer = await true_best(self)
        answer.best.commit = "0" * 40
        return answer

    async def board(self: Client, limit: int) -> Any:
        answer = await true_board(self, limit)
        answer.volunteers[0].trials += 1
        return answer

    async with Starter(tmp_path)() as swarm, await Client.open(address.parse(swarm.running.address)) as client:
        for name, lie, words in (("best", best, "the best"), ("leaderboard", board, "the leaderboard")):
            monkeypatch.setattr(Client, name, lie)
            with pytest.raises(AuditError, match=f"{words} that the coordinator shows does not follow: .*expected|has"):
                await auditing.audit_swarm(client, tmp_path / "home", lambda entries: None)
            monkeypatch.undo()


async def test_commits_that_are_not_the_ledgers_are_named(lived: Path, tmp_path: Path) -> None:
    shutil.copytree(lived, tmp_path / "swarm")
    git = Git(dict(os.environ))
    async with Starter(tmp_path)() as swarm, await Client.open(address.parse(swarm.running.address)) as client:
        found = await auditing.audit_swarm(client, tmp_path / "home", lambda entries: None, MERGE)
        first, second, third = found.replay.lineage
        await commits.check(client.lineage(), [first, second, third], git)
        for lineage, entry, says in (
            ([first, replace(second, source_sha256="0" * 64), third], second.entry, "holds another source"),
            ([first, replace(second, commit="0" * 40)], second.entry, "is not in the lineage"),
            ([first, replace(second, commit="--version")], second.entry, "is no commit's id"),
            ([first, third], third.entry, "does not follow"),
            ([second], second.entry, "does not follow nothing"),
        ):
            with pytest.raises(AuditError, match=says) as error:
                await commits.check(client.lineage(), lineage, git)
            assert error.value.entry == entry


def test_without_git_merges_are_believed_by_their_digests_and_counted(
    lines: list[bytes], entries: Entries, tmp_path: Path
) -> None:
    path = tmp_path / "copy.jsonl"

    def blind(some: list[bytes]) -> auditing.Audit:
        path.write_bytes(b"".join(line + b"\n" for line in some))
        return auditing.audit_files(path, tmp_path / "home", "", lambda entries: None)

    merges = sum(entry["kind"] == "promotion" and "source" in entry["body"] for entry in entries)
    assert blind(lines).ledger.unmade == merges == 1
    another_candidate(entries)
    with pytest.raises(AuditError, match="comes out of base and changes"):  # what takes no merge is made all the same
        blind(chained(entries))


def test_merging_is_gits_and_says_when_it_cannot() -> None:
    base = "".join(f"{number}\n" for number in range(9))
    assert MERGE(base, base.replace("1\n", "one\n"), base.replace("7\n", "seven\n")) == (
        base.replace("1\n", "one\n").replace("7\n", "seven\n")
    )
    assert MERGE(base, base.replace("1\n", "one\n"), base.replace("1\n", "eins\n")) is None
    assert merging.merger(Git({"PATH": "/nowhere"})) is None
    with pytest.raises(GitError, match="merge-file"):
        Git(dict(os.environ)).attempt(Path("/"), 127, "merge-file", "-p", "no", "such", "files")


# --- what is done to a copy without the means to chain it again ---


def test_one_byte_changed_is_found_there_or_at_the_next_entry(lived: Path, lines: list[bytes], tmp_path: Path) -> None:
    remember(lived, lines, tmp_path / "home")
    for number in range(len(lines)):
        changed = bytearray(lines[number])
        changed[(number * 131) % len(changed)] ^= 1
        entry, _ = difference([*lines[:number], bytes(changed), *lines[number + 1 :]], tmp_path)
        assert entry in (number, number + 1)


def test_one_entry_removed_is_found(lived: Path, lines: list[bytes], tmp_path: Path) -> None:
    remember(lived, lines, tmp_path / "home")
    for number in range(len(lines)):
        entry, text = difference([*lines[:number], *lines[number + 1 :]], tmp_path)
        assert entry == number
        assert f"entry {number}" in text


def test_two_entries_exchanged_are_found(lines: list[bytes], tmp_path: Path) -> None:
    for number in range(len(lines) - 1):
        exchanged = [*lines[:number], lines[number + 1], lines[number], *lines[number + 2 :]]
        assert difference(exchanged, tmp_path)[0] == number


# --- what is forged and chained again, without the coordinator's key ---


def set_fact(kind: str, **facts: object) -> Callable[[Entries], int]:
    """Changes facts of the first entry of a kind."""

    def change(entries: Entries) -> int:
        number = at(entries, kind)
        entries[number]["body"] |= facts
        return number

    return change


def better_score(entries: Entries) -> int:
    number = at(entries, "result", outcome="completed")
    entries[number]["body"]["val_bpb"] -= 0.1
    return number


def signed_by_another(entries: Entries) -> int:
    """The score is made better and signed, by a key of the forger's own."""
    number = at(entries, "result", outcome="completed")
    body = entries[number]["body"]
    result = Result.FromString(Envelope.FromString(base64.b64decode(body["envelope"])).payload)
    result.val_bpb -= 0.1
    signed = envelope.sign(result, envelope.RESULT, Ed25519PrivateKey.generate())
    body |= {
        "val_bpb": result.val_bpb,
        "result_sha256": sha256_hex(signed.payload),
        "envelope": base64.b64encode(signed.SerializeToString()).decode(),
    }
    return number


def of_a_new_identity(entries: Entries) -> int:
    number = signed_by_another(entries)
    body = entries[number]["body"]
    signed = Envelope.FromString(base64.b64decode(body["envelope"]))
    body["identity_id"] = key_id(signed.signatures[0].public_key)
    return number


def counted_twice(entries: Entries) -> int:
    number = at(entries, "result")
    entries.insert(number + 1, json.loads(json.dumps(entries[number])))
    return number + 1


def parked_instead(entries: Entries) -> int:
    number = at(entries, "verdict", verdict="promoted")
    entries[number]["body"]["verdict"] = "parked"
    return number


def surer_than_it_was(entries: Entries) -> int:
    number = at(entries, "verdict")
    entries[number]["body"]["decision"]["log_odds"] += 0.5
    return number


def evidence_left_out(entries: Entries) -> int:
    """A result that a verdict rests on is dropped."""
    verdict = at(entries, "verdict", verdict="promoted")
    patch_id = entries[verdict]["body"]["patch_id"]
    del entries[at(entries, "result", patch_id=patch_id)]
    return verdict - 1


def another_best(entries: Entries) -> int:
    number = at(entries, "promotion")
    entries[number]["body"]["source_sha256"] = sha256_hex(b"mine")
    return number


def another_candidate(entries: Entries) -> int:
    """The author's diff stays as it was signed; what is run is something else."""
    number = at(entries, "patch")
    entries[number]["body"]["candidate_sha256"] = sha256_hex(b"mine")
    return number


def merged_with_more(entries: Entries) -> int:
    """A promotion whose merge holds more than the two changes; its digest is true."""
    number = next(n for n, entry in enumerate(entries) if entry["kind"] == "promotion" and "source" in entry["body"])
    source = entries[number]["body"]["source"] + "import socket\n"
    entries[number]["body"] |= {"source": source, "source_sha256": sha256_hex(source.encode())}
    return number


@pytest.mark.parametrize(
    ("forge", "words"),
    [
        (another_candidate, "candidate: [0-9a-f]{12} comes out of base and changes"),
        (merged_with_more, "source: [0-9a-f]{12} comes out of base and changes"),
        (better_score, "val_bpb: .* was signed for"),
        (signed_by_another, "signer"),
        (of_a_new_identity, "order|machine"),
        (set_fact("result", disturbed=True), "disturbed"),
        (set_fact("result", hardware_class="H900 24 GB"), "hardware class"),
        (set_fact("result", train_ms=10**9), "train_ms"),
        (set_fact("identity", name="Mallory"), "name"),
        (set_fact("patch", title="Mine"), "title"),
        (set_fact("patch", author_id="a" * 32), "signer"),
        (set_fact("genesis", noise_prior_bpb=0.5), "noise|verdict|decision"),
        (set_fact("genesis", source="print()"), "source"),
        (counted_twice, "counted before"),
        (parked_instead, "verdict: promoted follows"),
        (surer_than_it_was, "decision"),
        (evidence_left_out, "noise|verdict|decision|results of its patch"),
        (another_best, "source"),
        (set_fact("promotion", parent="0" * 40), "parent"),
        (set_fact("withdrawal", envelope="AAAA"), "envelope does not hold"),
        (set_fact("withdrawal", envelope="?"), "not base64"),
        (set_fact("result", order_payload="?"), "is not that of a result"),
        (set_fact("result", val_bpb=None), "val_bpb"),
        (set_fact("result", patch_id="f" * 16), "candidate|patch"),
        (set_fact("patch", base_generation=7), "entry"),
        (set_fact("verdict", decision=None), "decision"),
        (set_fact("verdict", evidence_before="now"), "entry"),
    ],
)
def test_a_forged_entry_is_named_though_the_chain_holds(
    forge: Callable[[Entries], int], words: str, entries: Entries, tmp_path: Path
) -> None:
    number = forge(entries)
    entry, text = difference(chained(entries), tmp_path)
    assert re.search(words, text), text
    if entries[number]["kind"] not in ("genesis", "verdict") or "decision" not in words:
        assert entry == number, text


# --- what only the coordinator can do: chain again and sign again ---


def test_a_history_rewritten_after_it_was_seen_is_found(
    lived: Path, lines: list[bytes], entries: Entries, tmp_path: Path
) -> None:
    """Nothing in it contradicts anything, but it is not what was signed for."""
    patch_id = entries[at(entries, "withdrawal")]["body"]["patch_id"]
    rewritten = chained([e for e in entries if e["body"].get("patch_id") != patch_id])
    assert audit(rewritten, tmp_path).ledger.entries < len(lines)  # whoever has seen nothing cannot know
    remember(lived, lines, tmp_path / "home")
    assert "were signed for" in difference(rewritten, tmp_path)[1]
    later = json.loads(json.dumps(entries))
    later[-1]["at_ms"] += 1
    entry, text = difference(chained(later), tmp_path)
    assert entry == len(lines) - 1
    assert "was signed for" in text


async def test_a_coordinator_that_was_set_back_is_found_out(lived: Path, tmp_path: Path) -> None:
    """It starts on an older copy without its checkpoints, as if nothing had been."""
    shutil.copytree(lived, tmp_path / "swarm")
    shutil.copytree(lived, tmp_path / "older" / "swarm")
    home = tmp_path / "home"
    async with Starter(tmp_path)() as swarm, await Client.open(address.parse(swarm.running.address)) as client:
        peer = await swarm.peer("late").start()
        assert peer.held == []
        await witness.watch(client, home)
    starter = Starter(tmp_path / "older")
    async with starter() as swarm, await Client.open(address.parse(swarm.running.address)) as client:
        with pytest.raises(WrongCoordinatorError, match=r"the ledger has .* were signed for before"):
            await auditing.audit_swarm(client, home, lambda entries: None)
        await swarm.peer("one").enroll()
        await swarm.peer("two").enroll()
        with pytest.raises(WrongCoordinatorError, match="rewrote its ledger"):
            await auditing.audit_swarm(client, home, lambda entries: None)


def test_another_coordinators_ledger_is_not_this_ones(lines: list[bytes], tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="is the ledger of the coordinator"):
        audit(lines, tmp_path, "a" * 32)


# --- files and the command line ---


def test_segments_and_live_file_are_one_ledger(lines: list[bytes], tmp_path: Path) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    half = b"".join(line + b"\n" for line in lines[:16])
    (folder / "autoresearch-0000000.jsonl.gz").write_bytes(gzip.compress(half))
    (folder / "autoresearch.jsonl").write_bytes(b"".join(line + b"\n" for line in lines[16:]))
    assert auditing.audit_files(folder, tmp_path, "", lambda entries: None).ledger.entries == len(lines)
    (folder / "autoresearch.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))  # a death left both
    assert auditing.audit_files(folder, tmp_path, "", lambda entries: None).ledger.entries == len(lines)
    (folder / "autoresearch.jsonl").write_bytes(b"".join(line + b"\n" for line in lines[17:]))
    with pytest.raises(AuditError, match="entry 16"):
        auditing.audit_files(folder, tmp_path, "", lambda entries: None)
    (folder / "autoresearch-0000000.jsonl.gz").write_bytes(gzip.compress(half)[:-20])
    with pytest.raises(InputError, match="cannot read"):
        auditing.audit_files(folder, tmp_path, "", lambda entries: None)


@pytest.mark.parametrize("content", [b"", b"x" * (3 << 20)])
def test_what_is_no_ledger_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError):
        auditing.audit_files(tmp_path / "file", tmp_path, "", lambda entries: None)


def test_from_the_command_line(lived: Path, lines: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes((lived / "autoresearch.jsonl").read_bytes())

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "volunteer", "--home", str(tmp_path / "home"), "audit", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    clean = run("--file", str(path), "--json")
    assert (clean.returncode, clean.stderr) == (0, "")
    assert json.loads(clean.stdout)["holds"] is True
    path.write_bytes(b"".join(line + b"\n" for line in [*lines[:5], *lines[6:]]))
    told = run("--file", str(path), "--json")
    assert told.returncode == 1
    assert json.loads(told.stdout) | {"difference": ""} == {"holds": False, "entry": 5, "difference": ""}
    plain = run("--file", str(path))
    assert (plain.returncode, plain.stdout) == (1, "")
    assert plain.stderr.startswith("error: ledger entry 5: ")
    assert plain.stderr.count("\n") == 1
