"""Makes a swarm's store and lineage again from its ledger alone, entry by entry.

What the store holds is a function of the ledger, but for what lives only while trials run: orders, leases, progress,
who was heard of when. Those are planned and heard anew. `rebuilder` takes entries and writes; what each kind of entry
makes is said in `people`, `patches`, `bests` and `believing`, over what is `made` so far.

Leaves out: reading and checking the ledger (`archive.py`, `auditing.py`), and where it is written to.
"""
