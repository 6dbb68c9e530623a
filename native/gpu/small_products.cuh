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

template <int ROWS, class T, class Use>
JAXQR_FN void use_rows(const int (&i)[ROWS], int g, const Four<T> (&sum)[ROWS], const Use& use) {
  use(sum[0], i[0], g);
#pragma unroll
  for (int r = 1; r < ROWS; ++r) {
    if (i[r] != i[0]) use(sum[r], i[r], g);
  }
}

// What is known of Y in X Y.
enum class Kind { kAny, kUpper };

// Call use(product, i, g) with the groups of all rows of X Y, or of conj(X) Y if CONJUGATE. A
// thread works on several rows, so that what it reads of Y serves all of them.
template <bool CONJUGATE, Kind KIND, class T, int MOST, class Use>
JAXQR_FN void for_products(const Team<MOST>& team, const Tile<T, MOST>& x, int rows,
                           const Tile<T, MOST>& y, const Use& use) {
  constexpr int kRows = Team<MOST>::kRows;
  team.for_row_blocks(rows, y.groups(), [&](const int (&i)[kRows], int g) {
    Four<T> sum[kRows] = {};
    const int end = KIND == Kind::kUpper && g < x.groups() ? g + 1 : x.groups();
    int place = y.place(0, 4 * g);
#pragma unroll 1
    for (int l = 0; l < end; ++l) {
      Four<T> own[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) own[r] = x.get(i[r], l);
#pragma unroll
      for (int c = 0; c < 4; ++c, place += y.lead()) {
        const Four<T> row = y.get_at(place);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const T factor = conjugate_if<CONJUGATE>(own[r][c]);
#pragma unroll
          for (int d = 0; d < 4; ++d) sum[r][d] = add_product(sum[r][d], factor, row[d]);
        }
      }
    }
    use_rows(i, g, sum, use);
  });
}

// The same of X Y^T, of X and Y with as many columns, of which those of the groups from g on count
// in group g.
template <class T, int MOST, class Use>
JAXQR_FN void for_transposed_products(const Team<MOST>& team, const Tile<T, MOST>& x, int rows,
                                      const Tile<T, MOST>& y, int groups, const Use& use) {
  constexpr int kRows = Team<MOST>::kRows;
  team.for_row_blocks(rows, groups, [&](const int (&i)[kRows], int g) {
    Four<T> sum[kRows] = {};
#pragma unroll 1
    for (int l = g; l < x.groups(); ++l) {
      Four<T> own[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) own[r] = x.get(i[r], l);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const Four<T> row = y.get(4 * g + c, l);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
#pragma unroll
          for (int d = 0; d < 4; ++d) sum[r][c] = add_product(sum[r][c], own[r][d], row[d]);
        }
      }
    }
    use_rows(i, g, sum, use);
  });
}

// S := S + X^T Y, or S + X^H Y if CONJUGATE, of matrices with `rows` rows. A thread has four rows
// and columns of S; where threads are left, they have different rows of X and Y. The team
// synchronizes at the end.
template <bool CONJUGATE, class T, int MOST>
class InnerProducts {
 public:
  using Matrix = Tile<T, MOST>;

  JAXQR_FN InnerProducts(const Team<MOST>& team, const Matrix& x, const Matrix& y)
      : team_(team), x_(x), y_(y), down_((renew(x.cols()) + kHeight - 1) / kHeight) {
    down_bits_ = MOST == 4 ? 2 : team.count_bits(down_);
    bits_ = MOST == 4 ? 2 : team.count_bits(y.groups() << down_bits_);
  }

  JAXQR_FN void add_to(const Matrix& s, int rows) const {
    const int blocks = y_.groups() << down_bits_;
    for (int first = 0; first < blocks; first += 1 << bits_) {
      const int block = first + (team_.rank() & ((1 << bits_) - 1));
      const int i = kHeight * (block & ((1 << down_bits_) - 1)), group = block >> down_bits_;
      const bool inside = i < x_.cols() && group < y_.groups();
      Four<T> sum[kHeight];
#pragma unroll
      for (int c = 0; c < kHeight; ++c) sum[c] = Four<T>{};
      if (inside) add_rows(i, group, rows, sum);
      add_up(sum);
      put(s, i, group, inside, sum);
    }
  }

 private:
  static constexpr int kHeight = MOST == 4 ? 1 : 4;

  JAXQR_FN void add_rows(int i, int group, int rows, Four<T> (&sum)[kHeight]) const {
    const int first = team_.rank() >> bits_, step = team_.size() >> bits_;
    int x_place = x_.place(first, i), y_place = y_.place(first, 4 * group);
#pragma unroll(sizeof(T) == 4 ? 2 : 1)
    for (int l = first; l < rows; l += step) {
      const Four<T> y = y_.get_at(y_place);
      Four<T> x;
      if constexpr (kHeight == 1) {
        x[0] = x_.at(l, i);
      } else {
        x = x_.get_at(x_place);
      }
      x_place += step * x_.lead(), y_place += step * y_.lead();
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
