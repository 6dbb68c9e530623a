"""The figures of the committed benchmarks, as pages give them."""

from benchmarks import report
from surroundings import ROOT

RESULTS = ROOT / "benchmarks" / "results"


def measured():
    """Of each work: cells, our margin over the fastest peer (mean, least, most), and over JAX."""
    rows = report.load(RESULTS / "latest.json").rows
    found = {}
    for work in ("qr", "qr_grad", "lq", "pivoted", "lstsq", "lstsq_grad"):
        of_work = [row for row in rows if row.cell.work.name == work]
        peers = [report.speedup(row, report.best_peer(row)) for row in of_work]
        means = [report.geometric_mean(peers)]
        means.append(report.geometric_mean([report.speedup(row, "jnp") for row in of_work]))
        mean, of_jax = (f"{mean:.1f}" for mean in means)
        least, most = (f"{x:.2g}" for x in (min(peers), max(peers)))
        found[work] = (str(len(of_work)), mean, least, most, of_jax)
    return found
