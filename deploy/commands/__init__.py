"""The verbs of `deploy`, a file for each group of them; see `deploy.cli`."""
