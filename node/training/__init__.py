"""Training: data, partitions, models, and the trainer, which runs in a process of its own.

    catalog     the names that a topology file may use                       pure
    partition   which node gets which training samples                       pure, numpy
    data        loads and splits the data sets                               numpy
    protocol    what the node process and the trainer process say            pure
    client      `TrainerProcess`: the node process's end of it               numpy, asyncio
    synthetic   `SyntheticTrainer`: the same interface with a toy loss       numpy, asyncio
    models, sgd, server, vision, __main__   the trainer process              the only torch

Only the last row imports torch: the process that talks to peers stays small and never waits
behind a training step.
"""
