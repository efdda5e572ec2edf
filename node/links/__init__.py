"""The network of one node: what is asked of the kernel, how it is read back, changed and measured.

pure    sizes, tree, tc_plan, tc_change, impair, rules, read_netem: paths, command lines, back
        delay: which packet is due when | queue: the same for the local backend
        sharing, exchange, usage_wire: shares of interior links
        pending, orders: what is to change when | schedule, report: what to measure, how well
agent   agent: first process of a container | live: what it does while the node runs
        tc, tc_pipe, kernel, aside: programs once, one that stays, work beside the loop
        nfqueue, netlink, timer: the delay line | shares, usage: counters, other agents
        confine: the node process's rights
node    probes, ping: measuring from the unprivileged node process
"""
