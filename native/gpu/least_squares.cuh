// The end of least squares: from the triangle of [A b] to x, the residuals and the rank, for at most
// 32 columns of A and of b. A matrix on a team of SIZE lanes of a warp.
//
// A P = Q R with pivots, so R and Q^H b are the leading rows of the triangle and what is below in the
// columns of b is what is left of b. The rank is found as in the package's ``_lstsq/rank.py``; where it
// is not full, the leading rows of R are factored once more, [R11 R12]^H = Z T, and x = P Z T^{-H} c.
//
// data: 0 r (k, n + s), 1 p (n + s), null where columns were not pivoted, 2 x (n, s),
// 3 residuals (s), 4 rank (). sizes: 0 n, 1 s, 2 k, 3 bytes of shared memory for a warp,
// 4 to 6 rcond's bits, the lowest 22 of them first; a negative rcond stands for none.
#pragma once

#include "gpu/arguments.h"
#include "gpu/lanes.cuh"
#include "gpu/triangle_order.cuh"

namespace jaxqr {

JAXQR_FN double read_rcond(const int* parts) {
  union {
    unsigned long long word;
    double number;
  } bits = {static_cast<unsigned long long>(parts[0]) |
            static_cast<unsigned long long>(parts[1]) << 22 |
            static_cast<unsigned long long>(parts[2]) << 44};
  return bits.number;
}

// x 2^exponent, in steps whose factors are in range.
template <class T>
JAXQR_FN T scale_by_power(T x, int exponent) {
  constexpr int kMost = Bits<Real<T>>::kBias - 1;
  for (; exponent > kMost; exponent -= kMost) x = scale_by(x, power_of_two<Real<T>>(kMost));
  for (; exponent < -kMost; exponent += kMost) x = scale_by(x, power_of_two<Real<T>>(-kMost));
  return scale_by(x, power_of_two<Real<T>>(exponent));
}

template <class T, int SIZE>
class LaneLeastSquares {
 public:
  using R = Real<T>;

  // `memory` is that of the warp; it begins with the triangle of [A b] of all teams.
  JAXQR_FN LaneLeastSquares(T* memory, int n, int s, int k)
      : memory_(memory), n_(n), s_(s), k_(k) {}

  // Take the triangle apart: R, Q^H b, and the squares of what is left of b.
  JAXQR_FN void take(const Tiles<T>& joined, int which) {
    T column[SIZE], side[SIZE];
    tail_ = 0;
#pragma unroll
    for (int i = 0; i < SIZE; ++i) {
      column[i] = i <= lane_ && lane_ < n_ ? joined.at(which, i, lane_) : number<T>(0);
      side[i] = i < n_ && lane_ < s_ ? joined.at(which, i, n_ + lane_) : number<T>(0);
    }
    if (lane_ < s_) {
      for (int i = n_; i < k_ && i <= n_ + lane_; ++i) {
        tail_ = add_square(tail_, joined.at(which, i, n_ + lane_));
      }
    }
    __syncwarp();
    R largest = 0;
#pragma unroll
    for (int i = 0; i < SIZE; ++i) {
      if (i < n_ && lane_ < n_) r().at(team_, i, lane_) = column[i];
      largest = larger(largest, magnitude(side[i]));
    }
    side_exponent_ = inverse_exponent(largest);
#pragma unroll
    for (int i = 0; i < SIZE; ++i) {
      if (i < n_ && lane_ < s_) c().at(team_, i, lane_) = scale_by_power(side[i], side_exponent_);
    }
    __syncwarp();
  }

  // Find the rank, and bring the columns into another order where that is needed.
  JAXQR_FN void find_rank(double rcond, int column) {
    column_ = column;
    own_ = rcond < 0;
    TriangleOrder<T, SIZE> order(r(), z(), n_);
    rank_ = own_ ? order.find_own_rank() : order.find_rank(static_cast<R>(rcond));
    if (own_ && order.is_needed()) {
      column_ = order.move(column_);
      LaneQr<T, SIZE, false> again(n_, n_, n_);
      again.take(z(), team_);
      again.take_side(c(), team_, s_);
      again.factor(false, true);
      __syncwarp();
      again.put_r(r(), team_);
      again.put_side(c(), team_, s_);
      __syncwarp();
    }
  }
  JAXQR_FN void assume_full_rank(int column) { column_ = column, rank_ = n_; }

  JAXQR_FN void solve() {
    even_columns();
    if (__any_sync(kWarp, rank_ < n_)) {
      solve_low_rank();
    }
    if (rank_ == n_) solve_full_rank();
    __syncwarp();
  }

  // x, its rows in A's order.
  JAXQR_FN void put_x(const Tiles<T>& to) const {
    for (int i = 0; i < n_; ++i) {
      const int exponent = take_from(exponent_, i, SIZE), row = take_from(column_, i, SIZE);
      const int power = (rank_ == n_ ? exponent : whole_) - side_exponent_;
      if (lane_ < s_) to.at(team_, row, lane_) = scale_by_power(x().at(team_, i, lane_), power);
    }
  }
  JAXQR_FN void put_residual(R* residuals) const {
    if (lane_ < s_) residuals[lane_] = tail_ + scale_by_power(rest_, -2 * side_exponent_);
  }
  JAXQR_FN int rank() const { return rank_; }

 private:
  static constexpr int kTeams = 32 / SIZE;

  // Bring R's columns near one by powers of two.
  JAXQR_FN void even_columns() {
    R largest = 0;
    for (int i = 0; i <= lane_ && lane_ < n_; ++i) {
      largest = larger(largest, magnitude(r().at(team_, i, lane_)));
    }
    exponent_ = inverse_exponent(largest);
    size_ = 0;
    for (int i = 0; i <= lane_ && lane_ < n_; ++i) {
      T& entry = r().at(team_, i, lane_);
      entry = scale_by_power(entry, exponent_);
      size_ += absolute_value(entry);
    }
    // The power that brings the largest column near one.
    whole_ = lane_ < n_ && largest > 0 ? exponent_ : Bits<R>::kBias;
    for (int mask = SIZE / 2; mask > 0; mask /= 2) {
      const int other = take_across_warp(whole_, mask);
      whole_ = other < whole_ ? other : whole_;
    }
    __syncwarp();
  }

  // R x = c, by columns of c.
  JAXQR_FN void solve_full_rank() {
    if (lane_ >= s_) return;
    for (int i = n_ - 1; i >= 0; --i) {
      T sum = c().at(team_, i, lane_);
      for (int j = i + 1; j < n_; ++j) {
        sum = subtract_product(sum, r().at(team_, i, j), x().at(team_, j, lane_));
      }
      x().at(team_, i, lane_) = divide_by_real(sum, real_part(r().at(team_, i, i)));
    }
  }

  // x = Z T^{-H} c of the leading rows, and the squares of what that leaves of c. All teams of the
  // warp come here if one must.
  JAXQR_FN void solve_low_rank() {
    put_leading_rows();
    __syncwarp();
    LaneQr<T, SIZE, false> rows(n_, n_, n_);
    rows.take(z(), team_);
    rows.factor(false, true);
    __syncwarp();
    rows.put_r(t(), team_);
    rows.put_q(z(), team_, n_);
    __syncwarp();
    // From here on R's columns, too, are multiplied by one power.
    for (int i = 0; rank_ < n_ && i <= lane_ && lane_ < n_; ++i) {
      T& entry = r().at(team_, i, lane_);
      entry = scale_by_power(entry, whole_ - exponent_);
    }
    __syncwarp();
    if (rank_ < n_) solve_transposed();
  }

  JAXQR_FN void solve_transposed() {
    if (lane_ >= s_) return;
    for (int i = 0; i < rank_; ++i) {
      T sum = c().at(team_, i, lane_);
      for (int j = 0; j < i; ++j) {
        sum = subtract_product(sum, conjugate(t().at(team_, j, i)), c().at(team_, j, lane_));
      }
      c().at(team_, i, lane_) = divide_by_real(sum, real_part(t().at(team_, i, i)));
    }
    for (int i = 0; i < n_; ++i) {
      T sum = number<T>(0);
      for (int j = 0; j < rank_; ++j) {
        sum = add_product(sum, z().at(team_, i, j), c().at(team_, j, lane_));
      }
      x().at(team_, i, lane_) = sum;
    }
    find_rest();
  }

  // The adjoint of the rows of R that count, in the tile z. Given that columns are judged by their own
  // size, what is small in a column that does not count is taken for rounding in all rows.
  JAXQR_FN void put_leading_rows() {
    for (int i = 0; i < n_; ++i) {
      const int exponent = take_from(exponent_, i, SIZE);
      const R least = kTolerance<R> * take_from(size_, i, SIZE);
      if (lane_ >= n_) continue;
      T entry = number<T>(0);
      if (lane_ <= i && lane_ < rank_) {
        entry = r().at(team_, lane_, i);
        if (own_ && i >= rank_ && absolute_value(entry) <= least) entry = number<T>(0);
        entry = scale_by_power(conjugate(entry), whole_ - exponent);
      }
      z().at(team_, i, lane_) = entry;
    }
  }

  // What the dropped rows of R leave of c: c - R22 x.
  JAXQR_FN void find_rest() {
    rest_ = 0;
    for (int i = rank_; i < n_; ++i) {
      T sum = c().at(team_, i, lane_);
      for (int j = i; j < n_; ++j) {
        sum = subtract_product(sum, r().at(team_, i, j), x().at(team_, j, lane_));
      }
      rest_ = add_square(rest_, sum);
    }
  }

  // R; Z or what is to be factored; T; Q^H b; x. The first three are n x n.
  JAXQR_FN Tiles<T> square(int number) const {
    return {memory_ + number * kTeams * tile_entries(n_, n_), n_, n_, false};
  }
  JAXQR_FN Tiles<T> r() const { return square(0); }
  JAXQR_FN Tiles<T> z() const { return square(1); }
  JAXQR_FN Tiles<T> t() const { return square(2); }
  JAXQR_FN Tiles<T> c() const {
    return {memory_ + 3 * kTeams * tile_entries(n_, n_), n_, s_, false};
  }
  JAXQR_FN Tiles<T> x() const {
    return {memory_ + kTeams * (3 * tile_entries(n_, n_) + tile_entries(n_, s_)), n_, s_, false};
  }

  T* const memory_;
  const int lane_ = threadIdx.x % SIZE, team_ = threadIdx.x % 32 / SIZE;
  const int n_, s_, k_;
  R tail_ = 0, rest_ = 0, size_ = 0;
  int side_exponent_ = 0, exponent_ = 0, whole_ = 0;
  int column_ = 0;  // of A, which has the lane's place
  int rank_ = 0;
  bool own_ = true;
};

template <class T, int SIZE>
JAXQR_FN void least_squares(const Arguments& arguments) {
  using R = Real<T>;
  constexpr int kTeams = 32 / SIZE;
  const int n = arguments.sizes[0], s = arguments.sizes[1], k = arguments.sizes[2];
  const long long first =
      (static_cast<long long>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32) * kTeams;
  if (first >= arguments.batch) return;
  const long long left = arguments.batch - first;
  const int count = left < kTeams ? static_cast<int>(left) : kTeams;
  const int lane = threadIdx.x % SIZE, team = threadIdx.x % 32 / SIZE;
  const bool live = team < count;
  const long long matrix = first + (live ? team : count - 1);
  T* const memory = warp_memory<T>(arguments.sizes[3]);

  const Tiles<T> joined(memory, k, n + s, false);
  joined.load(static_cast<const T*>(arguments.data[0]) + first * k * (n + s), count);
  __syncwarp();
  LaneLeastSquares<T, SIZE> problem(memory, n, s, k);
  problem.take(joined, live ? team : count - 1);
  if (const int* const p = static_cast<const int*>(arguments.data[1])) {
    const int column = lane < n ? p[matrix * (n + s) + lane] : lane;
    problem.find_rank(read_rcond(arguments.sizes + 4), column);
  } else {
    problem.assume_full_rank(lane);
  }
  problem.solve();

  const Tiles<T> x(memory, n, s, false);  // over R, which has served
  problem.put_x(x);
  __syncwarp();
  x.store(static_cast<T*>(arguments.data[2]) + first * n * s, count);
  if (!live) return;
  problem.put_residual(static_cast<R*>(arguments.data[3]) + matrix * s);
  if (lane == 0) static_cast<int*>(arguments.data[4])[matrix] = problem.rank();
}

}  // namespace jaxqr
