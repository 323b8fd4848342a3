"""Sealed bytes and times of an upload in segments: plain numbers, no clock."""

from __future__ import annotations

from edge_node.cloud.uploads import Receipt, Upload


def test_one_segment_is_measured_from_its_beginning_to_its_receipt() -> None:
    upload = Upload()
    upload.segment_began(1_000, session_sealed_bytes=500, now_s=2.0)
    assert (upload.segments_under_way, upload.began_s, upload.request_began_s) == (1, 2.0, 2.0)
    assert upload.oldest_segment(session_sealed_bytes=1_540, now_s=2.25) == (1_040, 0.25)
    upload.segment_received(Receipt(1_040, 0.1), 2.25, last=True)
    assert (upload.segments_under_way, upload.elapsed_s) == (0, 0.25)
    assert (upload.sent_bytes, upload.received_bytes) == (1_000, 1_040)
    assert upload.receipt == Receipt(1_040, 0.1)


def test_segments_that_overlap_are_one_stretch() -> None:
    upload = Upload()
    upload.segment_began(100, 0, 1.0)
    upload.segment_began(200, 110, 1.5)
    assert upload.segments_under_way == 2
    assert upload.oldest_segment(330, 2.0) == (110, 1.0), "its bytes end where the next one's begin"
    upload.segment_received(Receipt(110, 0.0), 2.0, last=False)
    assert upload.began_s == 1.0
    assert upload.oldest_segment(330, 2.5) == (220, 1.0)
    upload.segment_received(Receipt(220, 0.0), 2.5, last=True)
    assert (upload.elapsed_s, upload.sent_bytes, upload.received_bytes) == (1.5, 300, 330)


def test_a_pause_in_which_nothing_was_on_its_way_is_no_time_of_the_link() -> None:
    upload = Upload()
    upload.segment_began(100, 0, 1.0)
    upload.segment_received(Receipt(110, 0.0), 2.0, last=False)
    assert upload.began_s is None
    upload.segment_began(200, 110, 7.0)
    assert upload.began_s == 7.0
    upload.segment_received(Receipt(220, 0.0), 7.5, last=True)
    assert (upload.elapsed_s, upload.sent_bytes, upload.received_bytes) == (0.5, 200, 220)
    assert upload.request_began_s == 1.0
