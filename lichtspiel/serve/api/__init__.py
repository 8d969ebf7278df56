"""The HTTP interface: routes, bodies, answers and what stands before them."""
