// One step of pivoting a large matrix in blocks, as LAPACK's laqps, in two kernels: `pivot_column`
// chooses the pivot and makes its reflector, one block for a matrix, and `pivot_row` computes the new
// row of R and brings the norms up to date, a warp for a column.
//
// The matrix lies by columns. Of what is left of it after some columns only the pivot's column and row
// are computed: V F is yet to be subtracted, and the columns stay where they are. Where a norm loses
// its digits to the row that is taken off it, it is computed anew from what is left of its column, so
// a block never ends early and the host never waits.
//
// data: 0 at (n, m), 1 v (w, m), 2 f (n, w), 3 r (n, w), 4 norm (n), 5 exact (n), 6 place (n),
// 7 tau (w), 8 counter (2): the block's first row and how many of its steps are done, 9 pivot (1),
// 10 products (w) of the new reflector with the others of the block. All but `at` are brought up to
// date in place; a norm of -1 is that of a column that is done. sizes: 0 m, 1 n, 2 w, 3 chunks: blocks
// for a matrix.
#pragma once

#include "gpu/arguments.h"
#include "gpu/block_sums.cuh"
#include "gpu/reflector.cuh"
#include "gpu/tiles.cuh"

namespace jaxqr {

// The operands of one matrix.
template <class T>
struct PivotStep {
  using R = Real<T>;

  JAXQR_FN PivotStep(const Arguments& arguments, long long which)
      : m(arguments.sizes[0]), n(arguments.sizes[1]), w(arguments.sizes[2]) {
    const auto data = [&](int slot, long long entries) {
      return static_cast<T*>(arguments.data[slot]) + which * entries;
    };
    at = data(0, static_cast<long long>(n) * m);
    v = data(1, static_cast<long long>(w) * m);
    f = data(2, static_cast<long long>(n) * w);
    r = data(3, static_cast<long long>(n) * w);
    norm = static_cast<R*>(arguments.data[4]) + which * n;
    exact = static_cast<R*>(arguments.data[5]) + which * n;
    place = static_cast<int*>(arguments.data[6]) + which * n;
    tau = data(7, w);
    counter = static_cast<int*>(arguments.data[8]) + which * 2;
    pivot = static_cast<int*>(arguments.data[9]) + which;
    products = data(10, w);
  }

  // Entry `row` of what is left of column c after `steps` reflectors.
  JAXQR_FN T left_of(int c, int row, int steps) const {
    T x = at[static_cast<long long>(c) * m + row];
    for (int l = 0; l < steps; ++l) {
      x = subtract_product(x, f[static_cast<long long>(c) * w + l],
                           v[static_cast<long long>(l) * m + row]);
    }
    return x;
  }

  int m, n, w;
  T *at, *v, *f, *r, *tau, *products;
  R *norm, *exact;
  int *place, *counter, *pivot;
};

// ------------------------------------------------------------------- the pivot and its reflector

// The column with the largest norm, the first of them as the columns now stand. NaN counts as zero.
template <class T>
JAXQR_FN int choose_pivot(const PivotStep<T>& step, void* memory) {
  using R = Real<T>;
  R largest = -1;
  int column = 0, place = 0x7fffffff;
  for (int c = threadIdx.x; c < step.n; c += blockDim.x) {
    const R norm = step.norm[c] == step.norm[c] ? step.norm[c] : R(0);
    const int here = step.place[c];
    if (norm > largest || (norm == largest && here < place)) {
      largest = norm, column = c, place = here;
    }
  }
  return find_first_largest(largest, place, column, memory);
}

template <class T>
JAXQR_FN void pivot_column(const Arguments& arguments) {
  using R = Real<T>;
  const PivotStep<T> step(arguments, blockIdx.x);
  void* const memory = warp_memory<T>(0);
  const int first = step.counter[0], i = step.counter[1], j = first + i;
  const int pivot = choose_pivot(step, memory), place = step.place[pivot];
  T* const v = step.v + static_cast<long long>(i) * step.m;

  // What is left of the column, and a power of two that brings it near one.
  R largest = 0;
  for (int row = threadIdx.x; row < step.m; row += blockDim.x) {
    const T x = row < j ? number<T>(0) : step.left_of(pivot, row, i);
    v[row] = x;
    largest = larger(largest, magnitude(x));
  }
  const int exponent = inverse_exponent(find_largest(largest, memory));
  const R scale = power_of_two<R>(exponent);
  R below = 0, rest = 0;
  for (int row = threadIdx.x; row < step.m; row += blockDim.x) {
    if (row <= j) continue;
    below = add_square(below, scale_by(v[row], scale));
    rest = larger(rest, magnitude(v[row]));
  }
  below = add_up(below, memory);
  rest = find_largest(rest, memory);
  const T alpha = scale_by(v[j], scale);
  const bool trivial = below == 0 && rest == 0 && imaginary_part(alpha) == 0;
  const Reflector<T> h = make_reflector(alpha, below, trivial);
  __syncthreads();  // all have read alpha
  for (int row = threadIdx.x; row < step.m; row += blockDim.x) {
    if (row > j) v[row] = scale_by(v[row], scale) * h.scale;
    if (row == j) v[row] = number<T>(1);
  }
  __syncthreads();
  for (int l = threadIdx.x / 32; l < i; l += blockDim.x / 32) {
    T product = number<T>(0);
    const T* const other = step.v + static_cast<long long>(l) * step.m;
    for (int row = threadIdx.x % 32; row < step.m; row += 32) {
      product = add_conjugate_product(product, v[row], other[row]);
    }
    product = add_up_warp(product);
    if (threadIdx.x % 32 == 0) step.products[l] = product;
  }
  // The column that stands at j goes to the pivot's place.
  for (int c = threadIdx.x; c < step.n; c += blockDim.x) {
    if (c == pivot) {
      step.place[c] = j;
    } else if (step.place[c] == j) {
      step.place[c] = place;
    }
  }
  if (threadIdx.x) return;
  *step.pivot = pivot;
  step.tau[i] = h.tau;
  step.r[static_cast<long long>(pivot) * step.w + i] =
      number<T>(h.beta * power_of_two<R>(-exponent));
  step.counter[1] = i + 1;
}

// ------------------------------------------------------------------- the row of R and the norms

// The norm of what is left of a column below row j, safe from overflow and underflow. By a warp.
template <class T>
JAXQR_FN Real<T> measure_left(const PivotStep<T>& step, int c, int j, int steps) {
  using R = Real<T>;
  R largest = 0;
  for (int row = j + 1 + threadIdx.x % 32; row < step.m; row += 32) {
    largest = larger(largest, magnitude(step.left_of(c, row, steps)));
  }
  largest = find_largest_of_warp(largest);
  if (!(largest > 0)) return largest;
  const int exponent = inverse_exponent(largest);
  R sum = 0;
  for (int row = j + 1 + threadIdx.x % 32; row < step.m; row += 32) {
    sum = add_square(sum, scale_by(step.left_of(c, row, steps), power_of_two<R>(exponent)));
  }
  return square_root(add_up_warp(sum)) * power_of_two<R>(-exponent);
}

// Take an entry of R off the norm of its column. Less than the square root of the rounding unit left of
// the square that was last computed is none of its digits (LAPACK working note 176).
template <class T>
JAXQR_FN void update_norm(const PivotStep<T>& step, int c, int j, int steps, T entry) {
  using R = Real<T>;
  const R norm = step.norm[c], exact = step.exact[c];
  if (norm == 0) return;
  const R ratio = absolute_value(divide_by_real(entry, norm)), kept = norm / exact;
  const R left = larger(R(0), 1 - ratio * ratio);
  R updated = norm * square_root(left), reference = exact;
  if (left * kept * kept <= square_root(kEpsilon<R> / 2)) {
    updated = reference = measure_left(step, c, j, steps);
  }
  __syncwarp();  // all have read the norms
  if (threadIdx.x % 32 == 0) step.norm[c] = updated, step.exact[c] = reference;
}

template <class T>
JAXQR_FN void pivot_row(const Arguments& arguments) {
  const int chunks = arguments.sizes[3], lane = threadIdx.x % 32;
  const PivotStep<T> step(arguments, blockIdx.x / chunks);
  const int c = blockIdx.x % chunks * (blockDim.x / 32) + threadIdx.x / 32;
  if (c >= step.n || step.norm[c] == -1) return;
  const int i = step.counter[1] - 1, j = step.counter[0] + i;
  if (c == *step.pivot) {
    __syncwarp();
    if (lane == 0) step.norm[c] = -1;
    return;
  }
  const T* const column = step.at + static_cast<long long>(c) * step.m;
  const T* const v = step.v + static_cast<long long>(i) * step.m;
  T* const f = step.f + static_cast<long long>(c) * step.w;
  T product = number<T>(0), known = number<T>(0);
  for (int row = j + lane; row < step.m; row += 32) {
    product = add_conjugate_product(product, v[row], column[row]);
  }
  for (int l = lane; l < i; l += 32) {
    product = subtract_product(product, f[l], step.products[l]);
    known = add_product(known, f[l], step.v[static_cast<long long>(l) * step.m + j]);
  }
  const T new_f = conjugate(step.tau[i]) * add_up_warp(product);
  const T entry = column[j] - add_up_warp(known) - new_f;
  if (lane == 0) {
    f[i] = new_f;
    step.r[static_cast<long long>(c) * step.w + i] = entry;
  }
  __syncwarp();
  update_norm(step, c, j, i + 1, entry);
}

}  // namespace jaxqr
