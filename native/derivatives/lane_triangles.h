// Groups of matrices as a derivative problem has them: in and out of lanes, and their triangles R
// with the columns that count.
#pragma once

#include <limits>

#include "common/independent_columns.h"
#include "common/range.h"
#include "derivatives/lane_matrix.h"

namespace jaxqr {

template <class S>
using LaneView = LaneMatrix<Pack<S>>;

// ------------------------------------------------------------------------- in and out of lanes

// The places of an upper triangle with a real diagonal. What a dense matrix has elsewhere goes to
// the spare entry, and comes from there.
template <class S>
const Place* triangle_places(PackedShape shape, Order order, Place* places) {
  const auto slot = [=](long i, long j) { return i > j ? shape.spare() : shape.slot(i, j); };
  fill_places<S>(shape.rows, shape.cols, order, slot, places);
  if constexpr (kIsComplex<S>) {
    const long next = (order == Order::kRows ? shape.cols : shape.rows) + 1;
    for (long i = 0; i < shape.rows; ++i) {
      places[2 * i * next + 1] = static_cast<Place>(2 * shape.spare() + 1);
    }
  }
  return places;
}

// Where the entries of the dense matrices of a problem go.
template <class S>
struct DerivativePlaces {
  const Place *q, *a, *r;

  static size_t bytes(const DerivativeProblem<S>& p) {
    return Workspace::size<Place>(p.m * p.k() * kParts<S>) +
           Workspace::size<Place>(p.m * p.n * kParts<S>) +
           Workspace::size<Place>(p.k() * p.n * kParts<S>);
  }
  DerivativePlaces(Workspace& workspace, const DerivativeProblem<S>& p) {
    q = matrix_places(workspace, {p.m, p.k()}, p.order);
    a = p.m < p.n ? matrix_places(workspace, {p.m, p.n}, p.order) : q;
    const PackedShape shape{p.k(), p.n};
    r = triangle_places<S>(shape, p.order,
                           workspace.take<Place>(shape.rows * shape.cols * kParts<S>));
  }

 private:
  static const Place* matrix_places(Workspace& workspace, PackedShape shape, Order order) {
    return fill_places<S>(
        shape.rows, shape.cols, order, [=](long i, long j) { return shape.slot(i, j); },
        workspace.take<Place>(shape.rows * shape.cols * kParts<S>));
  }
};

// Matrices [first, first + count) of a batch.
struct Lanes {
  long first;
  int count;
};

template <class S>
void load_lanes(const S* from, Lanes lanes, long batch, const Place* places,
                const LaneView<S>& to) {
  const long length = to.rows * to.cols * kParts<S>;
  pack<RealOf<S>>(reals(from) + lanes.first * length, length, lanes.count, places,
                  (batch - lanes.first) * length, vectors(to.data));
}

template <class S>
void store_lanes(const LaneView<S>& from, Lanes lanes, long batch, const Place* places, S* to) {
  const long length = from.rows * from.cols * kParts<S>;
  unpack<RealOf<S>>(vectors(from.data), length, lanes.count, places, (batch - lanes.first) * length,
                    reals(to) + lanes.first * length);
}

template <class S>
[[gnu::noinline]] void scale_entries(const LaneView<S>& x, Vector<RealOf<S>> by) {
  for (long i = 0; i < x.rows; ++i) {
    for (long j = 0; j < x.cols; ++j) x(i, j) = scale(x(i, j), by);
  }
}

// --------------------------------------------------------------------- the columns that count

// The triangles of a group, multiplied by their scales (8.8), and R_m of (8.5). All columns of a
// matrix that is NaN count, so that its results are NaN; scales are finite, as they meet memory
// that is read and never written.
template <class S>
class TriangleGroup {
 public:
  using T = RealOf<S>;

  [[gnu::noinline]] TriangleGroup(Workspace& workspace, const DerivativeProblem<S>& problem,
                                  const Place* places)
      : problem_(problem), places_(places), k_(problem.k()) {
    r_ = take_matrix<Pack<S>>(workspace, {k_, problem.n}, Fill::kUpper);
    restricted_ = take_matrix<Pack<S>>(workspace, {k_, k_}, Fill::kUpper);
    counts_ = workspace.take<Mask<T>>(k_);
    reciprocals_ = take_reciprocals<Vector<T>>(workspace, k_);
  }

  static size_t bytes(const DerivativeProblem<S>& problem) {
    const long k = problem.k();
    return matrix_bytes<Pack<S>>({k, problem.n}) + matrix_bytes<Pack<S>>({k, k}) +
           Workspace::size<Mask<T>>(k) + reciprocals_bytes<Vector<T>>(k);
  }

  [[gnu::noinline]] void load(Lanes lanes) {
    load_lanes<S>(problem_.r, lanes, problem_.batch, places_, r_);
    judge(lanes.count);
    const Vector<T> one = broadcast(T(1));
    for (long j = 0; j < k_; ++j) reciprocals_[j] = counts_[j] ? one / r_(j, j).re : one;
    if (!all_count_) restrict_triangle();
  }

  const LaneView<S>& r() const { return r_; }
  Triangle<Pack<S>, Vector<T>> restricted() const {
    return {all_count_ ? r_.leading_cols(k_) : restricted_, reciprocals_, 1};
  }
  const Mask<T>* counts() const { return counts_; }
  bool all_count() const { return all_count_; }
  Vector<T> scale() const { return scale_; }
  bool scaled() const { return scaled_; }  // whether a scale is not 1

 private:
  // (8.3). The usual case is found by a bound that is cheap for complex numbers.
  void judge(int count) {
    Mask<T> live = ~Mask<T>{};
    for (int l = count; l < kWidth<T>; ++l) live[l] = 0;
    bool ordinary = true;
    const auto bound = [](Pack<S> z) { return modulus_bound<S>(z); };
    all_count_ = judge_by(live, bound, ordinary);
    scale_ = broadcast(T(1));
    scaled_ = !ordinary;
    if (scaled_) {
      find_scale();
      scale_entries<S>(r_, scale_);
      all_count_ = judge_by(live, bound, ordinary);
    }
    if (kIsComplex<S> && !all_count_) {
      all_count_ = judge_by(live, [](Pack<S> z) { return modulus<S>(z); }, ordinary);
    }
    if (!problem_.pivoted) return;
    for (long j = 1; j < k_; ++j) counts_[j] &= counts_[j - 1];
  }

  // Whether all columns of the matrices in live lanes count; and whether all are of ordinary size.
  template <class Size>
  bool judge_by(Mask<T> live, Size size, bool& ordinary) {
    const Vector<T> factor = broadcast(1 / kTolerance<T>);
    Mask<T> all = ~Mask<T>{}, inside = ~Mask<T>{};
    for (long j = 0; j < k_; ++j) {
      Vector<T> sum = size(r_(0, j));
      for (long i = 1; i <= j; ++i) sum += size(r_(i, j));
      counts_[j] = ~(size(r_(j, j)) * factor <= sum);
      all &= counts_[j];
      inside &= ((sum >= 1 / kOrdinary<T>)&(sum <= kOrdinary<T>)) | (sum == 0);
    }
    ordinary = !any<T>(~inside & live);
    return !any<T>(~all & live);
  }

  // The scale brings the largest and the smallest column to the two sides of 1.
  void find_scale() {
    Vector<T> least = broadcast(std::numeric_limits<T>::max()), most{};
    for (long j = 0; j < problem_.n; ++j) {
      Vector<T> largest{};
      for (long i = 0; i < std::min(j + 1, k_); ++i) {
        largest = maximum<T>(absolute<T>(r_(i, j).re), largest);
        if constexpr (kIsComplex<S>) largest = maximum<T>(absolute<T>(r_(i, j).im), largest);
      }
      least = (largest > 0) & (largest < least) ? largest : least;
      most = maximum<T>(largest, most);
    }
    for (int l = 0; l < kWidth<T>; ++l) scale_[l] = middle_scale<T>(least[l], most[l]);
  }

  // R_m, but for its diagonal, which is in the reciprocals.
  void restrict_triangle() {
    for (long i = 0; i < k_; ++i) {
      for (long j = i + 1; j < k_; ++j) {
        restricted_(i, j) = select(counts_[i], r_(i, j), Pack<S>::zero());
      }
    }
  }

  DerivativeProblem<S> problem_;
  const Place* places_;
  long k_;
  LaneView<S> r_, restricted_;
  Mask<T>* counts_;
  Vector<T>* reciprocals_;
  Vector<T> scale_;
  bool scaled_, all_count_;
};

}  // namespace jaxqr
