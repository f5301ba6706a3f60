"""What the coordinator and the volunteer share: the protocol, signing, digests, limits. No I/O."""
