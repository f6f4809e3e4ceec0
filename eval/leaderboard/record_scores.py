"""Record the scores of a board's runs in a file from which the board can be built without them.

    python eval/leaderboard/record_scores.py --board dl19-runs.toml --data DATA --out dl19.scores.json RUNS...

The file has names and metadata of runs, scores per topic, and digests of lists; no document ids, texts or lists.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rerank.io.text_files import replace_text_file
from rerank.leaderboard.board import make_board
from rerank.leaderboard.board_config import read_board_config
from rerank.leaderboard.exports import board_as_recorded_scores


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, help="runs that join those of the board file")
    parser.add_argument("--board", type=Path, required=True, help="board file with the runs")
    parser.add_argument("--data", type=Path, required=True, help="folder for relative paths in the board file")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    board = make_board(
        read_board_config(options.board), home=options.board.parent, data=options.data, runs=options.runs
    )
    with replace_text_file(options.out) as stream:
        stream.write(board_as_recorded_scores(board))


if __name__ == "__main__":
    main()
