"""What runs at home: a volunteer's program. It never loads torch, and knows the coordinator only by its wire."""

import os

# Read once by gRPC when it is loaded. Its own log lines would tear the terminal's live view, and every error reaches
# the person in our words; its fork handlers stall the start of a trial's processes, which use no gRPC.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
