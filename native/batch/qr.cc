// Batches of small matrices: QR with and without pivoting, Q from reflectors, and products with Q.
#include "batch/q_groups.h"
#include "batch/qr_groups.h"
#include "kernels.h"

namespace jaxqr {
namespace {

// The cost of a group, in tenths of a nanosecond on a common machine: the reflectors' products with
// their own and other columns, entries packed or unpacked, and the reflectors themselves.
template <class S>
double cost(double m, double cols, double reflectors, double entries) {
  const double product = kIsComplex<S> ? 4 : 1;
  return product * m * cols * reflectors + 10 * kParts<S> * entries + 300 * reflectors;
}

}  // namespace

template <class S>
void factor_batch(const QrProblem<S>& problem, Pool& pool) {
  const long m = problem.m, n = problem.n, k = problem.k();
  const long q_cols = problem.q_full ? m : problem.q ? k : 0;
  Workspace memory(QrPlaces<S>::bytes(problem));
  const QrPlaces<S> places(problem, memory);
  const double entries = m * n + m * q_cols + (problem.r ? k * n : 0) + (problem.h ? m * n : 0);
  const double pivoting = problem.pivoted() ? 4 : 1;
  for_groups<RealOf<S>>(
      pool, problem.batch, pivoting * cost<S>(m, n + q_cols, k, entries),
      [&](long first, long count) { QrGroups<S>(problem.slice(first, count), places).run(); });
}

template <class S>
void form_batch(const FormProblem<S>& problem, Pool& pool) {
  const long m = problem.m, n = problem.n, k = problem.k;
  Workspace memory(ReflectorPlaces<S>::bytes(m, n, k) + places_bytes<S>(m, n));
  const ReflectorPlaces<S> places(m, n, k, problem.order, memory);
  const Place* q = panel_places<S>(m, n, problem.order, Part::kAll, m, 0, memory);
  for_groups<RealOf<S>>(
      pool, problem.batch, cost<S>(m, n, k, 2 * m * n),
      [&](long first, long count) { form_groups<S>(problem.slice(first, count), places, q); });
}

template <class S>
void apply_batch(const ApplyProblem<S>& problem, Pool& pool) {
  const long m = problem.m, k = problem.k;
  const long others = problem.left ? problem.cols : problem.rows;
  const Order transposed = problem.order == Order::kRows ? Order::kColumns : Order::kRows;
  Workspace memory(ReflectorPlaces<S>::bytes(m, k, k) + places_bytes<S>(m, others));
  const ReflectorPlaces<S> places(m, k, k, problem.order, memory);
  const Place* c = panel_places<S>(m, others, problem.left ? problem.order : transposed, Part::kAll,
                                   m, 0, memory);
  for_groups<RealOf<S>>(
      pool, problem.batch, cost<S>(m, 2 * others, k, m * k + 2 * m * others),
      [&](long first, long count) { apply_groups<S>(problem.slice(first, count), places, c); });
}

#define INSTANTIATE(S, NAME)                                 \
  template void factor_batch<S>(const QrProblem<S>&, Pool&); \
  template void form_batch<S>(const FormProblem<S>&, Pool&); \
  template void apply_batch<S>(const ApplyProblem<S>&, Pool&);
JAXQR_FOR_SCALARS(INSTANTIATE)

}  // namespace jaxqr
