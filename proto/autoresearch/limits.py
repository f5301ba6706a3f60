"""Every size and count limit on what comes from outside, with its unit and reason. Constants only.

Limits of a trial (budget, memory, weights) belong to the challenge and are not here.
"""

from typing import Final

PROTOCOL: Final = 1  # version spoken; a peer with another one is told to upgrade

# --- the wire ---
MESSAGE_BYTES: Final = 4 * 1024 * 1024  # one gRPC message: the largest source or diff with room to spare
REQUEST_BYTES: Final = 1280 * 1024  # one that a coordinator takes: an envelope and what is around it
ENVELOPE_BYTES: Final = 1024 * 1024  # one signed payload: the largest diff and rationale fit
CHUNK_BYTES: Final = 256 * 1024  # one piece of a streamed file
LINEAGE_BYTES: Final = 64 * 1024 * 1024  # whole git bundle: thousands of promotions of a 30 KB file
LEDGER_LINE_BYTES: Final = 2 * ENVELOPE_BYTES  # one ledger line: an envelope in base64 and what was decided
CHECKPOINT_BYTES: Final = 1024  # one signed checkpoint: a swarm's name, three numbers, key and signature
PAGE_ITEMS: Final = 200  # items in one listing
LEASES_PER_MACHINE: Final = 64  # more than the slots of any single host
NONCE_BYTES: Final = 32  # of an opening session

# --- patches ---
DIFF_BYTES: Final = 256 * 1024  # unified diff of train.py
SOURCE_BYTES: Final = 512 * 1024  # one train.py; the seed is about 30 KB
RATIONALE_CHARACTERS: Final = 4000  # a page of text
TITLE_CHARACTERS: Final = 100  # a commit's first line
TAGS: Final = 8
TAG_CHARACTERS: Final = 32

# --- people and machines ---
NAME_CHARACTERS: Final = 40  # a leaderboard column
DEVICE_NAME_CHARACTERS: Final = 120
VERSION_CHARACTERS: Final = 80
REASON_CHARACTERS: Final = 500  # one line for a person

INVITATION_CHARACTERS: Final = 64  # a code that people pass on
INVITATION_USES: Final = 10_000  # a large course or laboratory

# --- access ---
ACCESS_NONCE_BYTES: Final = 48  # random bytes, an instant and the coordinator's mark
TOKEN_CHARACTERS: Final = 512  # a session token
TOKEN_MS: Final = 15 * 60 * 1000  # how long a session token is good for
INSTRUCTION_AGE_MS: Final = 10 * 60 * 1000  # operators' clocks are kept; a stale copy is not carried out

# --- results ---
RESULT_BYTES: Final = 64 * 1024  # one signed result: a log tail of the widest characters, a curve, names
LOG_TAIL_CHARACTERS: Final = 8000  # enough for a traceback
LOSS_POINTS: Final = 64  # a curve in a terminal
VAL_BPB_MAX: Final = 64.0  # a uniform guess over 2^64 tokens of one byte; anything above is an error
