"""The documentation site: pages in Markdown, whose code runs while it is built.

    pip install -e ".[docs]" && sphinx-build -nW -j 2 docs docs/_build/html

Docstrings are plain text with formulas, not reStructuredText: `plain_docstring` makes them such.
"""

import os
import re
import sys
from pathlib import Path

import mlem_jax

HERE = Path(__file__).parent
# Kernels start in this folder: pages import `small_ladder`, and find `experiments` beside docs.
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent)])
os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path[:0] = [str(HERE), str(HERE.parent)]

from experiments.common.compiling import compile_quickly

compile_quickly()  # Half of a build would go into fast programs of which each runs once.

project = "mlem_jax"
author = "the authors of mlem_jax"
release = version = mlem_jax.__version__
html_title = f"mlem_jax {release}"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
templates_path = []
exclude_patterns = ["_build"]
html_copy_source = False
html_show_copyright = False

nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_render_markdown_format = "gfm"
nb_merge_streams = True
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 80
napoleon_use_ivar = True
napoleon_use_rtype = False
default_role = "code"
# Types are those of jax, jaxtyping, numpy and Optax, whose sites this build does not ask.
nitpick_ignore_regex = [("py:.*", ".*")]

SECTIONS = ("Args:", "Attributes:", "Raises:", "Returns:", "References:")


def escaped(text: str) -> str:
    """Plain text: what reStructuredText would take for markup is taken as it stands."""
    parts = text.split("`")
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"[|*]|_(?=\W)", r"\\\g<0>", parts[i])
        if i and re.match(r"\w", parts[i]):
            parts[i] = r"\ " + parts[i]  # A plural of code.
    return "``".join(parts)


def plain_docstring(app, what, name, obj, options, lines):  # noqa: ARG001
    """Formulas set off by an indent become literal blocks, single backticks code."""
    paragraphs = "\n".join(lines).strip("\n").split("\n\n")
    told, section = [], False
    for paragraph in paragraphs:
        own = paragraph.split("\n")
        section = own[0] in SECTIONS or (section and own[0].startswith(" "))
        if not section and any(line.startswith("    ") for line in own):
            told += ["::", "", *("    " + line for line in own), ""]
        else:
            told += [*escaped(paragraph).split("\n"), ""]
    lines[:] = told


def named(told: str | None) -> str | None:
    """Types under the names that a reader knows."""
    return told and re.sub(
        r"_Buffer \|.*?bytes \| str\]", "ArrayLike", told.replace("jaxlib._jax.", "")
    )


def plain_signature(app, what, name, obj, options, signature, returned):  # noqa: ARG001
    """The same in signatures."""
    return named(signature), named(returned)


def plain_types(app, what, name, obj, options, lines):  # noqa: ARG001
    """What napoleon adds of types: in jaxtyping a star names axes."""
    for n, line in enumerate(lines):
        if ":vartype" in line:
            lines[n] = (named(line) or "").replace("*", r"\*")


def skip_fields(app, what, name, obj, skip, options):  # noqa: ARG001
    """Fields of a NamedTuple are in the list of its attributes."""
    return skip or type(obj).__name__ == "_tuplegetter"


def setup(app):
    """Hook in round napoleon, which reads the sections."""
    app.connect("autodoc-process-docstring", plain_docstring, priority=400)
    app.connect("autodoc-process-docstring", plain_types, priority=600)
    app.connect("autodoc-process-signature", plain_signature)
    app.connect("autodoc-skip-member", skip_fields)
