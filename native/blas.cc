// BLAS and LAPACK through the addresses that SciPy exports.
#include "blas.h"

#include <algorithm>

#include "range.h"
#include "workspace.h"

namespace jaxqr {
namespace {

template <class S>
struct Routines {
  void (*gemm)(const char*, const char*, const int*, const int*, const int*, const S*, const S*,
               const int*, const S*, const int*, const S*, S*, const int*);
  void (*trsm)(const char*, const char*, const char*, const char*, const int*, const int*,
               const S*, const S*, const int*, S*, const int*);
  void (*geqrf)(const int*, const int*, S*, const int*, S*, S*, const int*, int*);
  // orgqr of real, ungqr of complex matrices
  void (*orgqr)(const int*, const int*, const int*, S*, const int*, const S*, S*, const int*,
                int*);
  void* geqp3;  // complex matrices have one more argument: real workspace
};

template <class S>
Routines<S> routines;

template <class S>
void set(void* const* addresses) {
  Routines<S>& to = routines<S>;
  to.gemm = reinterpret_cast<decltype(to.gemm)>(addresses[0]);
  to.trsm = reinterpret_cast<decltype(to.trsm)>(addresses[1]);
  to.geqrf = reinterpret_cast<decltype(to.geqrf)>(addresses[2]);
  to.orgqr = reinterpret_cast<decltype(to.orgqr)>(addresses[3]);
  to.geqp3 = addresses[4];
}

template <class S>
void geqp3(int m, int n, S* a, int* jpvt, S* tau, S* work, int length) {
  int info;
  if constexpr (kIsComplex<S>) {
    using Geqp3 = void (*)(const int*, const int*, S*, const int*, int*, S*, S*, const int*,
                           RealOf<S>*, int*);
    Workspace workspace(Workspace::size<RealOf<S>>(2 * n));
    reinterpret_cast<Geqp3>(routines<S>.geqp3)(&m, &n, a, &m, jpvt, tau, work, &length,
                                               workspace.take<RealOf<S>>(2 * n), &info);
  } else {
    using Geqp3 =
        void (*)(const int*, const int*, S*, const int*, int*, S*, S*, const int*, int*);
    reinterpret_cast<Geqp3>(routines<S>.geqp3)(&m, &n, a, &m, jpvt, tau, work, &length, &info);
  }
}

// Fill the results of one matrix from the packed factorization `h` in LAPACK's order.
template <class S>
void write(const QrProblem<S>& to, View<S> h, const S* tau, RealOf<S> scale) {
  const long m = to.m, n = to.n, k = to.k();
  if (to.r) {
    View<S> r = dense(to.r, k, n, to.order);
    for (long i = 0; i < k; ++i) {
      for (long j = 0; j < n; ++j) r(i, j) = j < i ? S(0) : h(i, j) / scale;
      if constexpr (kIsComplex<S>) r(i, i) = r(i, i).real();
    }
  }
  if (to.h) {
    View<S> packed = dense(to.h, m, n, to.order);
    for (long i = 0; i < m; ++i) {
      for (long j = 0; j < n; ++j) packed(i, j) = j < i ? h(i, j) : h(i, j) / scale;
    }
  }
  if (to.tau) std::copy(tau, tau + k, to.tau);
  if (to.scale) *to.scale = scale;
}

template <class S>
void factor_one(const QrProblem<S>& problem, const S* a) {
  const int m = problem.m, n = problem.n, k = problem.k();
  const int wide = problem.q_full ? std::max(m, n) : n;
  const int length = 64 * std::max(m, wide) + 3 * n + 1;
  Workspace workspace(2 * Workspace::size<S>(long(m) * wide) + Workspace::size<S>(k) +
                      Workspace::size<S>(length) + Workspace::size<int>(n));
  S* factored = workspace.take<S>(long(m) * wide);
  S* formed = workspace.take<S>(long(m) * wide);
  S* tau = workspace.take<S>(k);
  S* work = workspace.take<S>(length);
  int* jpvt = workspace.take<int>(n);
  View<S> h = dense(factored, m, n, Order::kColumns);
  View<S> from = dense(a, m, n, problem.order);
  const RealOf<S> scale = scale_for(
      largest_magnitude(reinterpret_cast<const RealOf<S>*>(a), long(m) * n * kParts<S>));
  if (scale != scale) return fill_nan(problem);
  for (long j = 0; j < n; ++j) {
    for (long i = 0; i < m; ++i) h(i, j) = from(i, j) * scale;
  }
  int info;
  if (problem.pivoted()) {
    std::fill(jpvt, jpvt + n, 0);  // zero: free to move
    geqp3<S>(m, n, factored, jpvt, tau, work, length);
    if (problem.p) {
      for (long j = 0; j < n; ++j) problem.p[j] = jpvt[j] - 1;
    }
  } else {
    routines<S>.geqrf(&m, &n, factored, &m, tau, work, &length, &info);
  }
  write(problem, h, tau, scale);
  const auto form_q = [&](S* to, int cols) {
    std::fill(formed, formed + long(m) * cols, S(0));
    std::copy(factored, factored + long(m) * k, formed);
    routines<S>.orgqr(&m, &cols, &k, formed, &m, tau, work, &length, &info);
    View<S> q = dense(to, m, cols, problem.order);
    View<S> made = dense(formed, m, cols, Order::kColumns);
    for (long j = 0; j < cols; ++j) {
      for (long i = 0; i < m; ++i) q(i, j) = made(i, j);
    }
  };
  if (problem.q) form_q(problem.q, k);
  if (problem.q_full) form_q(problem.q_full, m);
}

}  // namespace

template <class S>
void multiply(S alpha, Op op_a, View<S> a, Op op_b, View<S> b, S beta, View<S> c) {
  char first = static_cast<char>(op_a), second = static_cast<char>(op_b);
  int rows = c.rows, cols = c.cols, inner = op_a == Op::kPlain ? a.cols : a.rows;
  if (rows == 0 || cols == 0) return;
  if (c.order == Order::kRows) {  // by columns this memory is C^T = op(B)^T op(A)^T
    std::swap(first, second);
    std::swap(rows, cols);
    std::swap(a, b);
  }
  const int lda = std::max(a.ld, 1L), ldb = std::max(b.ld, 1L), ldc = std::max(c.ld, 1L);
  routines<S>.gemm(&first, &second, &rows, &cols, &inner, &alpha, a.data, &lda, b.data, &ldb,
                   &beta, c.data, &ldc);
}

template <class S>
void solve_triangular(bool left, Op op, View<S> t, View<S> b, S alpha) {
  int rows = b.rows, cols = b.cols;
  char uplo = 'U';
  if (b.order == Order::kRows) {  // by columns this memory is B^T, and T^T is lower
    std::swap(rows, cols);
    left = !left;
    uplo = 'L';
  }
  const char side = left ? 'L' : 'R', trans = static_cast<char>(op), diag = 'N';
  const int ldt = t.ld, ldb = b.ld;
  routines<S>.trsm(&side, &uplo, &trans, &diag, &rows, &cols, &alpha, t.data, &ldt, b.data, &ldb);
}

template <class S>
void factor_lapack(const QrProblem<S>& problem) {
  for (long b = 0; b < problem.batch; ++b) {
    const QrProblem<S> one = problem.slice(b, 1);
    factor_one(one, one.a);
  }
}

#define INSTANTIATE(S)                                                               \
  template void multiply<S>(S, Op, View<S>, Op, View<S>, S, View<S>);                \
  template void solve_triangular<S>(bool, Op, View<S>, View<S>, S);                  \
  template void factor_lapack<S>(const QrProblem<S>&);
JAXQR_FOR_SCALARS(INSTANTIATE)

}  // namespace jaxqr

// Addresses of gemm, trsm, geqrf, orgqr (ungqr), geqp3 for s, d, c, z: twenty in all.
extern "C" __attribute__((visibility("default"))) void jaxqr_set_routines(void* const* addresses) {
  jaxqr::set<float>(addresses);
  jaxqr::set<double>(addresses + 5);
  jaxqr::set<std::complex<float>>(addresses + 10);
  jaxqr::set<std::complex<double>>(addresses + 15);
}
