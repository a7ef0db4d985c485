"""A fair comparison of methods: one plan, one loop, one search budget, a reporting split that is opened once."""
