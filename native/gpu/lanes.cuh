// QR of matrices of at most 32 rows and columns, plain or pivoted: a matrix on a team of SIZE lanes of
// a warp, with one column of A and one of Q^H on a lane, in registers.
//
// The reflectors turn [A | I] into [R | Q^H]. In every step the entries of a column move up by one
// and the one that is done goes to the end, so that all registers have constant indices: entry i is
// that of row (i + j) mod SIZE after j steps.
//
// data: 0 a (m, n), 1 q (m, k), 2 q_full (m, m), 3 r (k, n), 4 h (m, n), 5 tau (k), 6 p (n).
// sizes: 0 m, 1 n, 2 transposed, 3 bytes of shared memory for a warp, 4 how many of the columns, the
// leading ones, are pivoted.
#pragma once

#include "gpu/arguments.h"
#include "gpu/column_size.cuh"
#include "gpu/reflector.cuh"
#include "gpu/tiles.cuh"

namespace jaxqr {

// A column's entries, by lanes.
template <class T, int SIZE>
struct LaneColumn {
  T entry[SIZE];

  // Apply H^H, of the reflector with the vector v (v[0] = 1), and move all entries up by one.
  JAXQR_FN void reflect(const T (&v)[SIZE], T tau_adjoint) {
    T product = entry[0];
#pragma unroll
    for (int i = 1; i < SIZE; ++i) product = add_conjugate_product(product, v[i], entry[i]);
    product = product * tau_adjoint;
    const T top = entry[0] - product;
#pragma unroll
    for (int i = 1; i < SIZE; ++i) entry[i - 1] = subtract_product(entry[i], v[i], product);
    entry[SIZE - 1] = top;
  }
};

template <class T, int SIZE, bool PIVOTED>
class LaneQr {
 public:
  using R = Real<T>;

  // Of m rows and n columns, the leading `free` of which are exchanged when they are pivoted.
  JAXQR_FN LaneQr(int m, int n, int free) : m_(m), n_(n), k_(m < n ? m : n), free_(free) {}

  // Take the matrix `which` of the tiles, its columns each multiplied by a power of two that brings
  // the largest entry near one, or by NaN if an entry of the matrix is not finite.
  JAXQR_FN void take(const Tiles<T>& tiles, int which) {
    R largest = 0, zero = 0;
#pragma unroll
    for (int i = 0; i < SIZE; ++i) {
      const bool inside = i < m_ && lane_ < n_;
      a_.entry[i] = inside ? tiles.at(which, i, lane_) : number<T>(0);
      side_.entry[i] = number<T>(i == lane_);
      largest = larger(largest, magnitude(a_.entry[i]));
      zero += zero_or_nan(a_.entry[i]);
    }
    constexpr unsigned kTeam = SIZE == 32 ? kWarp : (1u << SIZE % 32) - 1;
    const unsigned votes = __ballot_sync(kWarp, zero != zero);
    finite_ = !(votes >> (threadIdx.x % 32 / SIZE * SIZE) & kTeam);
    exponent_ = inverse_exponent(largest);
    const R scale = finite_ ? power_of_two<R>(exponent_) : not_a_number<R>();
#pragma unroll
    for (int i = 0; i < SIZE; ++i) a_.entry[i] = scale_by(a_.entry[i], scale);
  }

  // Take other columns than those of the identity, to multiply Q^H by.
  JAXQR_FN void take_side(const Tiles<T>& tiles, int which, int columns) {
#pragma unroll
    for (int i = 0; i < SIZE; ++i) {
      const bool inside = i < m_ && lane_ < columns;
      side_.entry[i] = inside ? tiles.at(which, i, lane_) : number<T>(0);
    }
  }

  JAXQR_FN void factor(bool with_h, bool with_side) {
#pragma unroll 1
    for (int j = 0; j < k_; ++j) eliminate(j, with_h, with_side);
  }

  JAXQR_FN void put_r(const Tiles<T>& tiles, int which) const {
    if (lane_ >= n_) return;
    const R scale = power_of_two<R>(-exponent_);
#pragma unroll
    for (int i = 0; i < SIZE; ++i) {
      const int row = row_of(i);
      if (row >= k_) continue;
      const T kept = row < place_ ? a_.entry[i] : number<T>(real_part(a_.entry[i]));
      tiles.at(which, row, place_) = row > place_ ? number<T>(0) : scale_by(kept, scale);
    }
  }

  JAXQR_FN void put_h(const Tiles<T>& tiles, int which) const {
    if (lane_ >= n_) return;
    const R scale = power_of_two<R>(-exponent_);
#pragma unroll
    for (int i = 0; i < SIZE; ++i) {
      const int row = row_of(i);
      if (row >= m_) continue;
      tiles.at(which, row, place_) =
          row > place_ ? a_.entry[i] : scale_by(a_.entry[i], scale);
    }
  }

  // The leading columns of Q: a lane has a row.
  JAXQR_FN void put_q(const Tiles<T>& tiles, int which, int columns) const {
    if (lane_ >= m_) return;
#pragma unroll
    for (int i = 0; i < SIZE; ++i) {
      const int row = row_of(i);
      if (row < columns) tiles.at(which, lane_, row) = conjugate(side_.entry[i]);
    }
  }

  // Q^H times the columns that were taken.
  JAXQR_FN void put_side(const Tiles<T>& tiles, int which, int columns) const {
    if (lane_ >= columns) return;
#pragma unroll
    for (int i = 0; i < SIZE; ++i) {
      const int row = row_of(i);
      if (row < m_) tiles.at(which, row, lane_) = side_.entry[i];
    }
  }

  JAXQR_FN void put_tau(T* tau) const {
    if (lane_ < k_) tau[lane_] = tau_;
  }

  JAXQR_FN void put_p(int* p) const {
    if (lane_ < n_) p[place_] = lane_;
  }

 private:
  // The row of which an entry is when all is done.
  JAXQR_FN int row_of(int i) const { return (i + k_) & (SIZE - 1); }

  JAXQR_FN void eliminate(int j, bool with_h, bool with_side) {
    const int pivot = PIVOTED ? choose_pivot(j) : j;
    T v[SIZE];
    R below = 0;
#pragma unroll
    for (int i = 0; i < SIZE; ++i) {
      v[i] = take_from(a_.entry[i], pivot, SIZE);
      if (i >= SIZE - j) v[i] = number<T>(0);  // rows that are done
      if (i > 0) below = add_square(below, v[i]);
    }
    const Reflector<T> h = reflect_onto_first(v, below);
    const bool chosen = lane_ == pivot, left = PIVOTED ? !done_ && !chosen : lane_ > j;
    if (with_h && chosen) {
#pragma unroll
      for (int i = 1; i < SIZE; ++i) {
        if (i < SIZE - j) a_.entry[i] = v[i];
      }
    }
    a_.reflect(v, left ? conjugate(h.tau) : number<T>(0));
    if (chosen) a_.entry[SIZE - 1] = number<T>(h.beta), done_ = true;
    if (with_side) side_.reflect(v, conjugate(h.tau));
    if (lane_ == j) tau_ = h.tau;
  }

  // Make the reflector of v, and v its vector. Where squares have underflowed, v is first multiplied
  // by a power of two of its own.
  JAXQR_FN Reflector<T> reflect_onto_first(T (&v)[SIZE], R below) const {
    int exponent = 0;
    bool trivial = false;
    if (!(below >= kLeastSum<R>)) {
      R largest = 0;
#pragma unroll
      for (int i = 1; i < SIZE; ++i) largest = larger(largest, magnitude(v[i]));
      trivial = finite_ && below == 0 && largest == 0 && imaginary_part(v[0]) == 0;
      exponent = inverse_exponent(larger(largest, magnitude(v[0])));
      below = 0;
#pragma unroll
      for (int i = 0; i < SIZE; ++i) {
        v[i] = scale_by(v[i], power_of_two<R>(exponent));
        if (i > 0) below = add_square(below, v[i]);
      }
    }
    Reflector<T> h = make_reflector(v[0], below, trivial);
    h.beta *= power_of_two<R>(-exponent);
    v[0] = number<T>(1);
#pragma unroll
    for (int i = 1; i < SIZE; ++i) v[i] = v[i] * h.scale;
    return h;
  }

  // The lane with the largest column of what is left, the first of them as the columns now stand.
  // That column takes the place j, and the one that was there its place.
  JAXQR_FN int choose_pivot(int j) {
    ColumnSize<R> size = ColumnSize<R>::none();
    const bool candidate = j < free_ ? place_ < free_ : place_ == j;
    if (candidate && !done_ && lane_ < n_) size = finite_ ? measure(j) : ColumnSize<R>::zero();
    int pivot = lane_, place = place_;
    choose_largest<SIZE>(size, pivot, place);
    if (lane_ == pivot) {
      place_ = j;
    } else if (place_ == j) {
      place_ = place;
    }
    return pivot;
  }

  // The size of the lane's column from row j on, which are its first entries.
  JAXQR_FN ColumnSize<R> measure(int j) const {
    R sum = 0;
#pragma unroll
    for (int i = 0; i < SIZE; ++i) {
      sum = add_square(sum, i < SIZE - j ? a_.entry[i] : number<T>(0));
    }
    int exponent = 0;
    if (!(sum >= kLeastSum<R>)) {
      R largest = 0;
#pragma unroll
      for (int i = 0; i < SIZE; ++i) {
        if (i < SIZE - j) largest = larger(largest, magnitude(a_.entry[i]));
      }
      if (largest == 0) return ColumnSize<R>::zero();
      exponent = inverse_exponent(largest);
      sum = 0;
#pragma unroll
      for (int i = 0; i < SIZE; ++i) {
        const T entry = scale_by(a_.entry[i], power_of_two<R>(exponent));
        sum = add_square(sum, i < SIZE - j ? entry : number<T>(0));
      }
    }
    return ColumnSize<R>::of_square(sum, -2 * (exponent_ + exponent));
  }

  const int lane_ = threadIdx.x % SIZE;
  const int m_, n_, k_, free_;
  LaneColumn<T, SIZE> a_, side_;
  T tau_ = number<T>(0);  // of the reflector with the lane's number
  int exponent_ = 0;      // of the power of two that the column was multiplied by
  int place_ = lane_;     // the column's
  bool done_ = false, finite_ = true;
};

template <class T, int SIZE, bool PIVOTED>
JAXQR_FN void lanes(const Arguments& arguments) {
  constexpr int kTeams = 32 / SIZE;
  const int m = arguments.sizes[0], n = arguments.sizes[1], k = m < n ? m : n;
  const bool transposed = arguments.sizes[2];
  const long long first =
      (static_cast<long long>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32) * kTeams;
  if (first >= arguments.batch) return;
  const long long left = arguments.batch - first;
  const int count = left < kTeams ? static_cast<int>(left) : kTeams;
  const int team = threadIdx.x % 32 / SIZE, which = team < count ? team : count - 1;
  T* const memory = warp_memory<T>(arguments.sizes[3]);
  const auto data = [&](int slot) { return static_cast<T*>(arguments.data[slot]); };

  LaneQr<T, SIZE, PIVOTED> qr(m, n, arguments.sizes[4]);
  const Tiles<T> a(memory, m, n, transposed);
  a.load(data(0) + first * m * n, count);
  __syncwarp();
  qr.take(a, which);
  qr.factor(data(4), data(1) || data(2));

  const auto store = [&](T* to, int rows, int cols, const auto& put) {
    if (!to) return;
    const Tiles<T> tiles(memory, rows, cols, transposed);
    __syncwarp();
    if (team < count) put(tiles);
    __syncwarp();
    tiles.store(to + first * rows * cols, count);
  };
  store(data(3), k, n, [&](const Tiles<T>& r) { qr.put_r(r, team); });
  store(data(4), m, n, [&](const Tiles<T>& h) { qr.put_h(h, team); });
  store(data(1), m, k, [&](const Tiles<T>& q) { qr.put_q(q, team, k); });
  store(data(2), m, m, [&](const Tiles<T>& q) { qr.put_q(q, team, m); });
  if (data(5) && team < count) qr.put_tau(data(5) + (first + team) * k);
  if (data(6) && team < count) {
    qr.put_p(static_cast<int*>(arguments.data[6]) + (first + team) * n);
  }
}

}  // namespace jaxqr
