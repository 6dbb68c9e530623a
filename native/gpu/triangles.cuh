// The triangle R in shared memory at which a derivative is taken: (8.3), (8.5) and (8.8) of
// notebooks/derivations.md, and solves with it.
#pragma once

#include "gpu/small_products.cuh"

namespace jaxqr {

// At least |x|, and |x| where x is real.
template <class R>
JAXQR_FN R absolute_bound(R x) {
  return magnitude(x);
}
template <class R>
JAXQR_FN R absolute_bound(Complex<R> x) {
  return magnitude(x.re) + magnitude(x.im);
}

// |x|, by no squares that could leave the range; NaN if a part is.
template <class R>
JAXQR_FN R modulus(R x) {
  return magnitude(x);
}
template <class R>
JAXQR_FN R modulus(Complex<R> x) {
  const R a = magnitude(x.re), b = magnitude(x.im);
  const R large = a > b ? a : b, small = a > b ? b : a, ratio = small / large;
  return large == 0 ? small : large * square_root(1 + ratio * ratio);
}

// What a team knows of its R, in shared memory.
template <class R>
struct alignas(16) Point {
  R scale, inverse;  // the power of two by which R is multiplied (8.8)
  unsigned counts;   // bit j: whether column j counts (8.3)

  JAXQR_FN bool has(int column) const { return counts >> column & 1; }
};

// R with its scale and the columns that count. The columns on its diagonal are as many as its rows.
template <class T, int MOST>
class Triangle {
 public:
  using R = Real<T>;
  using Matrix = Tile<T, MOST>;

  // `memory` is for the point and behind it the reciprocals of the diagonal.
  JAXQR_FN Triangle(const Team<MOST>& team, const Matrix& r, int rows, void* memory)
      : team_(team), r_(r), rows_(rows), point_(static_cast<Point<R>*>(memory)),
        reciprocals_(reinterpret_cast<R*>(point_ + 1)) {}

  // Multiply R, of which a thread has a column, by the scale that brings its largest and its
  // smallest column to the two sides of 1, and judge the columns. The team synchronizes at the end.
  JAXQR_FN void find_point(bool pivoted) const {
    if (team_.rank() < 32) {
      const int width = team_.size() < 32 ? team_.size() : 32, column = team_.rank();
      const int exponent = find_exponent(column, width);
      const R scale = power_of_two<R>(exponent);
      const bool counted = scale_column(column, scale);
      unsigned counts = __ballot_sync(kWarp, counted) >> (threadIdx.x % 32 & ~(width - 1));
      if (rows_ < 32) counts &= (1u << rows_) - 1;
      // the leading run: what is below the first zero
      if (pivoted) counts &= (~counts & -~counts) - 1;
      const bool has = counts >> column & 1;
      if (column < (rows_ + 3) / 4 * 4) {
        reciprocals_[column] = has ? 1 / real_part(r_.at(column, column)) : R(column < rows_);
      }
      if (column == 0) *point_ = {scale, power_of_two<R>(-exponent), counts};
    }
    team_.synchronize();
  }

  JAXQR_FN const Matrix& r() const { return r_; }
  JAXQR_FN int rows() const { return rows_; }
  JAXQR_FN int groups() const { return MOST == 4 ? 1 : (rows_ + 3) / 4; }
  JAXQR_FN Point<R>* point() const { return point_; }

  // Make R_m of R, but for its diagonal, which is in the reciprocals: rows that do not count become
  // zero.
  JAXQR_FN void restrict_rows() const {
    if (all_count()) return;
    const unsigned counts = point_->counts;
    team_.for_groups(rows_, r_.groups(), [&](int i, int g) {
      if (!(counts >> i & 1)) r_.put(i, g, Four<T>{});
    });
  }
  JAXQR_FN bool all_count() const { return point_->counts == 0xffffffffu >> (32 - rows_); }

  // X with X R_m = B, one row on a thread, of R_m in place of R. X may be B.
  JAXQR_FN void solve_right(const Matrix& b, const Matrix& x, int rows) const {
    team_.for_rows(rows, [&](int i) {
      for (int g = 0; g < groups(); ++g) x.put(i, g, solve_group(b.get(i, g), x, i, g));
    });
  }

  // X := X R_m^-T, one row on a thread.
  JAXQR_FN void solve_right_transposed(const Matrix& x, int rows) const {
    const unsigned counts = point_->counts;
    team_.for_rows(rows, [&](int i) {
      for (int g = groups() - 1; g >= 0; --g) {
        x.put(i, g, solve_group_transposed(x, i, g, counts));
      }
    });
  }

 private:
  JAXQR_FN int find_exponent(int column, int width) const {
    constexpr int kNone = 1 << 20;
    R largest = 0;
    if (column < r_.cols()) {
#pragma unroll 4
      for (int i = 0; i < rows_; ++i) largest = larger(largest, magnitude(r_.at(i, column)));
    }
    const int own = inverse_exponent(largest);
    int least = largest > 0 ? own : kNone, most = largest > 0 ? own : -kNone;
    for (int mask = 1; mask < width; mask *= 2) {
      const int other = take_across(least, mask), another = take_across(most, mask);
      least = other < least ? other : least;
      most = another > most ? another : most;
    }
    return least > most ? 0 : (least + most) / 2;
  }

  // Whether the column counts. The weight keeps the sum from overflow; it is well if the diagonal
  // overflows. Not a number counts.
  JAXQR_FN bool scale_column(int column, R scale) const {
    constexpr R kWeight = R(1) / 65536;
    if (column >= r_.cols()) return false;
    R sum = 0, diagonal = 0;
#pragma unroll 2
    for (int i = 0; i < rows_; ++i) {
      T& entry = r_.at(i, column);
      entry = scale_by(entry, scale);
      const R size = absolute_bound(entry);
      sum += kWeight * size;
      if (i == column) diagonal = size;
    }
    const R least = diagonal * (kWeight / kTolerance<R>);
    if (!kIsComplex<T> || !(least <= sum)) return !(least <= sum);
    sum = 0;
#pragma unroll 1
    for (int i = 0; i < rows_; ++i) sum += kWeight * modulus(r_.at(i, column));
    return !(least <= sum);
  }

  JAXQR_FN Four<T> solve_group(Four<T> b, const Matrix& x, int i, int g) const {
#pragma unroll(sizeof(T) == 4 ? 2 : 1)
    for (int l = 0; l < g; ++l) {
      const Four<T> own = x.get(i, l);
#pragma unroll
      for (int c = 0; c < 4; ++c) eliminate(b, own[c], 0, 4 * l + c, g);
    }
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      b[c] = scale_by(b[c], reciprocals_[4 * g + c]);
      eliminate(b, b[c], c + 1, 4 * g + c, g);
    }
    return b;
  }

  // Take x times row `row` of R_m, of group g from column `first` on, from b.
  JAXQR_FN void eliminate(Four<T>& b, T x, int first, int row, int g) const {
    const Four<T> entries = r_.get(row, g);
#pragma unroll
    for (int d = first; d < 4; ++d) b[d] = subtract_product(b[d], x, entries[d]);
  }

  JAXQR_FN Four<T> solve_group_transposed(const Matrix& x, int i, int g, unsigned counts) const {
    Four<T> b = x.get(i, g), known = {};
    for (int l = g + 1; l < groups(); ++l) {
      const Four<T> own = x.get(i, l);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const Four<T> entries = r_.get(4 * g + c, l);
#pragma unroll
        for (int d = 0; d < 4; ++d) known[c] = add_product(known[c], own[d], entries[d]);
      }
    }
#pragma unroll
    for (int c = 3; c >= 0; --c) {
      const Four<T> entries = r_.get(4 * g + c, g);
#pragma unroll
      for (int d = c + 1; d < 4; ++d) known[c] = add_product(known[c], b[d], entries[d]);
      const T solution = scale_by(b[c] - known[c], reciprocals_[4 * g + c]);
      if (counts >> (4 * g + c) & 1) b[c] = solution;
    }
    return b;
  }

  Team<MOST> team_;
  Matrix r_;
  int rows_;
  Point<R>* point_;
  R* reciprocals_;
};

}  // namespace jaxqr
