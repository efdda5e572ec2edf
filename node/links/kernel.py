"""What this kernel can do for links, found out by doing it on a device that exists for that only.

A kernel may have HTB and no netem (WSL, small cloud kernels), or have it as a module that is loaded
at first use; so nothing is guessed from versions or configuration files.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

from node.config import Emulator, LinksConfig
from node.core.ids import NodeId
from node.errors import ConfigError, EnvironmentFault
from node.links import impair, nfqueue, tc
from node.links.tc_plan import Delay

_DEVICE: Final = "pb-probe"
_CHAIN: Final = "PEERBED-PROBE"
_QUEUE: Final = 0xFFFF
_IPTABLES: Final = ("iptables", "iptables-legacy", "iptables-nft")

_REMEDY_NETEM: Final = (
    "load it on the host (`modprobe sch_netem`; package linux-modules-extra-$(uname -r) on Ubuntu,"
    " kernel-modules-extra on Fedora), or use `emulator: nfqueue`"
)
_REMEDY_NFQUEUE: Final = (
    "load nfnetlink_queue, xt_NFQUEUE and nft_compat (or ip_tables) on the host, or use"
    " `emulator: netem`"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What works in this network namespace.

    Args:
        netem_duplicate: whether one netem may send packets twice where there are others; Linux
            refused that for some versions ("cannot mix duplicating netems", 6.12.50).
        iptables: the iptables command that can set NFQUEUE rules; None if none can.
        nfqueue: whether packets can be held in user space, rules and reader.
    """

    ifb: bool
    htb: bool
    u32: bool
    redirect: bool
    netem: bool
    netem_duplicate: bool
    iptables: str | None
    nfqueue: bool

    def as_dict(self) -> dict[str, bool | str | None]:
        return asdict(self)


def probe() -> Capabilities:
    """Try each ability. Raises EnvironmentFault when not even `ip` and `tc` can be run."""
    ifb = tc.run(["ip", "link", "add", _DEVICE, "type", "ifb"]).returncode == 0
    try:
        able = _probe_device() if ifb else {}
    finally:
        if ifb:
            tc.run(["ip", "link", "del", _DEVICE])
    iptables = _probe_iptables()
    return Capabilities(
        ifb=ifb,
        htb=able.get("htb", False),
        u32=able.get("u32", False),
        redirect=able.get("redirect", False),
        netem=able.get("netem", False),
        netem_duplicate=able.get("netem duplicate", False),
        iptables=iptables,
        nfqueue=iptables is not None and _probe_queue(),
    )


def _probe_device() -> dict[str, bool]:
    tries = {
        "htb": "qdisc add dev {d} root handle 1: htb default 3",
        "class": "class add dev {d} parent 1: classid 1:3 htb rate 1000000bit",
        "netem": "qdisc add dev {d} parent 1:3 handle 3: netem delay 1ms 1ms distribution normal",
        "second class": "class add dev {d} parent 1: classid 1:4 htb rate 1000000bit",
        "netem duplicate": "qdisc add dev {d} parent 1:4 handle 4: netem duplicate 1%",
        "u32": "filter add dev {d} parent 1: protocol ip prio 1 handle 1: u32 divisor 256",
        "ingress": "qdisc add dev {d} handle ffff: ingress",
        "redirect": "filter add dev {d} parent ffff: protocol all prio 1 u32 match u32 0 0"
        " action mirred egress redirect dev {d}",
    }
    tc.run(["ip", "link", "set", "dev", _DEVICE, "up"])
    return {
        name: tc.run(["tc", *command.format(d=_DEVICE).split()]).returncode == 0
        for name, command in tries.items()
    }


def _probe_iptables() -> str | None:
    """The first iptables variant that can send packets to a queue; Debian's default may not."""
    for variant in _IPTABLES:
        rules = f"-A {_CHAIN} -s 192.0.2.1/32 -j NFQUEUE --queue-num {_QUEUE}"
        try:
            added = _restore(variant, f":{_CHAIN} - [0:0]\n{rules}")
            removed = _restore(variant, f"-F {_CHAIN}\n-X {_CHAIN}")
        except EnvironmentFault:
            continue
        if added and removed:
            return variant
    return None


def _restore(variant: str, rules: str) -> bool:
    argv = [f"{variant}-restore", "--noflush"]
    return tc.run(argv, text=f"*filter\n{rules}\nCOMMIT\n").returncode == 0


def _probe_queue() -> bool:
    scratch = Delay(peer=nfqueue.NOBODY, host="", queue=_QUEUE, limit=1, path=None)
    try:
        nfqueue.bind([scratch]).close()
    except EnvironmentFault:
        return False
    return True


def settle(links: LinksConfig, able: Capabilities, *, me: NodeId) -> Emulator:
    """Which emulator impairs the traffic of this node: one that can do all that is asked for.

    Raises:
        ConfigError: the emulator that was asked for cannot do it, whatever the kernel.
        EnvironmentFault: the kernel lacks what it takes, with the remedy.
    """
    emulator = choose(links.emulator, able)
    if links.emulator is Emulator.AUTO and emulator is not Emulator.NETEM:
        try:
            impair.check(links, emulator, me=me)
        except ConfigError as error:
            raise EnvironmentFault(
                f"{error.message}, and this kernel has no netem",
                where=error.where,
                remedy=_REMEDY_NETEM.replace("`emulator: nfqueue`", "links without it"),
            ) from error
    impair.check(links, emulator, me=me)
    several = sum(peer.out is not None for peer in links.peers) > 1 or links.changes
    if impair.duplicates(links) and several and not able.netem_duplicate:
        raise EnvironmentFault(
            "`duplicate` cannot be emulated on this kernel: it allows no netem that sends packets"
            " twice beside others",
            remedy="leave `duplicate` out, or use another kernel (Linux 6.12.50 refuses it)",
        )
    return emulator


def choose(asked: Emulator, able: Capabilities) -> Emulator:
    """The emulator to use: the one asked for, or for AUTO netem, else nfqueue.

    Raises:
        EnvironmentFault: the kernel lacks what it takes, with the remedy.
    """
    shaping = {
        "HTB (sch_htb)": able.htb,
        "u32 filters (cls_u32)": able.u32,
        "IFB devices (ifb)": able.ifb,
        "packet redirection (act_mirred, sch_ingress)": able.redirect,
    }
    if missing := [name for name, there in shaping.items() if not there]:
        raise EnvironmentFault(
            f"links cannot be shaped: no {', '.join(missing)} here",
            remedy="give the container NET_ADMIN and load these modules on the host,"
            " or use `--backend local`",
        )
    if asked not in (Emulator.AUTO, Emulator.NETEM, Emulator.NFQUEUE):
        raise ValueError(f"{asked} is no emulator of the kernel's")
    if asked is Emulator.NETEM and not able.netem:
        raise EnvironmentFault("`emulator: netem`: this kernel has no netem", remedy=_REMEDY_NETEM)
    if asked is Emulator.NFQUEUE and not able.nfqueue:
        raise EnvironmentFault(
            "`emulator: nfqueue`: this kernel has no NFQUEUE", remedy=_REMEDY_NFQUEUE
        )
    if asked is not Emulator.AUTO:
        return asked
    if able.netem or able.nfqueue:
        return Emulator.NETEM if able.netem else Emulator.NFQUEUE
    raise EnvironmentFault(
        "links cannot be delayed: this kernel has neither netem nor NFQUEUE", remedy=_REMEDY_NETEM
    )
