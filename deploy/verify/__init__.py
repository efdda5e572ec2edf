"""`deploy verify`: is the network what the file says? Measured alone, together, and over time.

segments  the file's timeline as stretches in which nothing changes, and who sends to whom
prepare   a run's plan, made one whose nodes send load instead of training
model     what each flow should get in a stretch, beside all others
readings  what the records say each got
judge     the two side by side: `verify.json` and the findings of the verdict
figures, tables   the same for people
"""
