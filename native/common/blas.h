// BLAS on views of matrices. The routines are SciPy's: their addresses are set once, when the
// library is loaded.
#pragma once

#include "common/matrix_view.h"

namespace jaxqr {

enum class Op : char { kPlain = 'N', kTranspose = 'T', kAdjoint = 'C' };

// C := alpha op(A) op(B) + beta C. All three views must have the same order.
template <class S>
void multiply(S alpha, Op op_a, View<S> a, Op op_b, View<S> b, S beta, View<S> c);

// B := alpha op(T)^-1 B, or B op(T)^-1 if not `left`, for an upper triangular view T.
template <class S>
void solve_triangular(bool left, Op op, View<S> t, View<S> b, S alpha = S(1));

}  // namespace jaxqr
