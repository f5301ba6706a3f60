"""The service operators run."""

import os

# Read once by gRPC when it is loaded. Its own lines on stderr would stand beside our one-line errors; its fork handlers
# stall the start of git, which uses no gRPC.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
