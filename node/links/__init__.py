"""The network of one node: what is asked of the kernel, how it is read back and measured.

`tc_plan`, `delay`, `report` and `schedule` are pure; `kernel`, `tc`, `nfqueue` and `agent` need
root and a network namespace of their own; `probes` runs in the unprivileged node process.
"""
