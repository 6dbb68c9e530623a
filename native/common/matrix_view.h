// Views of matrices in memory, by rows or by columns.
#pragma once

#include <algorithm>

#include "common/problems.h"

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

// The rows or the columns of a matrix, as they lie in memory.
template <class S>
long line_count(View<S> a) {
  return a.order == Order::kRows ? a.rows : a.cols;
}
template <class S>
long line_length(View<S> a) {
  return a.order == Order::kRows ? a.cols : a.rows;
}
template <class S>
S* line(View<S> a, long i) {
  return a.data + i * a.ld;
}

template <class S>
void fill_zero(View<S> a) {
  for (long i = 0; i < line_count(a); ++i) std::fill_n(line(a, i), line_length(a), S(0));
}

}  // namespace jaxqr
