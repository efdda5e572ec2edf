"""The simulator: a run in virtual time, with the machines and algorithms that containers run.

    interfaces  what the parts below expect of each other, and of whoever starts a simulation
    queue       what happens when: one total order                                    pure
    network     transfers on links: rate, delay, jitter, loss, fair shares            pure
    mesh        a node's streams and send queue: what `runtime.mesh` is in containers pure
    compute     how long training takes in virtual time                               pure
    host        one life of a node: machines and their effects; jobs: what trainers have in hand
    coordinator the same of the coordinator; line: the stream between it and a member
    process     what both are: records, sleep, timers
    records     the files of a run, on virtual clocks
    untrained   trainers that leave the model as it is
    world       a whole run: hosts, network, what happens to them, records
    snapshot    any object graph as bytes, and back (graph_write, graph_read, kinds)  pure
    checkpoint  a simulation in files, to go on after it was killed
    trace       all that one peer machine was fed, and what came of it                pure
    replay      a trace once more: the first difference                               pure

No torch, no grpc, no asyncio: training is behind `interfaces.Trainers`.
"""
