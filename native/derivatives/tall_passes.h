// The passes over the rows of tall matrices that tangent and cotangent have in common.
#pragma once

#include "derivatives/lane_rules.h"
#include "derivatives/lane_rows.h"

namespace jaxqr {

template <class S>
S first_lane(const Pack<S>& x) {
  if constexpr (kIsComplex<S>) {
    return S(x.re[0], x.im[0]);
  } else {
    return x.re[0];
  }
}

// What the rows of a matrix are multiplied with.
template <class S>
struct Shared {
  using T = RealOf<S>;

  LaneMatrix<S> square;  // Psi of (8.5), or Ebar of (8.6), conjugated
  LaneMatrix<S> entries;  // of R_m
  T* reciprocals;
  Mask<T>* counts;
  bool all_count;
  T scale;

  Triangle<S, T> restricted() const { return {entries, reciprocals, 1}; }
};

// What tangent and cotangent have in common: the passes over rows, and the memory in which their
// parts meet.
template <class S>
class TallDerivative {
 public:
  using T = RealOf<S>;

  static size_t bytes(const DerivativeProblem<S>& p, long threads) {
    const long n = p.n, each = 2 * matrix_bytes<S>({n, n}) + reciprocals_bytes<T>(n) +
                               Workspace::size<Mask<T>>(n);
    return Workspace::size<Place>(n * n * kParts<S>) + Workspace::size<Shared<S>>(p.batch) +
           p.batch * each + Workspace::size<S>(p.batch * part_count(p, threads) * n * n);
  }

  TallDerivative(Workspace& workspace, const DerivativeProblem<S>& problem, Pool& pool)
      : p_(problem), pool_(pool), n_(problem.n), parts_(part_count(problem, thread_count(pool))) {
    triangle_places_ =
        triangle_places<S>(square(), p_.order, workspace.take<Place>(n_ * n_ * kParts<S>));
    shared_ = workspace.take<Shared<S>>(p_.batch);
    for (long b = 0; b < p_.batch; ++b) {
      shared_[b].square = take_matrix<S>(workspace, square());
      shared_[b].entries = take_matrix<S>(workspace, square());
      shared_[b].reciprocals = take_reciprocals<T>(workspace, n_);
      shared_[b].counts = workspace.take<Mask<T>>(n_);
    }
    sums_ = workspace.take<S>(p_.batch * parts_ * n_ * n_);
  }
  virtual ~TallDerivative() = default;

  void run(bool with_sums, bool with_rows) {
    for_matrices(&TallDerivative::share_triangle);
    if (with_sums) for_parts(kSum);
    for_matrices(&TallDerivative::share_square);
    if (with_rows) for_parts(kFinish);
  }

 protected:
  // Consecutive rows of a matrix, and memory for those of Q and of a matrix like A in lanes.
  struct Block {
    long matrix, first, count;
    LaneView<S> q, x;
    const Place* places;
  };

  // The first pass: add the block's contribution to `sums`.
  virtual void add_block(const Block& block, const LaneView<S>& sums) const = 0;
  // What comes between the passes.
  virtual LaneView<S> form_square(long b, const TriangleGroup<S>& triangle,
                                  Workspace& workspace) const = 0;
  // The second pass.
  virtual void finish_block(const Block& block) const = 0;

  PackedShape square() const { return {n_, n_}; }
  size_t square_bytes() const { return matrix_bytes<Pack<S>>(square()); }

  void load(const S* batch, const Block& block, const LaneView<S>& to) const {
    load_rows<S>(rows_of(batch, block), block.places, to);
  }
  void store(const Block& block, S* batch) const {
    store_rows<S>(block.x, block.places, rows_of(batch, block));
  }

  // to += factor times what the first pass summed of matrix b; in all lanes.
  void add_parts(long b, T factor, const LaneView<S>& to) const {
    const S* part = sums_ + b * parts_ * n_ * n_;
    for (long k = 0; k < parts_; ++k, part += n_ * n_) {
      for (long i = 0; i < n_; ++i) {
        for (long j = 0; j < n_; ++j) to(i, j) = to(i, j) + spread<S>(part[i * n_ + j] * factor);
      }
    }
  }

  DerivativeProblem<S> p_;
  Pool& pool_;
  long n_, parts_;
  const Place* triangle_places_;
  Shared<S>* shared_;
  S* sums_;

 private:

  enum Pass { kSum, kFinish };

  // Groups of rows in lanes at a time: few enough for the cache, and enough to be worth a pass over
  // an n x n matrix.
  static long block_groups(long n) { return std::max(8L, std::min(64L, 512 / n / 4 * 4)); }

  // Enough for all threads, but not so many that adding up their sums costs.
  static long part_count(const DerivativeProblem<S>& p, long threads) {
    const long wanted = ceil_divide(4 * threads, p.batch);
    return std::max(1L, std::min(wanted, p.m / (128 * kWidth<T>)));
  }

  template <class E>
  RowRange<E> rows_of(E* batch, const Block& block) const {
    return {batch + block.matrix * p_.m * n_, p_.m, n_, p_.order, block.first, block.count};
  }

  void for_matrices(void (TallDerivative::*step)(long) const) {
    parallel_for(pool_, p_.batch, [&](long b) { (this->*step)(b); });
  }

  // Run a pass over all parts. What one pass reads last, the next in the other direction finds in
  // the cache.
  void for_parts(Pass pass) {
    const long total = p_.batch * parts_;
    parallel_for(pool_, total, [&](long turn) {
      run_part(pass, pass == kSum ? turn : total - 1 - turn);
    });
  }

  void run_part(Pass pass, long part) const {
    const long groups = block_groups(n_), rows = groups * kWidth<T>;
    Workspace workspace(2 * matrix_bytes<Pack<S>>({groups, n_}) + square_bytes() +
                        Workspace::size<Place>(n_ * kParts<S>));
    Block block{part / parts_, 0, 0, {}, {}, row_places<S>(workspace, n_)};
    block.q = take_matrix<Pack<S>>(workspace, {groups, n_});
    block.x = take_matrix<Pack<S>>(workspace, {groups, n_});
    const LaneView<S> sums = take_matrix<Pack<S>>(workspace, square());
    clear(sums);
    const long blocks = ceil_divide(p_.m, rows), part_blocks = ceil_divide(blocks, parts_);
    const long begin = part % parts_ * part_blocks, end = std::min(blocks, begin + part_blocks);
    for (long k = begin; k < end; ++k) {
      block.first = (pass == kSum ? k : begin + end - 1 - k) * rows;
      block.count = std::min(rows, p_.m - block.first);
      block.q.rows = block.x.rows = group_total<S>(block.count);
      if (pass == kSum) {
        add_block(block, sums);
      } else {
        finish_block(block);
      }
    }
    S* const sums_of_part = sums_ + part * n_ * n_;
    for (long j = 0; pass == kSum && j < n_ * n_; ++j) {
      sums_of_part[j] = sum(sums(j / n_, j % n_));
    }
  }

  void share_triangle(long b) const {
    Workspace workspace(TriangleGroup<S>::bytes(p_));
    TriangleGroup<S> triangle(workspace, p_, triangle_places_);
    triangle.load({b, 1});
    Shared<S>& shared = shared_[b];
    const auto restricted = triangle.restricted();
    for (long i = 0; i < n_; ++i) {
      for (long j = i + 1; j < n_; ++j) {
        shared.entries(i, j) = first_lane(restricted.entries(i, j));
      }
      shared.reciprocals[i] = restricted.reciprocals[i][0];
      shared.counts[i] = triangle.counts()[i][0] ? ~Mask<T>{} : Mask<T>{};
    }
    shared.all_count = triangle.all_count();
    shared.scale = triangle.scale()[0];
  }

  void share_square(long b) const {
    Workspace workspace(TriangleGroup<S>::bytes(p_) + 3 * square_bytes());
    TriangleGroup<S> triangle(workspace, p_, triangle_places_);
    triangle.load({b, 1});
    const LaneView<S> square = form_square(b, triangle, workspace);
    shared_[b].square.fill = square.fill;
    for (long i = 0; i < n_; ++i) {
      for (long j = 0; j < n_; ++j) shared_[b].square(i, j) = first_lane(square(i, j));
    }
  }
};

}  // namespace jaxqr
