"""The paper's figures as they stand in its tables, and what follows from them by arithmetic."""

import pytest

from cryoformer_nb.bench.tables import (
    PAPER,
    PAPER_ABLATION,
    PAPER_POSES,
    PAPER_QUERIES,
    last_shell_A,
    paper_figure,
    paper_table1,
    paper_table3,
)

TABLE_1 = """
CryoDRGN   6.50 19.21  3.45 3.93 8.63  7.43
SFBP       4.29  9.41  2.18 3.94 8.63  8.68
CryoSPARC  4.63  9.70 16.22 8.63 8.84 10.00
3DFlex     4.16  7.90 10.36 4.13 8.63  6.46
CryoFormer 4.13  7.47  2.03 3.80 8.63  6.46
"""
TABLE_2 = """
CryoDRGN-BNB 1.47  1.55 11.18 11.24 4.26
CryoFIRE     5.12 11.26  5.13  6.70 6.23
CryoFormer   0.12  0.12  3.95  4.16 4.10
"""


def numbers(table: str) -> dict:
    rows = [line.split() for line in table.strip().split("\n")]
    return {name: [float(v) for v in values] for name, *values in rows}


def test_table_1_stands_as_in_the_paper():
    assert {name: list(row) for name, row in PAPER.items()} == numbers(TABLE_1)
    for line, values in zip(paper_table1().split("\n")[2:], numbers(TABLE_1).values()):
        assert line.split(" | ")[1:] == [f"{v:.2f}" for v in values[:-1]] + [f"{values[-1]:.2f} |"]
    assert paper_figure("pedv", 0.001, "SFBP") == 9.41
    assert paper_figure("arm", 0.1) is None


def test_table_2_stands_as_in_the_paper():
    found = {
        row.poses.removesuffix(" (paper)"): [
            row.rotation_median,
            row.rotation_mean_square,
            row.shift_median,
            row.shift_mean_square,
            row.resolution_05_A,
        ]
        for row in PAPER_POSES
    }
    assert found == numbers(TABLE_2)


def test_table_3_stands_as_in_the_paper():
    assert list(PAPER_ABLATION.values()) == [7.52, 10.36, 8.10, 5.22, 4.87, 4.13]
    assert "10.36 |" in paper_table3()
    assert "4096" in PAPER_QUERIES["sec. 4.2"]
    assert "512" in PAPER_QUERIES["Table 3"]


@pytest.mark.parametrize("pixel_size", [4.2475, 4.25])
def test_the_spliceosome_s_figure_is_the_last_shell_before_nyquist(pixel_size):
    assert round(last_shell_A(128, pixel_size), 2) in (8.63, 8.64)
    assert last_shell_A(128, 4.2475) == 128 * 4.2475 / 63
    assert round(last_shell_A(128, 4.2475), 2) == PAPER["CryoFormer"][4]
    assert last_shell_A(128, pixel_size) > 2 * pixel_size, "Nyquist, shell 64"
