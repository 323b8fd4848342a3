"""What `ask -v` and `status` say: who answered, what failed, and nothing that is not so."""

from splitvlm.cli.ask_command import describe, plain, status_lines
from splitvlm.wire.v1 import local_pb2 as pb


def test_who_answered_and_what_failed() -> None:
    report = pb.RequestReport(plan="tokens/klt7", answered_by="cloud", hedged=True, bytes_sent=812, total_s=0.25)
    report.answered_node = "10.0.0.8:7442"
    said = "The cloud node does not answer."
    report.faults.add(
        code="peer-unavailable", node="10.0.0.7:7442", tokens=3, silent_s=0.5, recovery_s=0.08, sentence=said
    )
    first, second = describe(report, "least latency").split("\n")
    assert first.startswith(
        "plan tokens/klt7, with the device beside it (least latency), answered by the cloud node at 10.0.0.8:7442, 812 bytes"
    )
    assert second == (
        "the cloud node at 10.0.0.7:7442 failed (peer-unavailable) after 3 tokens: silent for 500 ms, taken over in 80 ms. "
        "The cloud node does not answer."
    )


def test_a_message_as_json_keeps_numbers_and_absence() -> None:
    report = pb.RequestReport(bytes_sent=2**40, token_ids=[1, 2])
    report.faults.add(node="device")
    told = plain(report)
    assert (told["bytes_sent"], told["token_ids"], told["hedged"]) == (2**40, [1, 2], False)
    assert told["faults"] == [
        {"code": "", "node": "device", "tokens": 0, "silent_s": 0.0, "recovery_s": 0.0, "sentence": ""}
    ]
    assert plain(pb.Chosen())["hedge_after_s"] is None
    assert plain(pb.Chosen(hedge_after_s=0.0))["hedge_after_s"] == 0.0


def test_status_for_people() -> None:
    lines = status_lines(pb.StatusReply(model="scenes"))
    assert [line.split(None, 1)[1] for line in lines if line.startswith(("link", "plans", "standby"))] == [
        "none", "not measured yet", "no plan table yet",
    ]  # fmt: skip
    reply = pb.StatusReply(cloud_address="c:1", cloud_reachable=True, uplink_bps=2.5e6, rtt_s=0.031, spread=0.12)
    text = "\n".join(status_lines(reply))
    assert "c:1, reachable" in text
    assert "2.5 Mbit/s up, round trip 31 ms, predictions within 12 %" in text
    rows = [pb.PlanStatus(plan="tokens/int4", accuracy_drop=0.003, leak=0.69), pb.PlanStatus(plan="tokens/int2@w8")]
    lines = status_lines(pb.StatusReply(plans=rows, table_version=7, notice="5 plans are forbidden."))
    assert [" ".join(line.split()) for line in lines[-4:]] == [
        "plans 2 (table 7)",
        "tokens/int4 accuracy drop, points: 0.30 leak: 0.69",
        "tokens/int2@w8 accuracy drop, points: unknown leak: unknown",
        "5 plans are forbidden.",
    ]
