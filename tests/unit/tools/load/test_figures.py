import pytest

from splitvlm.errors import UsageError
from splitvlm.tools.load.figures import figures, percentile
from splitvlm.tools.load.objective import ServiceObjective
from splitvlm.tools.load.timing import RequestTiming

QUICK = RequestTiming(0, 1.0, [1.1, 1.2, 1.4], 1.5, bytes_sent=100)
SLOW = RequestTiming(1, 2.0, [3.0, 3.5], 4.0, bytes_sent=300)
FAILED = RequestTiming(0, 4.0, [4.5], 5.0, error_code="deadline")
SHORT = RequestTiming(0, 1.0, [1.3], 1.3)


def test_a_request_has_the_times_of_vllm_bench_serve() -> None:
    assert QUICK.ttft_s == pytest.approx(0.1)
    assert QUICK.itl_s == pytest.approx([0.1, 0.2])
    assert QUICK.tpot_s == pytest.approx(0.15)
    assert QUICK.e2e_s == pytest.approx(0.5)
    assert SHORT.tpot_s == 0.0
    assert SHORT.itl_s == []


def test_a_run_counts_tokens_and_rates_over_its_whole_duration() -> None:
    result = figures([QUICK, SLOW, FAILED], ServiceObjective.parse(""))
    assert result["requests"] == 3
    assert result["answered"] == 2
    assert result["failed"] == {"deadline": 1}
    assert result["duration_s"] == 4.0
    assert result["output_tokens"] == 5  # of a failed answer none counts
    assert result["output_tokens_per_s"] == 1.25
    assert result["requests_per_s"] == 0.5
    assert result["bytes_sent_per_request"] == 200
    assert result["ttft_ms"]["p50"] == pytest.approx(550)
    assert result["itl_ms"]["mean"] == pytest.approx(800 / 3, abs=0.01)


def test_goodput_counts_requests_that_keep_every_bound() -> None:
    result = figures([QUICK, SLOW, FAILED], ServiceObjective.parse("ttft:500,e2e:3000"))
    assert result["goodput_per_s"] == 0.25
    assert result["goodput_share"] == pytest.approx(1 / 3, abs=1e-4)
    assert ServiceObjective.parse("tpot:400").kept_by(QUICK)
    assert not ServiceObjective.parse("tpot:400").kept_by(SLOW)
    assert not ServiceObjective.parse("").kept_by(FAILED)


def test_a_run_without_answers_has_empty_spreads() -> None:
    result = figures([FAILED], ServiceObjective.parse("ttft:1"))
    assert result["ttft_ms"] == {}
    assert result["output_tokens_per_s"] == 0.0
    assert figures([], ServiceObjective.parse(""))["duration_s"] == 0.0


@pytest.mark.parametrize("text", ["x", "ttft", "ttft:0", "ttft:nan", "ttft:5,ttft:6", "itl:5", "e2e:-1", "e2e:inf"])
def test_other_objectives_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="objective"):
        ServiceObjective.parse(text)


def test_percentiles_interpolate() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 50) == 2.5
    assert percentile([1.0, 2.0, 3.0, 4.0, 5.0], 95) == pytest.approx(4.8)
    assert percentile([7.0], 99) == 7.0
