// What the library computes: problems of batches of matrices, as plain pointers.
//
// The handlers in ffi/ check what XLA passes and fill these in. dispatch.cc chooses a kernel by
// shape; the kernels know nothing of XLA. All arrays of a problem have the same order, all are
// dense, and the batch is their slowest dimension.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "common/parallel.h"
#include "common/scalar_types.h"

namespace jaxqr {

// Whether the entries of a row or those of a column lie side by side. QR of a matrix by columns
// is LQ of the same memory by rows.
enum class Order { kRows, kColumns };

// How the columns of a QR are permuted: not at all, as the norms of what is left of them tell, or
// as those of a random sketch do, which is nearly as good and much cheaper.
enum class Pivoting { kNone, kExact, kRandomized };

// Factor A = Q R, or A P = Q R with pivoting. k = min(m, n), or less where only the leading pivots
// are wanted: Q R is then the best that k of the columns give. Null results are not wanted.
template <class S>
struct QrProblem {
  long batch, m, n;
  Order order;
  Pivoting pivoting;
  const S* a = nullptr;  // m x n
  S* q = nullptr;        // m x k
  S* q_full = nullptr;   // m x m
  S* r = nullptr;        // k x n, zero below the diagonal, its diagonal real
  S* h = nullptr;        // m x n: R, and the reflectors' vectors below its diagonal
  S* tau = nullptr;      // k: H_i = I - tau_i v_i v_i^H, Q = H_1 ... H_k
  int32_t* p = nullptr;  // n, counted from 0; null without pivoting
  long most = std::numeric_limits<long>::max();  // pivots at most; less than m and n: h is not there

  long k() const { return std::min({m, n, most}); }
  bool pivoted() const { return pivoting != Pivoting::kNone; }

  // The problem of the matrices from `first` on.
  QrProblem slice(long first, long count) const {
    QrProblem part = *this;
    part.batch = count;
    part.a += first * m * n;
    if (q) part.q += first * m * k();
    if (q_full) part.q_full += first * m * m;
    if (r) part.r += first * k() * n;
    if (h) part.h += first * m * n;
    if (tau) part.tau += first * k();
    if (p) part.p += first * n;
    return part;
  }
};

// Form the leading n columns of Q = H_1 ... H_k, k <= n <= m.
template <class S>
struct FormProblem {
  long batch, m, n, k;
  Order order;
  const S* h = nullptr;    // m x n
  const S* tau = nullptr;  // k
  S* q = nullptr;          // m x n

  FormProblem slice(long first, long count) const {
    return {count, m, n, k, order, h + first * m * n, tau + first * k, q + first * m * n};
  }
};

// Multiply C by Q = H_1 ... H_k or its adjoint.
template <class S>
struct ApplyProblem {
  long batch, m, k;  // reflectors of m entries
  long rows, cols;   // of C
  Order order;
  bool left, adjoint;
  const S* h = nullptr;    // m x k
  const S* tau = nullptr;  // k
  const S* c = nullptr;    // rows x cols
  S* out = nullptr;        // rows x cols

  ApplyProblem slice(long first, long count) const {
    ApplyProblem part = *this;
    part.batch = count;
    part.h += first * m * k;
    part.tau += first * k;
    part.c += first * rows * cols;
    part.out += first * rows * cols;
    return part;
  }
};

// The tangent map (dQ, dR) of dA, and its transpose, the cotangent map Abar of (Qbar, Rbar):
// equations (8.5)-(8.8) of notebooks/derivations.md. JAX pairs cotangents without conjugation: the
// map of the conjugates of Qbar and Rbar is conj(Abar).
template <class S>
struct DerivativeProblem {
  long batch, m, n;
  Order order;
  bool pivoted;          // columns that count are the leading run, (8.3)
  const S* q = nullptr;  // m x k
  const S* r = nullptr;  // k x n
  // tangent: A in, Q and R out where not null; cotangent: Q and R in where not null, A out
  S* da = nullptr;  // m x n
  S* dq = nullptr;  // m x k
  S* dr = nullptr;  // k x n

  long k() const { return m < n ? m : n; }

  DerivativeProblem slice(long first, long count) const {
    DerivativeProblem part = *this;
    part.batch = count;
    part.q += first * m * k();
    part.r += first * k() * n;
    part.da += first * m * n;
    if (dq) part.dq += first * m * k();
    if (dr) part.dr += first * k() * n;
    return part;
  }
};

// The complete orthogonal decomposition of a deep matrix, as jaxqr/_lstsq/decomposition.py says:
// A P = Q R, or A P0 = Q0 R0 and R0 P1 = Q1 R if `h1` is not null, and for a rank r < n
// [R11 R12]^H = Z T. All by rows.
template <class S>
struct CodProblem {
  long batch, m, n;
  double rcond;             // negative: columns are judged by their own size, (8.3)
  const S* a = nullptr;     // m x n
  S* h = nullptr;           // m x n
  S* tau = nullptr;         // n
  S* h1 = nullptr;          // n x n
  S* tau1 = nullptr;        // n
  int32_t* p = nullptr;     // n; null: no pivoting, and the rank is n by assumption
  int32_t* rank = nullptr;  // 1; may be null where p is
  S* hz = nullptr;          // n x n
  S* tauz = nullptr;        // n

  CodProblem slice(long first, long count) const {
    CodProblem part = *this;
    part.batch = count;
    if (a) part.a += first * m * n;
    part.h += first * m * n;
    if (tau) part.tau += first * n;
    if (rank) part.rank += first;
    if (h1) {
      part.h1 += first * n * n;
      part.tau1 += first * n;
    }
    if (p) {
      part.p += first * n;
      part.hz += first * n * n;
      part.tauz += first * n;
    }
    return part;
  }
};

// A^+ V, A^{+H} V, (A^H A)^+ V and (I - A^+ A) V from the decomposition of A.
enum class Operation { kSolve, kSolveAdjoint, kGram, kNull };

template <class S>
struct PseudoinverseProblem {
  CodProblem<S> cod;
  long s;
  Operation operation;
  const S* v = nullptr;  // m x s to solve, else n x s
  S* out = nullptr;      // m x s for the adjoint, else n x s

  long rows_in() const { return operation == Operation::kSolve ? cod.m : cod.n; }
  long rows_out() const { return operation == Operation::kSolveAdjoint ? cod.m : cod.n; }
  PseudoinverseProblem slice(long first, long count) const {
    return {cod.slice(first, count), s, operation, v + first * rows_in() * s,
            out + first * rows_out() * s};
  }
};

// The x of minimum norm that minimizes |b - A x|, for a deep A, and the squared norm. By rows.
template <class S>
struct LstsqProblem {
  long batch, m, n, s;
  bool pivoting;
  double rcond;                    // as of CodProblem
  const S* a = nullptr;            // m x n
  const S* b = nullptr;            // m x s
  S* x = nullptr;                  // n x s
  RealOf<S>* residuals = nullptr;  // s
  int32_t* rank = nullptr;         // 1

  LstsqProblem slice(long first, long count) const {
    LstsqProblem part = *this;
    part.batch = count;
    part.a += first * m * n;
    part.b += first * m * s;
    part.x += first * n * s;
    part.residuals += first * s;
    part.rank += first;
    return part;
  }
};

// X with op(T) X = B, or X op(T) = B if not `left`, for a triangle T of n rows, whose other triangle
// is not read; op conjugates, transposes, or does both. By rows.
template <class S>
struct SolveProblem {
  long batch, n, rows, cols;  // of X: n is one of the two
  bool left, lower, transpose, conjugate, unit;
  const S* t = nullptr;  // n x n
  const S* b = nullptr;  // rows x cols
  S* x = nullptr;        // rows x cols
};

// What the library computes, instantiated for every scalar type: in dispatch.cc, and in
// least_squares/ for the last four, which call the others.
template <class S>
void factor(const QrProblem<S>& problem, Pool& pool);
template <class S>
void form(const FormProblem<S>& problem, Pool& pool);
template <class S>
void apply(const ApplyProblem<S>& problem, Pool& pool);
template <class S>
void compute_tangent(const DerivativeProblem<S>& problem, Pool& pool);
template <class S>
void compute_cotangent(const DerivativeProblem<S>& problem, Pool& pool);
template <class S>
void decompose(const CodProblem<S>& problem, Pool& pool);
template <class S>
void apply_pseudoinverse(const PseudoinverseProblem<S>& problem, Pool& pool);
template <class S>
void solve_least_squares(const LstsqProblem<S>& problem, Pool& pool);
template <class S>
void solve_triangles(const SolveProblem<S>& problem, Pool& pool);

}  // namespace jaxqr
