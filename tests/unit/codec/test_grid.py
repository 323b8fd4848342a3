"""The order of coding, neighbours and places of tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitvlm.codec.grid import LARGEST_INPUT, PLACES, WAVES, grid_of, offsets, places_of, rows_in


@given(st.integers(0, 90), st.integers(1, 12))
def test_every_token_is_coded_once_and_knows_its_neighbours(tokens: int, stride: int) -> None:
    grid = grid_of(tokens, stride, 0)
    assert sorted(grid.order.tolist()) == list(range(tokens))
    coded_at = {number: coded for coded, number in enumerate(grid.order.tolist())}
    assert grid.num_first == -(-tokens // 2) or stride % 2 == 0
    for place, offset in enumerate(offsets(stride)):
        for coded, number in enumerate(grid.order.tolist()):
            found = grid.neighbours[place, coded]
            assert found == coded_at.get(number + offset, tokens)


@pytest.mark.parametrize(("rows", "stride"), [(8, 8), (6, 5), (3, 4)])
def test_within_a_grid_all_neighbours_of_the_second_pass_are_of_the_first(rows: int, stride: int) -> None:
    grid = grid_of(rows * stride, stride, rows)
    for coded in range(grid.num_first, rows * stride):
        row, column = divmod(int(grid.order[coded]), stride)
        inside = (column > 0, column < stride - 1, row > 0, row < rows - 1)
        for known, neighbour in zip(inside, grid.neighbours[:, coded], strict=True):
            assert not known or neighbour < grid.num_first


def test_places_are_whole_differ_and_repeat_with_each_tile() -> None:
    places = places_of(2 * 64, 8, 8)
    assert places.shape == (PLACES, 128)
    assert np.array_equal(places, np.rint(places))
    assert np.abs(places).max() <= LARGEST_INPUT
    assert np.array_equal(places[:, :64], places[:, 64:])
    assert len(np.unique(places[:, :64], axis=1).T) == 64
    assert np.array_equal(places[:WAVES, ::8][:, :8], places[WAVES:, :8])
    assert places_of(64, 8, 0).shape == (0, 64)


def test_places_are_known_where_all_pictures_are_square_grids() -> None:
    assert rows_in([64, 128], 8) == 8
    assert rows_in([64, 70], 8) == 0
    assert rows_in([5, 5], 1) == 0
