"""The `deploy` command: topology file -> plan -> rendered files -> run -> results."""
