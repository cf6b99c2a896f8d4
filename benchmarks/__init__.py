"""How fast objrepo is beside its peers: `nox -s bench`, and `nox -s bench -- --quick` for a first look."""
