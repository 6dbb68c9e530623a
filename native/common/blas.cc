// BLAS through the addresses that SciPy exports.
#include "common/blas.h"

#include <algorithm>

namespace jaxqr {
namespace {

template <class S>
struct Routines {
  void (*gemm)(const char*, const char*, const int*, const int*, const int*, const S*, const S*,
               const int*, const S*, const int*, const S*, S*, const int*);
  void (*trsm)(const char*, const char*, const char*, const char*, const int*, const int*, const S*,
               const S*, const int*, S*, const int*);
};

template <class S>
Routines<S> routines;

template <class S>
void set(void* const* addresses) {
  Routines<S>& to = routines<S>;
  to.gemm = reinterpret_cast<decltype(to.gemm)>(addresses[0]);
  to.trsm = reinterpret_cast<decltype(to.trsm)>(addresses[1]);
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
  routines<S>.gemm(&first, &second, &rows, &cols, &inner, &alpha, a.data, &lda, b.data, &ldb, &beta,
                   c.data, &ldc);
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

#define INSTANTIATE(S, NAME)                                          \
  template void multiply<S>(S, Op, View<S>, Op, View<S>, S, View<S>); \
  template void solve_triangular<S>(bool, Op, View<S>, View<S>, S);
JAXQR_FOR_SCALARS(INSTANTIATE)

}  // namespace jaxqr

// Addresses of gemm and trsm for each of the scalar types.
extern "C" __attribute__((visibility("default"))) void jaxqr_set_routines(void* const* addresses) {
#define SET(S, NAME)        \
  jaxqr::set<S>(addresses); \
  addresses += 2;
  JAXQR_FOR_SCALARS(SET)
}
