import unittest

from runner.figures import METRICS, Figure, Results, number, per

from .fixture import latencies, raw, report, sample


class Figures(unittest.TestCase):
    def test_the_median_of_an_even_number_lies_between_the_middle_two(self) -> None:
        self.assertEqual(Figure((4.0, 1.0, 3.0)).median, 3.0)
        self.assertEqual(Figure((4.0, 1.0, 2.0, 3.0)).median, 2.5)

    def test_the_spread_is_a_part_of_the_median(self) -> None:
        self.assertAlmostEqual(Figure((8.0, 10.0, 13.0)).spread, 0.5)
        self.assertEqual(Figure((0.0, 0.0)).spread, 0.0)

    def test_ratios_are_those_of_the_medians(self) -> None:
        results = Results(raw()["samples"])
        figure = results.figure("stream", "tuned", "outflow", "cpu")
        assert figure is not None
        self.assertEqual([round(value, 6) for value in (figure.median, figure.low, figure.high)], [0.03, 0.027, 0.036])
        ratio = results.ratio("stream", "tuned", "grpc-go", "outflow", "cpu")
        assert ratio is not None
        self.assertAlmostEqual(ratio, 40.0)

    def test_what_failed_is_in_no_figure(self) -> None:
        results = Results(raw()["samples"])
        self.assertIsNone(results.figure("stream", "tuned", "tonic-mpsc", "cpu"))
        self.assertEqual(len(results.failures), 1)

    def test_what_one_round_does_not_know_is_no_figure(self) -> None:
        samples = [sample(1, "outflow", 0.1), sample(2, "outflow", 0.1) | {"server_cpu_seconds": None}]
        self.assertIsNone(Results(samples).figure("stream", "tuned", "outflow", "cpu"))

    def test_metrics_have_their_units(self) -> None:
        told = sample(1, "outflow", 0.5, latency_us=latencies(70.0), connections=10, streams=100)
        told |= {"resident_idle_bytes": 10 * 1024**2 + 4096 * 1000}
        for name, value in (
            ("cpu", 0.5), ("cpu_gib", 0.5 / (24e6 / 2**30)), ("per_core", 2.0), ("rate", 0.5), ("rate_thousand", 500.0),
            ("gib_rate", 12e6 / 2**30), ("first_p50", 100.0), ("first_p99", 200.0), ("latency_p50", 70.0),
            ("latency_p99", 140.0), ("latency_p999", 210.0), ("load", 25.0), ("stream_memory", 4.0), ("peak", 20.0),
            ("client_cpu", 0.04), ("message", 24.0),
        ):  # fmt: skip
            with self.subTest(name):
                measured = METRICS[name].of(told)
                assert measured is not None
                self.assertAlmostEqual(measured, value)

    def test_a_histogram_that_counted_nothing_has_no_percentiles(self) -> None:
        told = sample(1, "outflow", 0.5) | {"client_report": report(first_response_us=latencies(0.0) | {"count": 0})}
        self.assertIsNone(METRICS["first_p50"].of(told))

    def test_nothing_is_divided_by_nothing(self) -> None:
        self.assertIsNone(per(1.0, 0.0))
        self.assertIsNone(per(None, 1.0))

    def test_numbers_have_three_digits(self) -> None:
        for value, shown in (
            (0, "0"), (12345.6, "12,346"), (99.96, "100"), (12.345, "12.3"), (9.996, "10.0"), (1.2345, "1.23"),
            (0.9996, "1.00"),            (0.12345, "0.123"), (0.012345, "0.0123"), (0.00012345, "0.00012"),
        ):  # fmt: skip
            self.assertEqual(number(value), shown)
