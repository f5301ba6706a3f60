"""What the demo shows, read from its coordinator over gRPC like any other reader would."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from autoresearch.v1 import leaderboard_service_pb2 as board_pb2
from autoresearch.v1 import leaderboard_service_pb2_grpc as board_grpc
from autoresearch.v1 import patch_pb2
from autoresearch.v1 import patch_service_pb2 as patches_pb2
from autoresearch.v1 import patch_service_pb2_grpc as patches_grpc
from coordinator.own_channel import own_channel

CALL_S = 5.0
POLL_S = 0.25


@dataclass
class Picture:
    """The swarm as last seen."""

    status: board_pb2.GetStatusResponse = field(default_factory=board_pb2.GetStatusResponse)
    best: patch_pb2.Best = field(default_factory=patch_pb2.Best)
    patches: list[patch_pb2.Patch] = field(default_factory=list)
    events: list[board_pb2.Event] = field(default_factory=list)
    leaderboard: board_pb2.GetLeaderboardResponse = field(default_factory=board_pb2.GetLeaderboardResponse)


class Reader:
    """Reads; keeps the last picture while the coordinator is away."""

    def __init__(self, port: int, certificate: Path) -> None:
        self._channel = own_channel(f"127.0.0.1:{port}", certificate)
        self._patches = patches_grpc.PatchServiceStub(self._channel)
        self._board = board_grpc.LeaderboardServiceStub(self._channel)
        self.picture = Picture()

    def look(self) -> bool:
        """Reads everything anew; False while the coordinator does not answer."""
        seen = self.picture
        try:
            status = self._board.GetStatus(board_pb2.GetStatusRequest(), timeout=CALL_S)
            listed = self._patches.ListPatches(patches_pb2.ListPatchesRequest(), timeout=CALL_S)
            best = self._patches.GetBest(patches_pb2.GetBestRequest(), timeout=CALL_S).best
            start = seen.events[-1].sequence + 1 if seen.events else 0
            watch = self._board.WatchEvents(board_pb2.WatchEventsRequest(start=start), timeout=CALL_S)
            events = [*seen.events, *(response.event for response in watch)]
            board = self._board.GetLeaderboard(board_pb2.GetLeaderboardRequest(), timeout=CALL_S)
        except grpc.RpcError:
            return False
        self.picture = Picture(status, best, list(listed.patches), events, board)
        return True

    def wait(self, seconds: float) -> bool:
        """Waits for the coordinator's first answer."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.look():
                return True
            time.sleep(POLL_S)
        return False

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()
