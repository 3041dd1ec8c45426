"""The site, made by Sphinx: `make docs`. Needs no network; warnings are errors."""

import argparse
import inspect
import re
import sys
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import lzpenalty  # noqa: E402
from engines import fake_llama_cpp, fake_mlx, fake_sglang, fake_vllm  # noqa: E402
from engines.load import adaptor  # noqa: E402
from lzpenalty.commands.cli import make_parser  # noqa: E402

# The adaptors' docstrings need no engine: where one is not installed, the tests' fake of its interface stands in.
for name, fake in (
    ("vllm.penalty", fake_vllm),
    ("sglang", fake_sglang),
    ("llama_cpp.rpc", fake_llama_cpp),
    ("mlx", fake_mlx),
):
    sys.modules[f"lzpenalty.{name}"] = adaptor(name, fake)

project = "lzpenalty"
copyright = "the authors of lzpenalty"
release = version = lzpenalty.__version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
nitpicky = True  # a reference that leads nowhere is a warning

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
highlight_language = "none"  # Python is where a page says so
nb_execution_mode = "off"  # `make test` executes the notebooks; what is committed has their output
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say more: shapes and units
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

html_theme = "furo"
html_title = "lzpenalty"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"source_edit_link": None, "navigation_with_keys": True}
html_show_sphinx = False
html_copy_source = False
copybutton_exclude = ".linenos, .gp, .go"

# A trailing underscore, in place, is a link in reStructuredText: in docstrings, to the function of that name.
IN_PLACE = re.compile(r"(?<![\w`.~:])(" + "|".join(name for name in lzpenalty.__all__ if name.endswith("_")) + r")(?![\w`])")


def mark_up(app, what, name, obj, options, lines):
    """Docstrings are written to be read as they are. For reStructuredText an indented paragraph before the first section is
    a literal block, and a function's name a link."""
    text, literal, before = [], False, True
    for line in lines:
        before &= not line.startswith("---")
        indented = line.startswith("    ")
        if before and indented and not literal and text and not text[-1]:
            text += ["::", ""]
            literal = True
        literal &= indented or not line
        text.append(line if literal else IN_PLACE.sub(r":func:`~lzpenalty.\1`", line))
    lines[:] = text


class Commands(SphinxDirective):
    """What `lzpenalty COMMAND --help` says, for each command, from the parser itself."""

    def run(self):
        action = next(a for a in make_parser()._actions if isinstance(a.choices, dict))
        found = []
        for name, parser in action.choices.items():
            parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=96)
            section = nodes.section("", nodes.title(text=f"lzpenalty {name}"), ids=[f"lzpenalty-{name}"])
            section += nodes.literal_block("", parser.format_help(), language="none")
            found.append(section)
        return found


def sign(app, what, name, obj, options, signature, returns):
    """numpydoc would leave the slash of a C function's "($module, /, ..."."""
    return (str(inspect.signature(obj)), "") if inspect.isbuiltin(obj) else None


def setup(app):
    app.connect("autodoc-process-docstring", mark_up, priority=400)  # before numpydoc
    app.connect("autodoc-process-signature", sign, priority=400)
    app.add_directive("commands", Commands)
