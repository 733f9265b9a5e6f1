import unittest

from runner.figures import METRICS, Results
from runner.goals import GOALS, Goal, judge, losses
from runner.servers import SERVERS
from runner.workloads import CLIENTS, left_out, workloads

from .fixture import raw, sample


class Goals(unittest.TestCase):
    def setUp(self) -> None:
        self.results = Results(raw()["samples"])

    def goal(self, bound: float, versus: str | None, *, at_least: bool = False, client: str = "tuned") -> Goal:
        return Goal("it is", "stream", client, "cpu", bound, versus, at_least=at_least)

    def test_a_bound_is_reached_from_the_right_side(self) -> None:
        for goal, reached in (
            (self.goal(1 / 30, "grpc-go"), True),  # it is 1/40
            (self.goal(1 / 50, "grpc-go"), False),
            (self.goal(1 / 50, "grpc-go", at_least=True), True),
            (self.goal(1.9, "tcp"), False),  # it is 2
            (self.goal(2.1, "tcp"), True),
            (self.goal(0.04, None), True),  # it is 0.03
            (self.goal(0.02, None), False),
        ):
            self.assertIs(judge(self.results, goal).reached, reached, goal)

    def test_what_was_not_measured_is_neither_reached_nor_missed(self) -> None:
        verdict = judge(self.results, self.goal(1.0, "tonic-mpsc"))
        self.assertIsNone(verdict.reached)
        self.assertEqual(verdict.measured, "not measured")

    def test_the_verdict_says_what_each_round_would_say(self) -> None:
        beside = [sample(turn, "outflow", cpu) for turn, cpu in ((1, 1.0), (2, 3.0), (3, 1.0))]
        beside += [sample(turn, "tcp", cpu) for turn, cpu in ((1, 2.0), (2, 2.0), (3, 4.0))]
        verdict = judge(Results(beside), self.goal(0.4, "tcp"))
        self.assertEqual((verdict.measured, verdict.spread, verdict.rounds), ("0.500 ×", "0.250–1.50", (1, 3)))
        self.assertIs(verdict.reached, False)
        self.assertAlmostEqual(verdict.beyond, 0.25)

    def test_clients_are_compared_with_each_other(self) -> None:
        beside = [sample(1, "outflow", 1.0, "library", client, client_cpu_seconds=cpu)
                  for client, cpu in (("outflow-client", 0.04), ("tonic-client", 0.1))]  # fmt: skip
        goal = Goal("it is", "library", "outflow-client", "client_cpu", 0.5, versus_client="tonic-client")
        verdict = judge(Results(beside), goal)
        self.assertEqual((verdict.measured, verdict.reached), ("0.400 ×", True))
        self.assertIsNone(judge(Results(beside[:1]), goal).reached)

    def test_a_loss_that_the_control_has_too_is_noise(self) -> None:
        for control, noise in ((0.024, True), (0.036, False), (0.030, False), (0.050, True)):
            beside = [sample(1, "outflow", 0.03), sample(1, "outflow-again", control), sample(1, "grpc-go", 0.0245)]
            _, lost = losses(Results(beside), workloads(quick=False))
            self.assertEqual([loss.noise for loss in lost], [noise], control)

    def test_raw_tcp_is_the_floor_for_frames_that_it_does_not_have(self) -> None:
        results = Results([*raw()["samples"], sample(1, "outflow", 0.03, client="frames-16k")])
        self.assertIs(judge(results, self.goal(2.1, "tcp", client="frames-16k")).reached, True)

    def test_every_goal_asks_for_what_is_measured(self) -> None:
        known = {workload.name: workload for workload in workloads(quick=False)}
        for goal in GOALS:
            workload = known[goal.workload]
            self.assertIn(goal.client, workload.clients, goal)
            self.assertIn(goal.metric, METRICS)
            self.assertIsNone(left_out(workload, goal.client, goal.server), goal)
            self.assertIn(goal.server, workload.servers, goal)
            if goal.compared is not None:
                self.assertIn(goal.compared[0], workload.clients, goal)
                self.assertIn(goal.compared[1], workload.servers, goal)

    def test_rows_that_are_lost_are_told_with_their_ratio(self) -> None:
        beside = [
            sample(1, "outflow", 0.03),
            sample(1, "outflow-again", 0.036),
            sample(1, "grpc-go", 0.02, responses_per_second=400_000.0),
        ]
        compared, lost = losses(Results(beside), workloads(quick=False))
        self.assertEqual(compared, 2)  # cost, which is lost, and throughput, which is not
        told = [(loss.metric, loss.versus, round(loss.ratio, 3), round(loss.control or 0, 3)) for loss in lost]
        self.assertEqual(told, [("cpu", "grpc-go", 1.5, 1.2)])

    def test_all_names_are_known(self) -> None:
        for workload in workloads(quick=True):
            self.assertLessEqual(set(workload.clients), set(CLIENTS))
            self.assertLessEqual(set(workload.servers), set(SERVERS))
            self.assertLessEqual(set(workload.columns) | set(workload.no_worse), set(METRICS))
