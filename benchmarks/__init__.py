"""The speed of objrepo and of comparable libraries: `nox -s bench`, or quicker `nox -s bench -- --quick`."""
