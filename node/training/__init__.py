"""Training: data, partitions, models, and the processes that train.

    catalog     the names that a topology file may use                              pure
    partition, shares, minibatches
                which node gets which samples, and in which order it takes them     pure, numpy
    dataset, data, digits, images, ratings, text, cache
                load and split the data sets                                        numpy
    protocol    what trainers, workers and those who started them say               pure
    bank, spawn what they share: memory, how they are started                       numpy
    client      `TrainerProcess`: the node process's end of its trainer             numpy, asyncio
    crew, pool  `TrainerPool`: the simulator's end of its workers                   numpy
    synthetic   `SyntheticTrainer`: the same interface with a toy loss              numpy, asyncio
    material, tasks, nets, own_model, models, sgd, bench, vision
                the numerics                                                        torch
    server, worker, batched, __main__
                the trainer of a node; a worker of the pool                         torch

The processes that talk to peers and that simulate import no torch: they stay small and never wait
behind a training step.
"""
