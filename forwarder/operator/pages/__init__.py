"""The operator's page: every path that answers people with HTML, one module per page."""
