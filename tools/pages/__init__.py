"""The generated pages of the documentation: what the code itself knows best. ``make docs`` puts them into the site."""
