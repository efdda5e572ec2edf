"""What crosses the network, and nothing about how: frames, messages and signals as bytes.

`frames` holds what travels on a peer stream, `assembly` puts messages together again, `codec` turns
all of it and the signals into protobuf and back. No I/O here, and nothing pickled.
"""
