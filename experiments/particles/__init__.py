"""Beyond pictures: charged rods with exact cut-offs."""
