"""`deploy check-algorithm`: does an algorithm do what every algorithm must?

    case       what is run, and what goes wrong                                   pure
    toy        a problem whose answer is known                                    pure
    network    a few nodes with the real peer machine, in virtual time            pure
    nonsense   messages that no node of the algorithm would send                  pure
    subject    the algorithm: found by name, or `module:Class`
    checks     what must hold, each with what to do where it does not
    digest     one run as one number, in a process of its own
    run        the verb

The networks of experiments are simulated elsewhere (`node.sim`). Here messages and lives go wrong
in ways and at rates that no experiment has.
"""
