"""The memory: objects, heads, leases, snapshots, replay, suite, ledger and the model registry."""
