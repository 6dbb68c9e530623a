// Products of small matrices in shared memory: the parts of them that a thread has in registers, so
// that what it reads serves more than one product.
#pragma once

#include "gpu/team.cuh"

namespace jaxqr {

template <bool CONJUGATE, class T>
JAXQR_FN T conjugate_if(T x) {
  if constexpr (CONJUGATE) {
    return conjugate(x);
  } else {
    return x;
  }
}

// The group `group` of row i of X Y, of the first `inner` groups of columns of X; of conj(X) Y if
// CONJUGATE.
template <bool CONJUGATE = false, class T, int MOST>
JAXQR_FN Four<T> multiply_row(const Tile<T, MOST>& x, int i, const Tile<T, MOST>& y, int group,
                              int inner) {
  Four<T> sum = four_zeros<T>();
#pragma unroll(kIsComplex<T> ? 1 : 2)
  for (int l = 0; l < inner; ++l) {
    const Four<T> own = x.get(i, l);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const T factor = conjugate_if<CONJUGATE>(own[c]);
      const Four<T> row = y.get(4 * l + c, group);
#pragma unroll
      for (int d = 0; d < 4; ++d) sum[d] = add_product(sum[d], factor, row[d]);
    }
  }
  return sum;
}

// The group `group` of row i of X Y^T, of the groups of their columns from `first` on.
template <class T, int MOST>
JAXQR_FN Four<T> multiply_row_transposed(const Tile<T, MOST>& x, int i, const Tile<T, MOST>& y,
                                         int group, int first) {
  Four<T> sum = four_zeros<T>();
#pragma unroll(kIsComplex<T> ? 1 : 2)
  for (int l = first; l < x.groups(); ++l) {
    const Four<T> own = x.get(i, l);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const Four<T> row = y.get(4 * group + c, l);
#pragma unroll
      for (int d = 0; d < 4; ++d) sum[c] = add_product(sum[c], own[d], row[d]);
    }
  }
  return sum;
}

// S := S + X^T Y, or S + X^H Y if CONJUGATE, of matrices with `rows` rows. A thread has four rows and
// columns of S; where threads are left, they have different rows of X and Y. The team synchronizes
// at the end.
template <bool CONJUGATE, class T, int MOST>
class InnerProducts {
 public:
  using Matrix = Tile<T, MOST>;

  JAXQR_FN InnerProducts(const Team<MOST>& team, const Matrix& x, const Matrix& y)
      : team_(team), x_(x), y_(y), down_((x.cols() + kHeight - 1) / kHeight) {
    down_bits_ = team.count_bits(down_);
    bits_ = team.count_bits(y.groups() << down_bits_);
  }

  JAXQR_FN void add_to(const Matrix& s, int rows) const {
    const int blocks = y_.groups() << down_bits_;
    for (int first = 0; first < blocks; first += 1 << bits_) {
      const int block = first + (team_.rank() & ((1 << bits_) - 1));
      const int i = kHeight * (block & ((1 << down_bits_) - 1)), group = block >> down_bits_;
      const bool inside = i < x_.cols() && group < y_.groups();
      Four<T> sum[kHeight];
#pragma unroll
      for (int c = 0; c < kHeight; ++c) sum[c] = four_zeros<T>();
      if (inside) add_rows(i, group, rows, sum);
      add_up(sum);
      put(s, i, group, inside, sum);
    }
  }

 private:
  static constexpr int kHeight = MOST == 4 ? 1 : 4;

  JAXQR_FN void add_rows(int i, int group, int rows, Four<T> (&sum)[kHeight]) const {
#pragma unroll(kIsComplex<T> ? 1 : 2)
    for (int l = team_.rank() >> bits_; l < rows; l += team_.size() >> bits_) {
      const Four<T> y = y_.get(l, group);
      Four<T> x;
      if constexpr (kHeight == 1) {
        x[0] = x_.at(l, i);
      } else {
        x = x_.get(l, i / 4);
      }
#pragma unroll
      for (int c = 0; c < kHeight; ++c) {
#pragma unroll
        for (int d = 0; d < 4; ++d) {
          sum[c][d] = CONJUGATE ? add_conjugate_product(sum[c][d], x[c], y[d])
                                : add_product(sum[c][d], x[c], y[d]);
        }
      }
    }
  }

  // Within a warp, so that all of its threads with the same block have the sum.
  JAXQR_FN void add_up(Four<T> (&sum)[kHeight]) const {
    const int end = team_.size() < 32 ? team_.size() : 32;
    for (int mask = 1 << bits_; mask < end; mask *= 2) {
#pragma unroll
      for (int c = 0; c < kHeight; ++c) {
#pragma unroll
        for (int d = 0; d < 4; ++d) sum[c][d] = sum[c][d] + take_across(sum[c][d], mask);
      }
    }
  }

  // Warps with the same blocks take turns.
  JAXQR_FN void put(const Matrix& s, int i, int group, bool inside,
                    const Four<T> (&sum)[kHeight]) const {
    const int bits = bits_ > 5 ? bits_ : 5, turns = ((team_.size() - 1) >> bits) + 1;
    const bool has_sum = inside && (team_.rank() & ((1 << bits) - 1)) >> bits_ == 0;
    for (int turn = 0; turn < turns; ++turn) {
      if (has_sum && team_.rank() >> bits == turn) {
#pragma unroll
        for (int c = 0; c < kHeight; ++c) {
          if (i + c >= x_.cols()) break;
          Four<T> total = s.get(i + c, group);
#pragma unroll
          for (int d = 0; d < 4; ++d) total[d] = total[d] + sum[c][d];
          s.put(i + c, group, total);
        }
      }
      team_.synchronize();
    }
  }

  Team<MOST> team_;
  Matrix x_, y_;
  int down_, down_bits_, bits_;
};

}  // namespace jaxqr
