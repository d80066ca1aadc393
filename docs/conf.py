"""Sphinx settings; `make docs` builds the pages."""

from importlib.metadata import version as _installed_version

project = 'tractor'
author = 'the tractor developers'
copyright = 'the tractor developers, AGPL-3.0-or-later'
release = _installed_version('tractor')
version = '.'.join(release.split('.')[:2])

extensions = [
    'sphinx.ext.autodoc',
    'sphinx.ext.autosectionlabel',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
]
exclude_patterns = ['_build', '_generated']
# what docstrings put in single backquotes is code
default_role = 'code'
nitpicky = False
autosectionlabel_prefix_document = True

autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = 'furo'
html_title = f'tractor {release}'
