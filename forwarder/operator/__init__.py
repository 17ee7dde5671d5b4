"""What people see and do: the API, the pages and who may use them, and the checks of this machine."""
