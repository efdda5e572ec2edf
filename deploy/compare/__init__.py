"""`deploy compare`: runs of any backends side by side.

settings  what a run was asked to be, as flat names and texts; what differs    pure
metrics   what a run came to, as numbers that can stand side by side           pure
analysis  runs that differ in the seed alone as one; differences, ratios       pure
reading   run folders
tables    on the terminal
picture   with matplotlib
run       the verb
"""
