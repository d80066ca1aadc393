"""Fixtures of the whole suite: those of the plugin that the package ships."""

# also named in the project's pytest options; a run with other options needs it as much
pytest_plugins = ['tractor._testing.pytest']
