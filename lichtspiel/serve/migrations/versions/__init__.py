"""One module a version of the layout."""
