"""Settings of the documentation: Sphinx with MyST Markdown; warnings are errors (`make docs`)."""

import ariel_jax

project = "ariel_jax"
author = "The ariel_jax authors"
copyright = "The ariel_jax authors, Apache-2.0"
release = ariel_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
# .rst first: in that form autosummary writes the pages of the reference.
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}
templates_path = ["_templates"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are run by `make notebooks`; their stored outputs are shown

# Axis letters in "Returns" look like names of attributes that several classes have.
suppress_warnings = ["ref.python"]

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_custom_sections = [
    ("Guarantees", "notes_style"),
    ("Cost", "notes_style"),
    ("Deviations", "notes_style"),
]

html_theme = "furo"
html_title = f"ariel_jax {release}"
exclude_patterns = ["_build", "_templates"]
