"""The simulator: a run in virtual time, with the machines and algorithms that containers run.

    interfaces  what the parts below expect of each other, and of whoever starts a simulation
    queue       what happens when: one total order                                    pure
    network     transfers on links: rate, delay, jitter, loss, fair shares            pure
    mesh        a node's streams and send queue: what `runtime.mesh` is in containers pure
    compute     how long training takes in virtual time                               pure
    host        one life of a node or of the coordinator: machines and their effects
    world       a whole run: hosts, network, what happens to them, records
    snapshot    a simulation as bytes, and back: checkpoints

No torch, no grpc, no asyncio: training is behind `interfaces.Trainers`.
"""
