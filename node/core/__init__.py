"""The protocol core: no clock, socket, thread, process, torch or global randomness in here.

Everything that happens comes in as an event, everything wanted goes out as an effect.
"""
