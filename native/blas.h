// Views of matrices, and the BLAS routines on them. The routines are SciPy's: their
// addresses are set once, when the library is loaded.
#pragma once

#include <complex>

#include "kernels.h"

namespace jaxqr {

// A matrix inside another: entry (i, j) is data[i * ld + j] by rows, data[i + j * ld] by columns.
template <class S>
struct View {
  S* data;
  long rows, cols, ld;
  Order order;

  S& operator()(long i, long j) const {
    return order == Order::kRows ? data[i * ld + j] : data[i + j * ld];
  }
  View block(long i, long j, long block_rows, long block_cols) const {
    return {&(*this)(i, j), block_rows, block_cols, ld, order};
  }
};

template <class S>
View<S> dense(S* data, long rows, long cols, Order order) {
  return {data, rows, cols, order == Order::kRows ? cols : rows, order};
}

// An operand: no routine writes to it.
template <class S>
View<S> dense(const S* data, long rows, long cols, Order order) {
  return dense(const_cast<S*>(data), rows, cols, order);
}

enum class Op : char { kPlain = 'N', kTranspose = 'T', kAdjoint = 'C' };

// C := alpha op(A) op(B) + beta C. All three views must have the same order.
template <class S>
void multiply(S alpha, Op op_a, View<S> a, Op op_b, View<S> b, S beta, View<S> c);

// B := alpha op(T)^-1 B, or B op(T)^-1 if not `left`, for an upper triangular view T.
template <class S>
void solve_triangular(bool left, Op op, View<S> t, View<S> b, S alpha = S(1));

}  // namespace jaxqr
