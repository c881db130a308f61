"""Stands in for systemd on a bus: it knows one unit, and of which processes that is.

usage: systemd_units.py BUS-ADDRESS PID...

It prints "ready" when it has its name on the bus.
"""

import asyncio
import sys

from dbus_fast import BusType, DBusError, PropertyAccess
from dbus_fast.aio import MessageBus
from dbus_fast.service import ServiceInterface, dbus_property, method

UNIT = "/org/freedesktop/systemd1/unit/web_2eservice"


class Manager(ServiceInterface):
    def __init__(self, pids):
        super().__init__("org.freedesktop.systemd1.Manager")
        self.pids = pids

    @method()
    def GetUnitByPID(self, pid: "u") -> "o":
        if pid in self.pids:
            return UNIT
        # systemd's own words.
        name = "org.freedesktop.systemd1.NoUnitForPID"
        raise DBusError(name, f"PID {pid} does not belong to any loaded unit.")


class Unit(ServiceInterface):
    def __init__(self):
        super().__init__("org.freedesktop.systemd1.Unit")

    @dbus_property(access=PropertyAccess.READ)
    def Id(self) -> "s":
        return "web.service"

    @dbus_property(access=PropertyAccess.READ)
    def FragmentPath(self) -> "s":
        return "/etc/systemd/system/web.service"


async def main():
    bus = await MessageBus(bus_address=sys.argv[1], bus_type=BusType.SYSTEM).connect()
    bus.export("/org/freedesktop/systemd1", Manager({int(pid) for pid in sys.argv[2:]}))
    bus.export(UNIT, Unit())
    await bus.request_name("org.freedesktop.systemd1")
    print("ready", flush=True)
    await bus.wait_for_disconnect()


asyncio.run(main())
