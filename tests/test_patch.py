"""Patching JAX: what is replaced and given back, who is refused, what is reported."""

import threading
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.interpreters import ad, mlir

import jaxqr
from jaxqr._core.undocumented import find_rules, set_rules
from jaxqr._lowering import kernels
from jaxqr._patch import tables
from jaxqr._patch.replacements import REPLACEMENTS, find_jax_primitives
from matrices import normal
from surroundings import needs_kernels, python

STOCK_LSTSQ = jnp.linalg.lstsq


@pytest.fixture(autouse=True)
def _stock():
    """Each test begins and ends with JAX as it is."""
    yield
    jaxqr.unpatch()


def rules_of_jax():
    return {name: find_rules(p) for name, (p, _) in find_jax_primitives().items()}


def program_text(f, *args):
    return jax.jit(f).lower(*args).as_text()


def triangle(a):
    return jnp.linalg.qr(a, mode="r")


# ------------------------------------------------------------------------------ in and out


def test_unpatching_restores_the_very_rules_that_were_there():
    before = rules_of_jax()
    jaxqr.patch(lstsq=True)
    during = rules_of_jax()
    jaxqr.unpatch()
    after = rules_of_jax()
    for replacement in REPLACEMENTS:
        name = replacement.name
        assert during[name]["derivative"] is not before[name].get("derivative")
        assert after[name].keys() == before[name].keys()
        assert all(after[name][kind] is rule for kind, rule in before[name].items())
    assert jnp.linalg.lstsq is STOCK_LSTSQ


def test_patching_starts_no_device():
    """A program may patch first and call `jax.distributed.initialize` then."""
    program = (
        "import jaxqr; jaxqr.patch(); from jax.extend import backend; import jax; "
        "from jax._src import xla_bridge; assert not xla_bridge.backends_are_initialized()"
    )
    python("-c", program)


@needs_kernels
def test_what_was_compiled_before_is_compiled_anew():
    f = jax.jit(triangle)
    a = normal((5, 3))
    stock = f(a)
    jaxqr.patch()
    patched = f(a)
    assert jaxqr.status().served["qr"]["values"] == 1
    assert "jaxqr_qr" in f.lower(a).as_text()
    jaxqr.unpatch()
    assert "jaxqr_qr" not in f.lower(a).as_text()
    np.testing.assert_array_equal(f(a), stock)
    np.testing.assert_allclose(patched, stock, atol=1e-13)


def test_blocks_nest_and_give_back_what_was_before():
    with jaxqr.patched():
        with jaxqr.patched(lstsq=True):
            assert jaxqr.status()[:2] == (True, True)
        assert jaxqr.status()[:2] == (True, False)
        with pytest.raises(KeyError), jaxqr.patched():
            raise KeyError
        assert jaxqr.status().patched
    assert jaxqr.status()[:2] == (False, False)
    jaxqr.unpatch()  # once more does nothing


def test_of_blocks_that_overlap_the_last_one_to_end_gives_back():
    def block(**options):
        with jaxqr.patched(**options):
            yield

    first, second = block(lstsq=True), block()
    next(first), next(second)
    first.close()
    assert jaxqr.status()[:2] == (True, False)
    second.close()
    assert not jaxqr.status().patched
    third = block()
    next(third)
    jaxqr.patch()
    third.close()
    assert jaxqr.status().patched  # as it was called for


@jaxqr.patched()
def ask_status(depth=0):
    return ask_status(depth - 1) if depth else jaxqr.status().patched


def test_a_function_may_be_decorated_if_it_runs_when_it_is_called():
    assert ask_status() and ask_status(2)
    assert not jaxqr.status().patched

    def generate():
        yield jaxqr.status()

    async def wait():
        pass

    for function in (generate, wait):
        with pytest.raises(
            TypeError, match=f"patched: .*got the .* function .*{function.__name__}"
        ):
            jaxqr.patched()(function)


def test_threads_patch_one_after_the_other():
    before = rules_of_jax()
    threads = [threading.Thread(target=f) for f in [jaxqr.patch, jaxqr.unpatch] * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    jaxqr.patch()
    assert jaxqr.status().patched
    jaxqr.unpatch()
    assert rules_of_jax() == before


@pytest.mark.parametrize("way", ["no kernels"], indirect=True)
def test_without_kernels_values_stay_those_of_jax_and_derivatives_do_not(way):
    a = normal((4, 3))
    stock = triangle(a)
    text = program_text(triangle, a)
    jaxqr.patch()
    assert jaxqr.status().platforms == ()
    assert program_text(triangle, a) == text
    np.testing.assert_array_equal(triangle(a), stock)
    gradient = jax.grad(lambda a: jnp.sum(triangle(a) ** 2))(jnp.ones((4, 3)))
    assert jnp.isfinite(gradient).all()


# --------------------------------------------------------------------------- dead outputs


def outputs_in(text):
    return {
        line.split('outputs = "')[1].split('"')[0]
        for line in text.splitlines()
        if "outputs" in line
    }


@needs_kernels
@pytest.mark.parametrize(
    "f, outputs",
    [
        (triangle, "r"),
        (lambda a: jnp.linalg.qr(a)[0], "q"),
        (lambda a: jnp.linalg.qr(a), "q,r"),
        (lambda a: jnp.linalg.qr(a, mode="complete")[1], "r"),
        (lambda a: jax.scipy.linalg.qr(a, mode="r"), "r"),
        (lambda a: jax.scipy.linalg.qr(a, mode="r", pivoting=True), "r,p"),
        (lambda a: lax.linalg.qr(a, pivoting=True)[2], "p"),
        (lambda a: lax.scan(lambda r, x: (triangle(r + x), None), a[:3], a[None, :3])[0], "r"),
        (jax.vmap(lambda row: triangle(jnp.outer(row, row))), "r"),
        (jax.checkpoint(triangle), "r"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_program_computes_only_the_outputs_that_it_uses(f, outputs):
    a = normal((5, 3))
    want = f(a)
    jaxqr.patch()
    assert outputs_in(program_text(f, a)) == {outputs}
    got = f(a)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_allclose(x, y, atol=1e-12)


# -------------------------------------------------------------------- others, and other JAXs


def foreign_rule(ctx, *operands, **params):
    raise AssertionError("not to be called")


@pytest.mark.parametrize("kind", ["lowering", "partial", "derivative"])
def test_another_patcher_is_refused_by_name(kind):
    p = lax.linalg.qr_p
    before = find_rules(p)
    if kind == "derivative":
        ad.primitive_jvps[p] = foreign_rule
    elif kind == "partial":  # as a function of arrays, which JAX wraps
        mlir.register_lowering(p, mlir.lower_fun(foreign_rule, multiple_results=True), "cpu")
    else:
        mlir.register_lowering(p, foreign_rule, platform="cpu")
    try:
        with pytest.raises(jaxqr.PatchConflictError, match=r"patch: .*primitive qr .*foreign_rule"):
            jaxqr.patch()
        assert not jaxqr.status().patched
    finally:
        set_rules(p, before)


def test_rules_that_another_has_put_on_top_are_not_taken_away():
    jaxqr.patch()
    p = lax.linalg.ormqr_p
    own = ad.primitive_jvps[p]
    ad.primitive_jvps[p] = foreign_rule
    with pytest.raises(jaxqr.PatchConflictError, match=r"unpatch: .*ormqr .*foreign_rule"):
        jaxqr.unpatch()
    del ad.primitive_jvps[p]
    with pytest.raises(jaxqr.PatchConflictError, match=r"unpatch: .*ormqr .*no longer has"):
        jaxqr.unpatch()
    assert jaxqr.status().patched
    ad.primitive_jvps[p] = own


def change_nothing(*args):
    pass


@pytest.mark.parametrize("drift", ["gone", "parameters", "unused", "tables"])
def test_a_jax_that_has_changed_stays_as_it_is(monkeypatch, drift):
    before = rules_of_jax()
    known = find_jax_primitives()
    if drift == "gone":
        monkeypatch.setattr(tables, "find_jax_primitives", lambda: {})
    elif drift == "parameters":
        p, names = known["qr"]
        changed = {**known, "qr": (p, names | {"algorithm"})}
        monkeypatch.setattr(tables, "find_jax_primitives", lambda: changed)
    elif drift == "unused":  # as if JAX looked rules up elsewhere
        monkeypatch.setattr(tables, "_replace", change_nothing)
    else:
        monkeypatch.delattr(mlir, "_lowerings")
    with pytest.warns(RuntimeWarning, match=f"patch: JAX {jax.__version__} stays as it is"):
        jaxqr.patch()
    monkeypatch.undo()
    assert not jaxqr.status().patched
    assert rules_of_jax() == before


# ------------------------------------------------------------------------ reports


def test_the_status_tells_what_is_patched_and_how_often_it_served():
    assert str(jaxqr.status()) == "JAX's own QR is not patched"
    jaxqr.patch(lstsq=True)
    assert "not called yet" in str(jaxqr.status())
    jax.grad(lambda a: jnp.sum(triangle(a)))(normal((4, 2)))
    jnp.linalg.lstsq(normal((4, 2)), normal((4,)))
    text = str(jaxqr.status())
    for words in ("is patched", "lstsq is replaced", "qr: derivatives 1", "lstsq: values 1"):
        assert words in text
    assert ("cpu" in text) == kernels.available()


def test_a_patch_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with jaxqr.patched():
            jax.grad(lambda a: jnp.sum(triangle(a)))(normal((3, 2)))
