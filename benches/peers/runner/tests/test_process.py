import os
import sys
import tempfile
import time
import unittest
from pathlib import Path

from runner import process
from runner.process import Failure, Supervisor

CHILD = "import os, sys, time\nif os.fork() == 0:\n    time.sleep(600)\nprint(os.getpid(), flush=True)\ntime.sleep(600)"
BUSY = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\ntime.sleep(600)"
DEAF = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Processes(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def python(self, supervisor: Supervisor, program: str) -> process.Process:
        return supervisor.start([sys.executable, "-c", program], "child")

    def test_all_that_was_started_is_stopped_when_something_fails(self) -> None:
        with self.assertRaises(KeyboardInterrupt), Supervisor(self.folder) as supervisor:
            started = self.python(supervisor, CHILD)
            started.first_line(20)
            members = process.family(started.pid)
            self.assertEqual(len(members), 2)
            raise KeyboardInterrupt
        until = time.monotonic() + 20
        while any(alive(pid) for pid in members) and time.monotonic() < until:
            time.sleep(0.01)
        self.assertEqual([pid for pid in members if alive(pid)], [])

    def test_who_does_not_hear_is_stopped_all_the_same(self) -> None:
        patience, process.STOP_SECONDS = process.STOP_SECONDS, 0.2
        self.addCleanup(setattr, process, "STOP_SECONDS", patience)
        with Supervisor(self.folder) as supervisor:
            started = self.python(supervisor, DEAF)
            started.first_line(20)
        self.assertFalse(alive(started.pid))

    def test_cpu_time_is_what_the_system_has_accounted(self) -> None:
        with Supervisor(self.folder) as supervisor:
            started = self.python(supervisor, BUSY)
            started.first_line(60)
            used = started.cpu_seconds()
            ticks = process.ticks(Path(f"/proc/{started.pid}/stat").read_text()) / os.sysconf("SC_CLK_TCK")
            self.assertGreaterEqual(used, 0.3)
            self.assertAlmostEqual(used, ticks, delta=0.05)
            memory = started.memory()
            self.assertGreaterEqual(memory.peak, memory.resident)
            self.assertGreater(memory.resident, 1024**2)

    def test_a_wrapper_is_not_measured(self) -> None:
        with Supervisor(self.folder) as supervisor:
            started = self.python(supervisor, CHILD)
            started.first_line(20)
            self.assertEqual(started.measured()[0], started.pid)
            started.wrapped = True
            self.assertEqual(started.measured(), process.family(started.pid)[1:])

    def test_who_fails_is_told_with_its_last_words(self) -> None:
        with Supervisor(self.folder) as supervisor:
            with self.assertRaisesRegex(Failure, "child ended with status 3: no such thing"):
                self.python(supervisor, "import sys\nprint('no such thing', file=sys.stderr)\nsys.exit(3)").wait(20)
            usage = "import sys\nsys.exit('error: no such argument\\n\\nFor more, ask')"
            with self.assertRaisesRegex(Failure, "error: no such argument"):
                self.python(supervisor, usage).wait(20)
            with self.assertRaisesRegex(Failure, "was not done"):
                self.python(supervisor, "import time\ntime.sleep(600)").wait(0.1)

    def test_fields_are_found_behind_any_name(self) -> None:
        stat = "17 (a ) b (c) S 1 2 3 4 5 6 7 8 9 10 250 31 12 13"
        self.assertEqual(process.ticks(stat), 281)

    def test_memory_is_read_in_bytes(self) -> None:
        memory = process.parse_memory("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n")
        self.assertEqual((memory.resident, memory.peak), (1024**2, 2 * 1024**2))
