"""The site's own code: which names its API page shows, and how it reads docstrings. `make docs` builds the site."""

import runpy
from pathlib import Path

import marble_bench

ROOT = Path(__file__).parent.parent
CONF = runpy.run_path(str(ROOT / "docs/conf.py"))


def test_the_api_page_shows_every_public_name_once():
    page = ["<!-- public names -->"]
    CONF["list_public_names"](None, "api", page)
    for name in set(marble_bench.__all__) - {"__version__"}:
        shown = page[0].count(f"marble_bench.{name}\n") + page[0].count(f"`marble_bench.{name}`")
        assert shown == 1, name
    assert "Literal['none', 'peak', 'zscore']" in page[0]


def test_a_name_of_a_new_module_gets_a_section_before_the_others(monkeypatch):
    monkeypatch.setattr(marble_bench, "Fresh", ValueError, raising=False)
    monkeypatch.setitem(marble_bench._PUBLIC, "Fresh", "brand_new")
    lines = CONF["describe_public_names"]()
    assert lines[0] == "## brand_new"
    assert "autoclass:: marble_bench.Fresh" in lines[2]
    titles = [line.removeprefix("## ") for line in lines if line.startswith("## ")][1:]
    assert titles == [title for title in dict.fromkeys(CONF["SECTIONS"].values()) if title in titles]


def test_a_docstring_becomes_restructured_text_with_its_parameters_as_a_list():
    def cut(window, start_s, hop): ...

    lines = """Cuts `a|b` windows, 2 * 3 | of name_ and `clip`s.

window: the length in `s`,
    or None.
start_s, hop: two more.
not a parameter: stays in the item before.

>>> cut(1, *[2], 3)""".split("\n")
    CONF["convert_docstring"](None, "function", "cut", cut, None, lines)
    assert lines == [
        r"Cuts ``a|b`` windows, 2 \* 3 \| of name\_ and ``clip``\ s.",
        "",
        "",
        "* **window**: the length in ``s``,",
        "  or None.",
        "",
        "* **start_s, hop**: two more.",
        "  not a parameter: stays in the item before.",
        "",
        ">>> cut(1, *[2], 3)",
    ]


def test_every_page_is_in_the_sites_menu():
    menu = (ROOT / "docs/index.md").read_text()
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert pages == {line for line in menu.splitlines() if line in pages}
    assert len([line for line in menu.splitlines() if line in pages]) == len(pages)
