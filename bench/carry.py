"""What `bench/run` measures of the agent's log path: relay, tail, restart, and collectors that come and go.

Not a program: it uses the processes and helpers of `bench/run`. Load and collectors are `pikepole-bench carry …`;
each writes down which events it had and when, and what is compared here are those files.
"""

import __main__ as run
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import time
import urllib.request

MIB, GIB = 1 << 20, 1 << 30


# --- what is started -----------------------------------------------------------------------------


def publish(folder, addresses, port=None):
    """Gives the fleet these collectors; with a port it has taken effect at the directory when this returns."""
    listed = [{"instance_id": f"i-{n + 1:017x}", "address": a, "zone": "a"} for n, a in enumerate(addresses)]
    new = folder / "members.new"
    new.write_text(json.dumps({"members": listed}))
    new.rename(folder / "members.json")
    if port:
        url = f"http://127.0.0.1:{port}/v1/fleets/{run.FLEET}/refresh?wait=5s"
        urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=10).read()


def site(folder, log, addresses):
    """A directory with these collectors in its fleet."""
    folder.mkdir(exist_ok=True)
    publish(folder, addresses)
    return run.directory(folder, log)


def agent(folder, log, directory_port, text, wait=True):
    """An agent of the release binary. Returns the child and the port of its status."""
    status = run.free_port()
    config = folder / "agent.toml"
    config.write_text(
        f'[directory]\nurls = ["http://127.0.0.1:{directory_port}"]\nfleet = "{run.FLEET}"\n'
        f'[agent]\nid = "bench"\nstate = "{folder}/agent"\nstatus = "127.0.0.1:{status}"\n{text}')
    child = run.start([run.PIKEPOLE, "agent", "-c", config], stderr=log)
    if wait:
        run.wait_for(status, "/healthz", child)
    return child, status


def log_path(status):
    return json.loads(run.fetch(status, "/status"))["log_path"] or {}


def collector(folder, name, log, address=None, inside=(), delay=0):
    """A collector that takes `delay` milliseconds to keep a window."""
    address = address or f"127.0.0.1:{run.free_port()}"
    path = folder / f"{name}.log"
    child = run.start([*inside, run.BENCH, "carry", "collect", "--listen", address, "--log", path, "--delay", delay], stderr=log)
    give_up = time.monotonic() + 10
    host, port = address.rsplit(":", 1)
    while True:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return child, address, path
        if child.poll() is not None or time.monotonic() > give_up:
            raise run.Failed(f"the collector {name} does not listen")
        time.sleep(0.01)


def haproxy_config(folder, port, addresses):
    """As one would write it for this: checks twice a second, a collector that fails them loses its connections, and so
    does one that acknowledges no TCP for 2 s."""
    servers = "\n".join(f"  server c{n} {a} check inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions tcp-ut 2s"
                        for n, a in enumerate(addresses))
    (folder / "haproxy.cfg").write_text(
        "global\n  maxconn 1000\ndefaults\n  mode tcp\n  timeout connect 1s\n  timeout check 1s\n  timeout client 1m\n"
        "  timeout server 1m\n  retries 3\n  option redispatch 1\n"
        f"frontend shippers\n  bind 127.0.0.1:{port}\n  default_backend collectors\n"
        f"backend collectors\n  balance leastconn\n{servers}\n")


def haproxy(folder, log, addresses):
    port = run.free_port()
    haproxy_config(folder, port, addresses)
    child = run.start(["haproxy", "-W", "-f", folder / "haproxy.cfg"], stderr=log)
    give_up = time.monotonic() + 10
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return child, port
        if child.poll() is not None or time.monotonic() > give_up:
            raise run.Failed("haproxy does not listen")
        time.sleep(0.02)


def works_in(pid):
    """The process itself, and those it has: HAProxy works in one."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def ship(to, seconds, *more, pids=(), timeout=60):
    command = [run.BENCH, "carry", "ship", "--to", to, "--seconds", seconds, *more]
    for pid in pids:
        command += ["--pid", pid]
    return json.loads(run.output(command, timeout + seconds))


def peak_mib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^VmHWM:\s+(\d+)", status, re.M).group(1)) / 1024


def windows(path):
    """What a collector had: microseconds, events, and their numbers as ranges, for each window."""
    for line in path.read_text().splitlines():
        at, _, events, *ranges = line.split()
        yield int(at), int(events), [tuple(map(int, one.split("-"))) for one in ranges]


def wait_empty(status, child, seconds=60):
    give_up = time.monotonic() + seconds
    while (log_path(status).get("spool") or {"waiting": {"events": 1}})["waiting"]["events"]:
        if child.poll() is not None or time.monotonic() > give_up:
            raise run.Failed("the agent's spool does not get empty")
        time.sleep(0.1)


# --- relay ---------------------------------------------------------------------------------------


def through(path, since, seconds):
    """Events a second that a collector had, from its first one on."""
    had = [(at, events) for at, events, _ in windows(path) if at >= since]
    if not had:
        return 0
    begin = had[0][0] + 500_000
    return sum(events for at, events in had if begin <= at < begin + seconds * 1e6) / seconds


def relay(folder, log, short):
    """Shipper → agent → collector and shipper → HAProxy → collector against shipper → collector."""
    rounds, seconds = (2, 1) if short else (5, 5)
    taker, address, taken = collector(folder, "collector", log)
    service, port = site(folder / "site", log, [address])
    listen = f"127.0.0.1:{run.free_port()}"
    carrier, status = agent(folder / "site", log, port, f'[relay]\nlisten = "{listen}"\n')
    proxy, proxy_port = haproxy(folder, log, [address])
    contenders = {"direct": (address, []), "agent": (listen, [carrier.pid]),
                  "haproxy": (f"127.0.0.1:{proxy_port}", works_in(proxy.pid))}
    rows = []
    for connections in (1, 4):
        runs = {name: [] for name in contenders}
        for number in range(rounds):
            run.say(f"relay, {connections} connections, round {number + 1} of {rounds}")
            for name, (to, pids) in contenders.items():
                since = time.monotonic() * 1e6
                got = ship(to, seconds, "--connections", connections, pids=[taker.pid, *pids])
                got["through"] = min(got["events_per_second"], through(taken, since, seconds))
                runs[name].append(got)
                wait_empty(status, carrier)
        rows += relay_rows(runs, connections)
    rows.append(("Memory of the agent after that, at most", f"{peak_mib(carrier.pid):.1f} MiB", "≤ 64 MiB",
                 run.verdict(peak_mib(carrier.pid), 64, "MiB", at_most=True)))
    for child in (proxy, carrier, service, taker):
        run.end(child)
    return rows


def relay_rows(runs, connections):
    def middle(name, of):
        return statistics.median(of(one) for one in runs[name])

    def cpu(name):
        """Microseconds of processor time an event: shipper, collector, and who is between them."""
        def each(one, part):
            return sum(one["cpu_seconds"][part]) * 1e6 / max(one["events_per_second"] * one["seconds"], 1)
        parts = [slice(0, 1), slice(1, 2), slice(2, None)]
        return [middle(name, lambda one, p=part: each(one, p)) for part in parts]

    rate = {name: middle(name, lambda one: one["through"]) for name in runs}
    p99 = {name: middle(name, lambda one: one["ack_ms"]["p99"]) for name in runs}
    ratio = {name: statistics.median(one["through"] / direct["through"]
                                     for one, direct in zip(runs[name], runs["direct"])) for name in runs}
    what = f"{connections} connection{'s' * (connections > 1)}, windows of 2,048, two in flight"
    size = runs["direct"][0]["event_bytes"]
    rows = []
    for name, label, goal in (("agent", "the agent (fsynced)", 0.8), ("haproxy", "HAProxy", None)):
        a, b, c = cpu(name)
        rows.append((
            f"Events of {size} bytes through {label} against directly; {what}",
            f"{rate[name]:,.0f} against {rate['direct']:,.0f} events/s; ack p99 {p99[name]:.1f} against {p99['direct']:.1f} ms; "
            f"CPU an event: shipper {a:.1f}, collector {b:.1f}, between them {c:.1f} µs",
            f"≥ {goal} x" if goal else "", run.verdict(ratio[name], goal, "x") if goal else f"{ratio[name]:.2f} x"))
    rows.append((f"The same through the agent: events/s; {what}", f"{rate['agent']:,.0f}", "≥ 150,000",
                 run.verdict(rate["agent"], 150_000, "/s")))
    rows.append((f"The same: ack p99 to the shipper; {what}", f"{p99['agent']:.1f} ms", "≤ 50 ms",
                 run.verdict(p99["agent"], 50, "ms", at_most=True)))
    return rows


# --- tail ----------------------------------------------------------------------------------------


def write_lines(path, lines):
    return json.loads(run.output([run.BENCH, "carry", "lines", "--to", path, "--lines", lines], 300))


def tail(folder, log, short):
    lines = 1_200_000 if short else 10_000_000
    run.say(f"tail, {lines * 301 / 1e6:,.0f} MB of lines in 4 files")
    logs = folder / "logs"
    logs.mkdir()
    for n in range(4):
        write_lines(logs / f"access{n}.log", lines // 4)
    service, port = site(folder / "site", log, ["127.0.0.1:1"])
    text = f'[[tail]]\npaths = ["{logs}/*.log"]\n'
    rates, costs, peaks = [], [], []
    for number in range(2 if short else 3):
        shutil.rmtree(folder / "site" / "agent", ignore_errors=True)
        carrier, status = agent(folder / "site", log, port, text)
        rate, cost, peak, disk = follow(carrier, status, lines * 300)
        rates.append(rate)
        costs.append(cost)
        peaks.append(peak)
        run.end(carrier)
        run.say(f"tail: {rate:.0f} MB/s, {cost:.2f} ms of CPU a MB, {peak:.0f} MiB, {disk / lines:.0f} bytes a line on the disk")
    rate, cost = statistics.median(rates), statistics.median(costs)
    rows = [
        ("Lines of 300 bytes from files into the spool, per core", f"{1000 / cost:,.0f} MB for a second of processor time; "
         f"{rate:,.0f} MB/s; {disk / lines:.0f} bytes a line on the disk", "≥ 200 MB/s per core",
         run.verdict(1000 / cost, 200, "MB/s")),
        ("Memory of the agent at that rate, at most", f"{max(peaks):.1f} MiB", "≤ 64 MiB",
         run.verdict(max(peaks), 64, "MiB", at_most=True)),
    ]
    shutil.rmtree(logs)
    rows += paced(folder, log, short, service, port)
    return rows


def follow(child, status, total):
    """Until all is in the spool: MB/s, CPU milliseconds a MB, peak MiB, bytes on the disk."""
    seen, give_up = [], time.monotonic() + 300
    while True:
        tails = log_path(status).get("tail")
        now = (time.monotonic(), sum(s["bytes"] for s in tails["sections"]) if tails else 0, run.cpu_seconds(child.pid))
        if not seen or seen[-1][1] != now[1]:
            seen.append(now)
        if now[1] >= total:
            break
        if child.poll() is not None or time.monotonic() > give_up:
            raise run.Failed("the agent does not read its files to the end")
        time.sleep(0.02)
    first = seen[1] if len(seen) > 2 else seen[0]
    seconds, megabytes, cpu = seen[-1][0] - first[0], (seen[-1][1] - first[1]) / 1e6, seen[-1][2] - first[2]
    disk = log_path(status)["spool"]["disk_bytes"]
    return megabytes / seconds, cpu * 1000 / megabytes, peak_mib(child.pid), disk


def paced(folder, log, short, service, port):
    """Processor time at 35,000 lines a second, without a collector and with one."""
    seconds = 3 if short else 15
    rows = []
    for name in ("into the spool", "into the spool and on to a collector"):
        run.say(f"tail at 35,000 lines/s {name}")
        shutil.rmtree(folder / "site" / "agent", ignore_errors=True)
        logs = folder / "logs"
        logs.mkdir()
        taker = None
        if "collector" in name:
            taker, address, _ = collector(folder, "tailed", log)
            publish(folder / "site", [address], port)
        carrier, status = agent(folder / "site", log, port, f'[[tail]]\npaths = ["{logs}/*.log"]\n')
        writer = run.start([run.BENCH, "carry", "lines", "--to", logs / "access.log", "--lines", 35_000 * (seconds + 2),
                            "--rate", 35_000])
        time.sleep(1)
        before, began = run.cpu_seconds(carrier.pid), time.monotonic()
        time.sleep(seconds)
        share = (run.cpu_seconds(carrier.pid) - before) / (time.monotonic() - began)
        writer.wait(timeout=30)
        if taker:
            wait_empty(status, carrier)
            run.end(taker)
        run.end(carrier)
        shutil.rmtree(logs)
        rows.append((f"The agent's processor time at 35,000 lines/s {name}", f"{share * 100:.1f} % of a core", "≤ 15 %",
                     run.verdict(share * 100, 15, "%", at_most=True)))
    run.end(service)
    return rows


# --- restart -------------------------------------------------------------------------------------


def window_of_one(at):
    """One event in a window, and how long after `at` it was acked."""
    event = b'{"message":"first"}'
    frames = b"2W" + struct.pack(">I", 1) + b"2J" + struct.pack(">II", 1, len(event)) + event
    host, port = at
    with socket.create_connection((host, port), timeout=10) as s:
        s.sendall(frames)
        acks = b""
        while not acks.endswith(struct.pack(">I", 1)):
            more = s.recv(6)
            if not more:
                raise run.Failed("the relay closes the connection")
            acks += more


def restart(folder, log, short):
    """An agent with a large spool is killed: until its relay answers, and acks the first window."""
    size = 0.25 if short else 20
    room = shutil.disk_usage(folder).free
    if room < size * GIB * 1.3 + 2 * GIB:
        raise run.Failed(f"{size} GiB for a spool are not free in {folder}")
    run.say(f"restart, a spool of {size} GiB")
    service, port = site(folder / "site", log, ["127.0.0.1:1"])
    relay_port = run.free_port()
    text = f'[relay]\nlisten = "127.0.0.1:{relay_port}"\n[spool]\nmax_bytes = "30GiB"\n'
    carrier, status = agent(folder / "site", log, port, text)
    # Windows of about 150 kB, as those of 2,048 access-log lines are.
    each = 64 * 3000 * 0.75
    ship(f"127.0.0.1:{relay_port}", 600, "--connections", 16, "--window", 64, "--random", 3000, "--level", 1,
         "--windows", int(size * GIB / each), timeout=900)
    spool = log_path(status)["spool"]
    filled = peak_mib(carrier.pid)
    took = []
    for _ in range(5):
        carrier.send_signal(signal.SIGKILL)
        carrier.wait()
        run.CHILDREN.remove(carrier)
        for file in (folder / "site" / "agent" / "spool").iterdir():  # not from memory
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
        began = time.monotonic()
        carrier, status = agent(folder / "site", log, port, text, wait=False)
        while True:
            with contextlib.suppress(OSError):
                window_of_one(("127.0.0.1", relay_port))
                break
            if carrier.poll() is not None or time.monotonic() - began > 60:
                raise run.Failed("the relay does not come back")
            time.sleep(0.002)
        took.append(time.monotonic() - began)
    run.wait_for(status, "/healthz", carrier)
    taker, address, taken = collector(folder, "drained", log)
    publish(folder / "site", [address], port)
    time.sleep(3 if short else 15)
    rate = sum(events for _, events, _ in windows(taken)) * each / 64 / 1e6 / (3 if short else 15)
    drained = peak_mib(carrier.pid)
    for child in (carrier, service, taker):
        run.end(child)
    gib = spool["disk_bytes"] / GIB
    return [
        (f"Start after a kill with {gib:.1f} GiB in the spool, {spool['waiting']['blocks']:,} windows: exec until a window is acked",
         f"{statistics.median(took) * 1000:,.0f} ms, at most {max(took) * 1000:,.0f} ms in 5 starts", "≤ 1 s",
         run.verdict(max(took), 1, "s", at_most=True)),
        (f"Memory of the agent while {gib:.1f} GiB come in, and while they go out at {rate:,.0f} MB/s, at most",
         f"{filled:.1f} MiB and {drained:.1f} MiB", "≤ 64 MiB", run.verdict(max(filled, drained), 64, "MiB", at_most=True)),
    ]


# --- collectors that come and go -----------------------------------------------------------------


class Hole:
    """A network namespace that can be made to swallow everything, both ways, without a word."""

    made = 0

    def __init__(self):
        # The kernel takes its time to remove a namespace: names are used once.
        Hole.made += 1
        self.id = f"{os.getpid()}-{Hole.made}"
        self.name, self.net = f"pikepole-bench-{self.id}", (os.getpid() + Hole.made) % 250
        self.host, self.inside = (f"10.213.{self.net}.{n}" for n in (1, 2))

    def __enter__(self):
        outer, inner = f"pb{self.id}a", f"pb{self.id}b"
        within = ["ip", "-n", self.name]
        for command in (["ip", "netns", "add", self.name],
                        ["ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", self.name],
                        ["ip", "addr", "add", f"{self.host}/30", "dev", outer], ["ip", "link", "set", outer, "up"],
                        [*within, "addr", "add", f"{self.inside}/30", "dev", inner], [*within, "link", "set", inner, "up"],
                        [*within, "link", "set", "lo", "up"]):
            if subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
                self.__exit__()
                raise OSError(f"{' '.join(command)} failed")
        return self

    def swallow(self):
        # A blackhole route would still let in what comes.
        subprocess.run(["ip", "-n", self.name, "link", "set", f"pb{self.id}b", "down"], check=True)

    def __exit__(self, *_):
        subprocess.run(["ip", "netns", "del", self.name], stderr=subprocess.DEVNULL)


def can_make_holes():
    if not shutil.which("ip"):
        return False
    try:
        with Hole():
            return True
    except OSError:
        return False


WINDOW, RATE, CONNECTIONS = 128, 40_000, 6
# What a collector needs to keep a window: so that some are under way to each of them at any moment.
DELAY_MS = 20
EVENTS = ("added", "killed", "swallowed")


def fleet(folder, log, short):
    """A collector is added, or killed, or black-holed, each in runs of its own: under the agent, and under HAProxy."""
    found = {name: {event: [] for event in EVENTS} for name in ("agent", "haproxy")}
    has_hole = can_make_holes()
    for number in range(1 if short else 5):
        for event in EVENTS:
            if event == "swallowed" and not has_hole:
                continue
            for name in found:
                run.say(f"a collector is {event}, {name}, round {number + 1}")
                within = folder / f"{name}-{event}-{number}"
                within.mkdir()
                with Hole() if event == "swallowed" else contextlib.nullcontext() as hole:
                    one = come_or_go(within, log, name, event, hole)
                    found[name][event].append(one)
                    run.say(", ".join(f"{key} {value:,.0f}" for key, value in one.items() if value is not None))
                    run.end_all()
    return fleet_rows(found)


def come_or_go(folder, log, name, event, hole):
    """Three collectors, and after a while the event. How it went."""
    takers = [collector(folder, f"c{n}", log, delay=DELAY_MS) for n in (1, 2)]
    if hole:
        inside = ("ip", "netns", "exec", hole.name)
        takers.append(collector(folder, "c3", log, f"{hole.inside}:5044", inside, delay=DELAY_MS))
    else:
        takers.append(collector(folder, "c3", log, delay=DELAY_MS))
    addresses = [address for _, address, _ in takers]
    if name == "agent":
        service, port = site(folder / "site", log, addresses)
        listen = f"127.0.0.1:{run.free_port()}"
        carrier, status = agent(folder / "site", log, port, f'[relay]\nlisten = "{listen}"\n')
        run.wait_for(status, "/status", carrier)
    else:
        carrier, port = haproxy(folder, log, addresses)
        listen = f"127.0.0.1:{port}"
    before, after = 1.5, 4 if event == "swallowed" else 2
    shipper = run.start([run.BENCH, "carry", "ship", "--to", listen, "--connections", CONNECTIONS, "--window", WINDOW,
                         "--rate", RATE, "--warm", 0, "--seconds", before + after, "--log", folder / "shipped"],
                        stdout=subprocess.PIPE)
    time.sleep(before)
    if event == "added":
        takers.append(collector(folder, "c4", log, delay=DELAY_MS))
        addresses.append(takers[-1][1])
    at = time.monotonic() * 1e6
    if event == "killed":
        takers[2][0].send_signal(signal.SIGKILL)
    elif event == "swallowed":
        hole.swallow()
    elif name == "agent":
        publish(folder / "site", addresses, port)
    else:
        haproxy_config(folder, port, addresses)
        carrier.send_signal(signal.SIGUSR2)
    shipper.communicate(timeout=before + after + 60)
    if name == "agent":
        wait_empty(status, carrier)
    return judge(folder, [path for *_, path in takers], at)


def judge(folder, logs, at):
    """What was lost, what came twice, when the fourth collector had its share, and how long what was late took."""
    shipped = [tuple(map(int, line.split())) for line in (folder / "shipped").read_text().splitlines()]
    had = {}
    for number, path in enumerate(logs):
        for when, _, ranges in windows(path):
            # The agent puts several windows of the shipper into one, whole each.
            for first in (n for begin, end in ranges for n in range(begin, end + 1, WINDOW)):
                had.setdefault(first, []).append((when, number))
    for times in had.values():
        times.sort()
    found = {"lost": sum(first not in had for *_, first in shipped) * WINDOW,
             "doubled": sum(len(times) - 1 for times in had.values()) * WINDOW, "events": len(shipped) * WINDOW}
    last = max(sent for sent, *_ in shipped)
    arrivals = sorted((times[0][0], times[0][1]) for times in had.values())
    new = [when for when, number in arrivals if number == 3]
    found["first"] = (new[0] - at) / 1e3 if new else None
    # The share of the new one: the first half second in which it has four fifths of an equal share.
    found["share"] = None
    for begin in new:
        among = [number for when, number in arrivals if begin <= when < begin + 500_000]
        if begin + 500_000 <= last and among.count(3) >= 0.8 * len(among) / 4:
            found["share"] = (begin - at) / 1e3
            break
    # What was on its way then, or was sent to the one that is gone later: until the last of it that was late is kept.
    usual = 100_000
    late = [had[first][0][0] for sent, _, first in shipped if first in had and had[first][0][0] > at
            and (at - 1e6 < sent < at or sent >= at and had[first][0][0] - sent > usual)]
    found["late"] = max((when - at) / 1e3 for when in late) if late else None
    return found


def fleet_rows(found):
    def all_of(name, key):
        return sum(one[key] for event in EVENTS for one in found[name][event])

    def show(values):
        if not values:
            return "not measured"
        if None in values:
            return "not within the run"
        return f"{statistics.median(values):,.0f} (at most {max(values):,.0f}) ms"

    lost = all_of("agent", "lost")
    if lost:
        raise run.Failed(f"the agent lost {lost:,} events that it had acked")
    counts = {name: f"{all_of(name, 'lost'):,} lost, {all_of(name, 'doubled'):,} doubled of {all_of(name, 'events'):,}" for name in found}
    rows = [("Collectors added, killed and black-holed under 40,000 events/s: events lost and doubled, the agent against HAProxy",
             f"{counts['agent']} against {counts['haproxy']}", "0 lost", "0 lost")]
    for event, key, label, goal in (
            ("added", "first", "A collector is added: until it has kept its first window", None),
            ("added", "share", "A collector is added: until it carries its share", 1000),
            ("killed", "late", "A collector is killed: until all that was on its way is kept by others", 200),
            ("swallowed", "late", "A collector is black-holed: until all that was on its way is kept by others", 2000)):
        values = {name: [one[key] for one in found[name][event]] for name in found}
        ours = values["agent"]
        met = "" if not goal or not ours else run.MISSED if None in ours else run.verdict(max(ours), goal, "ms", at_most=True)
        rounds = f", {len(ours)} round{'s' * (len(ours) > 1)}" if ours else ": needs root, for a network namespace"
        rows.append((f"{label}, the agent against HAProxy{rounds}", f"{show(ours)} against {show(values['haproxy'])}",
                     f"≤ {goal:,} ms" if goal else "", met))
    return rows


MEASURES = {"relay": relay, "tail": tail, "restart": restart, "fleet": fleet}
