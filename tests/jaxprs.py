"""What a program consists of before it is lowered."""

import jax


def equations(jaxpr):
    """All equations of a jaxpr, those of its inner jaxprs too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values())):
            if hasattr(inner := getattr(value, "jaxpr", value), "eqns"):
                yield from equations(inner)


def bound(f, *args):
    """The primitives of jaxqr in the program of `f`, with their parameters, live ones only."""
    jaxpr = jax.make_jaxpr(f)(*args).jaxpr
    found = [e for e in equations(jaxpr) if e.primitive.name.startswith("jaxqr_")]
    return {e.primitive.name.removeprefix("jaxqr_"): e.params for e in found}
