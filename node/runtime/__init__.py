"""Performs what machines want: event loop, gRPC streams, timers, trainer, event log.

drive, clock         a machine on the event loop
pipes, duplex        gRPC streams as pairs of byte pipes
peer_stream, mesh    streams to peers, around the send queue
shaper               the links of the `local` backend
signaling            the stream between a member and the coordinator
node_runner, coordinator_runner, process   the two kinds of process
"""
