import tempfile
import unittest
import unittest.mock
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from runner import clients, machine, servers
from runner.measure import Bench, expect, shown
from runner.process import Failure
from runner.servers import SERVERS, Programs, Running
from runner.workloads import TRANSPORTS, Load, Transport, Workload, left_out, workloads

from .fixture import report

PROGRAMS = Programs({name: Path(f"/built/{name}") for name in ("outflow", "grpc-go-client", "jetstream")})
ALL = Programs({server.program: Path(f"/built/{server.program}") for server in SERVERS.values()})
RUNNING = Running(cast(Any, SimpleNamespace()), 4321, ["outflow", "serve"])


class Started:
    """A server that is never started, in place of a supervisor and of its process."""

    def __init__(self) -> None:
        self.command: list[str] = []

    def start(self, command: list[str], _: str) -> "Started":
        self.command = command
        return self

    def first_line(self, _: float) -> str:
        return "listening on 127.0.0.1:4321"

    def listens(self, *_: float) -> None:
        return


def line(client: str, server: str, load: Load, transport: Transport = TRANSPORTS["plain"]) -> str:
    return " ".join(clients.command(client, SERVERS[server], RUNNING, load, PROGRAMS, transport))


class Clients(unittest.TestCase):
    def test_our_client_is_asked_for_batches_only_where_they_are_meant(self) -> None:
        load = Load(responses=7, calls=3, streams=2)
        self.assertEqual(
            line("small", "outflow", load),
            "/built/outflow bench 1 --server http://127.0.0.1:4321 --format json --window 65535 --frame 16384 --param jobs=1 "
            "--param step=0s --param responses=7 --param batch=64 --connections 1 --streams 2 --calls 3",
        )
        for server in ("outflow-emit", "grpc-go"):
            self.assertNotIn("batch", line("small", server, load))
        self.assertNotIn("batch", line("small", "outflow", Load(responses=7, every="1ms")))

    def test_raw_tcp_is_asked_by_its_own_scheme(self) -> None:
        self.assertIn("--server tcp://127.0.0.1:4321", line("tuned", "tcp", Load(responses=1)))

    def test_the_go_client_has_its_own_flags(self) -> None:
        load = Load(responses=7, seconds=0.5, connections=4, stamps=True, every="1ms", id=2, source="shared")
        self.assertEqual(
            line("grpc-go", "outflow", load),
            "/built/grpc-go-client -server 127.0.0.1:4321 -id 2 -param jobs=1 -param step=0s -param responses=7 "
            "-param every=1ms -param stamp=true -connections 4 -streams 1 -for 500ms -source shared -stamps",
        )

    def test_another_transport_is_an_entry_of_its_list(self) -> None:
        other = Transport(
            "TLS", "https", outflow=("--tls", "a"), peers=("--tls", "b"), clients=("-tls", "c"), left_out=("tcp",)
        )
        self.assertIn("--server https://127.0.0.1:4321", line("tuned", "outflow", Load(responses=1), other))
        self.assertIn("--server https://127.0.0.1:4321", line("fetch", "outflow", Load(responses=1), other))
        self.assertIn("-server 127.0.0.1:4321 -tls c", line("grpc-go", "outflow", Load(responses=1), other))
        with tempfile.TemporaryDirectory() as folder:
            for server, more in (("outflow", ["--tls", "a"]), ("tonic-ready", ["--tls", "b"])):
                started = Started()
                servers.start(SERVERS[server], ALL, cast(Any, started), Path(folder), Load(responses=1), other)
                self.assertEqual(started.command[-2:], more)
        with unittest.mock.patch.dict(TRANSPORTS, {"tls": other}):
            stream = next(workload for workload in workloads(quick=True) if workload.name == "stream")
            self.assertEqual(left_out(stream, "tuned", "tcp", "tls"), "does not speak TLS")
            self.assertIsNone(left_out(stream, "tuned", "tcp"))

    def test_jetstream_has_its_own_client(self) -> None:
        load = Load(responses=5, calls=1_000, batch_bytes=65_536, linger="1m")
        self.assertEqual(
            line("own", "jetstream-batches", load),
            "/built/jetstream -servers nats://127.0.0.1:4321 -runs 1000 -messages 5 -spread 100 -batch-bytes 65536",
        )

    def test_libraries_are_asked_as_the_go_client_is(self) -> None:
        programs = Programs({"tonic-client": Path("/built/tonic-client")})
        load = Load(responses=7, calls=1)
        words = clients.command("tonic-client", SERVERS["outflow"], RUNNING, load, programs, TRANSPORTS["plain"])
        self.assertEqual(
            " ".join(words),
            "/built/tonic-client -server 127.0.0.1:4321 -param jobs=1 -param step=0s -param responses=7 -param batch=64 "
            "-connections 1 -streams 1 -calls 1",
        )

    def test_journaled_runs_have_a_linger(self) -> None:
        self.assertIn("--calls 9 --linger 1m", line("own", "outflow-disk", Load(responses=5, calls=9, linger="1m")))

    def test_a_measurement_in_which_something_went_wrong_is_none(self) -> None:
        self.assertEqual(clients.check(report()), report())
        for wrong, why in (
            ({"statuses": {"OK": 3, "UNAVAILABLE": 2}}, "UNAVAILABLE .2."),
            ({"sequence_errors": 4}, "4 responses were out of sequence"),
            ({"responses": 0}, "no response came"),
        ):
            with self.assertRaisesRegex(Failure, why):
                clients.check(report(**wrong))
        with self.assertRaisesRegex(Failure, "nothing of statuses"):
            clients.check({key: value for key, value in report().items() if key != "statuses"})
        for text in ("", "[1]", "oops"):
            with self.assertRaises(Failure):
                clients.parse(text)

    def test_all_responses_have_to_come(self) -> None:
        expect(report(responses=12), Load(responses=4, calls=3), SERVERS["grpc-go"])
        expect(report(responses=13), Load(responses=4, seconds=1.0), SERVERS["grpc-go"])
        with self.assertRaisesRegex(Failure, "11 responses came and not 12"):
            expect(report(responses=11), Load(responses=4, calls=3), SERVERS["grpc-go"])

    def test_what_s2_bench_prints_is_added_up(self) -> None:
        first = "\x1b[1mWrite\x1b[0m: 1.00 MiB/s, 9 records/s (99 bytes, 9 records in 1.00s)\n"
        first += "\x1b[1m\x1b[32mRead\x1b[0m: 2.50 MiB/s, 20480 records/s (2621440 bytes, 20480 records in 1.00s)\n"
        second = "Read: 0.50 MiB/s, 4096 records/s (1048576 bytes, 8192 records in 2.00s)\n"
        added = clients.s2_report([first, second])
        self.assertEqual((added["responses"], added["responses_per_second"], added["seconds"]), (28_672, 24_576.0, 2.0))
        with self.assertRaises(Failure):
            clients.s2_report([first, "error: no"])

    def test_programs_are_shown_by_their_names(self) -> None:
        bench = Bench(Programs({"outflow": Path("/x/outflow-measured")}), cast(Any, None), Path("/y/work"))
        self.assertEqual(bench.public("/x/outflow-measured serve --data /y/work/data"), "outflow serve --data WORK/data")

    def test_ports_are_not_shown(self) -> None:
        words = ["nats-server", "--port", "4321", "--x", "127.0.0.1:4321", "responses=43210"]
        self.assertEqual(shown(words, RUNNING), ["nats-server", "--port", "PORT", "--x", "127.0.0.1:PORT", "responses=43210"])


class Workloads(unittest.TestCase):
    def named(self, name: str) -> Workload:
        return next(workload for workload in workloads(quick=False) if workload.name == name)

    def test_no_response_is_split(self) -> None:
        for size in (16, 64, 1024):
            load = self.named(f"bulk-{size}k").load
            head = len("Request #0 For Id:1") + 1 + 4 + 1 + 5  # text, and tags and lengths of text and sequence
            self.assertLessEqual(load.size + head, size * 1024)
            self.assertAlmostEqual(load.size * load.responses / 1024**3, 1.0, delta=0.005)

    def test_idle_streams_wait_while_they_are_looked_at(self) -> None:
        for quick in (False, True):
            for workload in workloads(quick=quick):
                if workload.kind == "window":
                    pause = int((workload.load.every or "").removesuffix("s"))
                    self.assertLess(workload.window[1], pause * (workload.load.responses - 1))
        idle = self.named("idle").load
        self.assertEqual(idle.connections * idle.streams, 10_000)

    def test_who_cannot_do_a_workload_has_a_reason(self) -> None:
        for name, client, server in (
            ("streams", "tuned", "tcp"), ("stream", "grpc-go", "tcp"), ("latency", "tuned", "nginx"),
            ("bulk-64k", "tuned", "outflow-emit"), ("bulk-64k", "frames-16k", "tcp"),
        ):  # fmt: skip
            self.assertIsNotNone(left_out(self.named(name), client, server), (name, client, server))
        for name, client, server in (
            ("stream", "tuned", "tcp"),
            ("stream", "tuned", "nginx"),
            ("stream", "small", "outflow-emit"),
        ):
            self.assertIsNone(left_out(self.named(name), client, server), (name, client, server))

    def test_the_same_is_asked_of_all_as_far_as_it_can_be_told(self) -> None:
        stream = self.named("stream")
        for client, server, asked in (
            ("tuned", "outflow", (5_000_000, 5)), ("tuned", "tcp", (5_000_000, 5)), ("tuned", "tonic-mpsc", (5_000_000, 1)),
            ("tuned", "grpc-go", (1_000_000, 1)), ("grpc-go", "outflow", (5_000_000, 1)),
            ("grpc-go", "grpc-go", (1_000_000, 1)),
        ):  # fmt: skip
            load = stream.load_of(client, server)
            self.assertEqual((load.responses, load.calls), asked, (client, server))
        self.assertIn("a fifth of the responses", stream.amounts)
        self.assertEqual(self.named("latency").amounts, "")
        idle = self.named("idle")
        self.assertEqual(idle.load_of("tuned", "outflow"), idle.load_of("tuned", "grpc-go"))


class Versions(unittest.TestCase):
    def test_lock_files_are_read(self) -> None:
        modules = "module x\nrequire (\n\tgoogle.golang.org/grpc v1.85.0\n\tgoogle.golang.org/grpc/cmd v1.6.2 // indirect\n)\n"
        self.assertEqual(machine.go_module(modules, "google.golang.org/grpc"), "1.85.0")
        self.assertEqual(machine.go_module(modules, "example.org/x"), "")
        lock = '[[package]]\nname = "tonic-build"\nversion = "0.1.0"\n\n[[package]]\nname = "tonic"\nversion = "0.14.9"\n'
        self.assertEqual(machine.locked(lock, "tonic"), "0.14.9")

    def test_the_cpu_is_named(self) -> None:
        self.assertEqual(machine.cpu_model("processor\t: 0\nmodel name\t: Some CPU 9000\nflags\t: a\n"), "Some CPU 9000")
