import sys
import tempfile
import unittest
from pathlib import Path

from runner import profile
from runner.process import Failure, Supervisor
from runner.profile import Symbol

REPORT = """\
# To display the perf.data header info, please use --header/--header-only options.
#
# Overhead|Shared Object       |Symbol
 40.50%  |[kernel.kallsyms]   |[k] _copy_from_iter
 30.00% |libc.so.6|[.] __memmove_avx512_unaligned_erms
 12.00% |outflow|[.] h2::proto::connection::Connection<T,P,B>::poll
 10.00% |libc.so.6|[.] _int_free
  7.50% |outflow|[.] <a::B<A|B> as c::D>::poll
"""


class Profiles(unittest.TestCase):
    def test_symbols_are_read_with_their_shares(self) -> None:
        found = profile.symbols(REPORT)
        self.assertEqual(found[0], Symbol(40.5, "_copy_from_iter", True))
        self.assertEqual(found[-1], Symbol(7.5, "<a::B<A|B> as c::D>::poll", False))
        self.assertEqual(len(found), 5)

    def test_each_is_in_one_group(self) -> None:
        self.assertEqual(
            [profile.group(symbol) for symbol in profile.symbols(REPORT)],
            ["kernel", "copies", "HTTP/2", "allocator", "the rest"],
        )
        for name, where in (
            ("google.golang.org/grpc/internal/transport.(*loopyWriter).run", "HTTP/2"),
            ("ngx_http_v2_send_output_queue", "HTTP/2"),
            ("runtime.mallocgc", "allocator"),
            ("runtime.memmove", "copies"),
            ("mi_free", "allocator"),
            ("_int_free", "allocator"),
            ("cfree@GLIBC_2.2.5", "allocator"),
            ("operator new(unsigned long)", "allocator"),
            ("h2::proto::streams::store::Store::free", "HTTP/2"),
            ("tokio::runtime::freeze", "the rest"),
            ("outflow_engine::journal::Journal::append", "the rest"),
        ):
            self.assertEqual(profile.group(Symbol(1.0, name, False)), where, name)
        self.assertEqual(profile.group(Symbol(1.0, "__memmove", True)), "kernel")

    def test_groups_have_their_sums_and_their_dearest_symbols(self) -> None:
        lines = profile.told([*profile.symbols(REPORT), Symbol(2.5, "malloc", False), Symbol(0.01, "free", False)]).splitlines()
        self.assertEqual(lines[0], "  40.5 %  kernel")
        at = lines.index("  12.5 %  allocator")
        self.assertEqual(
            lines[at + 1 : at + 4], ["          10.0 %  _int_free", "           2.5 %  malloc", "   7.5 %  the rest"]
        )

    def test_system_calls_are_told_by_whichever_function_is_left_of_them(self) -> None:
        names = ("do_syscall_64", "do_writev", "__x64_sys_writev", "ksys_write", "__sys_sendto", "do_epoll_wait", "tcp_sendmsg",
                 "__x64_sys_futex", "__arm64_sys_fdatasync", "do_softirq")  # fmt: skip
        found = [Symbol(50.0 - at, name, True) for at, name in enumerate(names)]
        self.assertEqual(
            [line.split(" %  ") for line in profile.calls([*found, Symbol(99.0, "do_write", False)]).splitlines()],
            [["  49.0", "writev"], ["  47.0", "write"], ["  46.0", "sendto"], ["  45.0", "epoll_wait"], ["  43.0", "futex"],
             ["  42.0", "fdatasync"]],
        )  # fmt: skip

    def test_a_recorder_is_ended_as_by_ctrl_c_and_has_to_leave_something(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            samples = folder / "samples"
            for does, good in ((f"open({str(samples)!r}, 'w').close()", True), ("pass", False)):
                samples.unlink(missing_ok=True)
                # Whoever starts the tests may have it ignore Ctrl-C, as a shell does for what runs in the background.
                script = "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
                script += "try:\n    print('up', flush=True)\n    time.sleep(600)\nexcept KeyboardInterrupt:\n"
                with Supervisor(folder) as supervisor:
                    recorder = supervisor.start([sys.executable, "-c", script + f"    {does}"], "perf")
                    recorder.first_line(20)
                    if good:
                        profile.finish(recorder, samples)
                        self.assertTrue(samples.is_file())
                    else:
                        with self.assertRaisesRegex(Failure, "perf wrote nothing"):
                            profile.finish(recorder, samples)
