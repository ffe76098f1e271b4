"""Fill docs/configuration.md with every key of the configuration's tables.

    python -m scripts.make_configuration            # or: make results
    python -m scripts.make_configuration --check    # exit code 1 when anything would change

What is between `<!-- keys -->` and `<!-- end -->` is made of the tables in `common/config`.
"""

import re
import sys
from itertools import groupby
from pathlib import Path

import click

from common.config.reference import Key, reference, summary
from common.runs import files
from scripts.make_performance import table

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
BLOCK = re.compile(r"(<!-- keys -->\n).*?(<!-- end -->)", re.DOTALL)


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; fail when anything would change.")
@click.option("--page", type=click.Path(path_type=Path), default=PAGE, show_default=False)
def main(check: bool, page: Path) -> None:
    """Rebuild the tables of docs/configuration.md."""
    before = page.read_text(encoding="utf-8")
    after = filled(before)
    if check:
        sys.exit(before != after)
    files.write_whole(page, after.encode())


def filled(text: str) -> str:
    """The page with its tables rebuilt."""
    made = "".join(
        section(name, list(rows)) for name, rows in groupby(reference(), lambda row: _table(row))
    )
    return BLOCK.sub(lambda match: f"{match[1]}{made}\n{match[2]}", text)


def section(name: str, rows: list[Key]) -> str:
    """The keys of one table, under its heading."""
    cells = [
        [_cell(f"`{row.key}`"), _cell(f"`{row.default}`"), _cell(row.valid), _cell(row.meaning)]
        for row in rows
    ]
    shown = table(["key", "default", "valid", "meaning"], cells)
    return f"\n## `[{name}]`\n\n{summary(name)}\n\n{shown}\n"


def _table(row: Key) -> str:
    return row.key.rpartition(".")[0]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
