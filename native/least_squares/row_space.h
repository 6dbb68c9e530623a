// Decompositions at work: in the n entries that A^H A works on, and in the m beside them.
#pragma once

#include <algorithm>

#include "common/passes.h"
#include "common/workspace.h"
#include "least_squares/triangular.h"

namespace jaxqr {

template <class S>
constexpr size_t bytes(long count) {
  return Workspace::size<S>(count);
}

// Call body(first, count) for pieces of a batch whose workspace stays in the cache.
template <class Body>
void for_pieces(long batch, size_t bytes_each, const Body& body) {
  constexpr size_t kBytes = size_t{1} << 21;
  constexpr long kLeast = 64;  // matrices, so that lanes are filled
  const long count = std::max(kLeast, static_cast<long>(kBytes / std::max<size_t>(bytes_each, 1)));
  for (long first = 0; first < batch; first += count) body(first, std::min(count, batch - first));
}

// Copy the upper triangle of the leading rows of `from` (`ld` apart) to a dense n x n matrix.
template <class S>
void copy_upper_triangle(const S* from, long ld, long n, S* to) {
  for (long i = 0; i < n; ++i) {
    std::fill(to + i * n, to + i * n + i, S(0));
    std::copy(from + i * ld + i, from + i * ld + n, to + i * n + i);
  }
}

// to[j] := from[order[j]]
template <class S>
void gather(const S* from, const int32_t* order, long n, S* to) {
  for (long j = 0; j < n; ++j) to[j] = from[order[j]];
}

// The orders of the columns of a batch by decreasing sums of magnitudes. Those of a matrix whose
// columns are of similar size, or sorted already, stay as they are; false if all do.
// least_squares/decomposition.cc.
template <class S>
bool sort_columns(const S* a, long batch, long m, long n, int32_t* order, Pool& pool);

// One matrix's factors on the side of its n columns.
template <class S>
class RowSpace {
 public:
  // `r`: the triangle, in rows `ld` apart; `hz` is null where the rank is full by assumption.
  RowSpace(const S* r, long ld, long n, long rank, const S* hz, const S* tauz, const int32_t* p)
      : r_(r), ld_(ld), n_(n), rank_(rank), hz_(hz), tauz_(tauz), p_(p) {}

  bool full() const { return rank_ == n_; }

  // c (n x s) := R^{-1} c, or Z T^{-H} c.
  void divide(Pool& pool, S* c, long s) const {
    if (full()) return solve_upper<false>(r_, ld_, n_, c, s);
    solve_upper<true>(hz_, n_, rank_, c, s);
    std::fill(c + rank_ * s, c + n_ * s, S(0));
    apply_z(pool, c, s, false);
  }

  // c (n x s) := R^{-H} c, or T^{-1} Z^H c.
  void divide_adjoint(Pool& pool, S* c, long s) const {
    if (full()) return solve_upper<true>(r_, ld_, n_, c, s);
    apply_z(pool, c, s, true);
    std::fill(c + rank_ * s, c + n_ * s, S(0));
    solve_upper<false>(hz_, n_, rank_, c, s);
  }

  // c (n x s) := c less its projection on the row space.
  void null(Pool& pool, S* c, long s) const {
    if (full()) return std::fill(c, c + n_ * s, S(0));
    apply_z(pool, c, s, true);
    std::fill(c, c + rank_ * s, S(0));
    apply_z(pool, c, s, false);
  }

  // to := P^T from
  void permute(const S* from, long s, S* to) const {
    for (long j = 0; j < n_; ++j) {
      const S* row = from + (p_ ? p_[j] : j) * s;
      std::copy(row, row + s, to + j * s);
    }
  }

  // to := P from
  void permute_back(const S* from, long s, S* to) const {
    for (long j = 0; j < n_; ++j) {
      std::copy(from + j * s, from + (j + 1) * s, to + (p_ ? p_[j] : j) * s);
    }
  }

 private:
  // Reflectors from the rank on are the identity.
  void apply_z(Pool& pool, S* c, long s, bool adjoint) const {
    if (rank_ == 0) return;
    Workspace workspace(Workspace::size<S>(n_ * s));
    S* out = workspace.take<S>(n_ * s);
    ApplyProblem<S> problem{1, n_, n_, n_, s, Order::kRows, true, adjoint};
    problem.h = hz_;
    problem.tau = tauz_;
    problem.c = c;
    problem.out = out;
    jaxqr::apply(problem, pool);
    std::copy(out, out + n_ * s, c);
  }

  const S* r_;
  long ld_, n_, rank_;
  const S *hz_, *tauz_;
  const int32_t* p_;
};

// Q c or Q^H c for a batch.
template <class S>
void multiply_q(long batch, long m, long n, const S* h, const S* tau, long s, bool adjoint,
                const S* c, S* out, Pool& pool) {
  ApplyProblem<S> problem{batch, m, n, m, s, Order::kRows, true, adjoint};
  problem.h = h;
  problem.tau = tau;
  problem.c = c;
  problem.out = out;
  jaxqr::apply(problem, pool);
}

// The triangle of matrix b of a decomposition. Where there is no Z, the rank is full by assumption.
template <class S>
RowSpace<S> row_space(const CodProblem<S>& cod, long b) {
  const CodProblem<S> one = cod.slice(b, 1);
  const S* r = one.h1 ? one.h1 : one.h;
  return {r, cod.n, cod.n, one.hz ? *one.rank : cod.n, one.hz, one.tauz, one.p};
}

// Call body(row space, b) for each matrix b.
template <class S, class Body>
void for_row_spaces(const CodProblem<S>& cod, long s, Pool& pool, const Body& body) {
  for_ranges(pool, cod.batch, cod.n * cod.n / 2 + 4 * cod.n * s, [&](long begin, long end) {
    for (long b = begin; b < end; ++b) body(row_space(cod, b), b);
  });
}

}  // namespace jaxqr
