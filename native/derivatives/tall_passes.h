// The passes over the rows of tall matrices that tangent and cotangent have in common.
//
// Both rules multiply rows by n x n matrices: first a sum over all rows (E or M), then what follows
// from it (Psi or Ebar), which the rows of the result are made with. So there are two passes over
// the rows, and between them a computation with n x n matrices:
//
//   TallPasses<S> passes(workspace, problem, pool);    // R, and which columns count
//   passes.sum_rows(add_block);                        // first pass
//   passes.form_squares(form_square);                  // Psi or Ebar
//   passes.finish_rows(finish_block);                  // second pass
//
// The rows of a matrix are worked on in blocks, which stay in the cache. Consecutive blocks make a
// part; the parts of all matrices are spread over the threads. In a block, kWidth consecutive rows
// lie in the lanes of vectors, and entries of n x n matrices are shared by all lanes.
#pragma once

#include "derivatives/lane_rows.h"
#include "derivatives/lane_rules.h"

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
struct SharedFactors {
  using T = RealOf<S>;

  LaneMatrix<S> square;    // Psi of (8.5), or Ebar of (8.6), conjugated
  LaneMatrix<S> triangle;  // R_m, but for its diagonal
  T* reciprocals;          // of the diagonal of R_m
  Mask<T>* counts;         // which columns count, in all lanes
  bool all_count;
  T scale;  // of (8.8)

  Triangle<S, T> restricted() const { return {triangle, reciprocals, 1}; }
};

// Consecutive rows of a matrix, and memory for those of Q and of a matrix like A in lanes.
template <class S>
struct RowBlock {
  long matrix, first, count;
  LaneView<S> q, x;
  const Place* places;
};

template <class S>
class TallPasses {
 public:
  using T = RealOf<S>;

  static size_t bytes(const DerivativeProblem<S>& p, const Pool& pool) {
    const long n = p.n;
    const size_t each =
        2 * matrix_bytes<S>({n, n}) + reciprocals_bytes<T>(n) + Workspace::size<Mask<T>>(n);
    return Workspace::size<Place>(n * n * kParts<S>) + Workspace::size<SharedFactors<S>>(p.batch) +
           p.batch * each + Workspace::size<S>(p.batch * count_parts(p, pool) * n * n);
  }

  TallPasses(Workspace& workspace, const DerivativeProblem<S>& problem, Pool& pool)
      : p_(problem), pool_(pool), n_(problem.n), parts_(count_parts(problem, pool)) {
    triangle_places_ =
        triangle_places<S>(square(), p_.order, workspace.take<Place>(n_ * n_ * kParts<S>));
    shared_ = workspace.take<SharedFactors<S>>(p_.batch);
    for (long b = 0; b < p_.batch; ++b) {
      shared_[b].square = take_matrix<S>(workspace, square());
      shared_[b].triangle = take_matrix<S>(workspace, square());
      shared_[b].reciprocals = take_reciprocals<T>(workspace, n_);
      shared_[b].counts = workspace.take<Mask<T>>(n_);
    }
    sums_ = workspace.take<S>(p_.batch * parts_ * n_ * n_);
    parallel_for(pool_, p_.batch, [this](long b) { share_triangle(b); });
  }

  PackedShape square() const { return {n_, n_}; }
  const Place* places_of_triangle() const { return triangle_places_; }
  const SharedFactors<S>& shared(const RowBlock<S>& block) const { return shared_[block.matrix]; }

  // The first pass: add_block(block, sums) adds the contribution of a block's rows to `sums`, which
  // is n x n, each lane for itself.
  template <class AddBlock>
  void sum_rows(const AddBlock& add_block) const {
    parallel_for(pool_, p_.batch * parts_, [&](long part) {
      Workspace workspace(block_bytes() + square_bytes());
      RowBlock<S> block = take_block(workspace, part);
      const LaneView<S> sums = take_matrix<Pack<S>>(workspace, square());
      clear(sums);
      const Span blocks = blocks_of(part);
      for (long k = blocks.begin; k < blocks.end; ++k) {
        move_to(k, block);
        add_block(block, sums);
      }
      S* const to = sums_ + part * n_ * n_;
      for (long j = 0; j < n_ * n_; ++j) to[j] = sum(sums(j / n_, j % n_));
    });
  }

  // to += factor times the sum over the rows of matrix b; in all lanes.
  void add_sums(long b, T factor, const LaneView<S>& to) const {
    const S* part = sums_ + b * parts_ * n_ * n_;
    for (long k = 0; k < parts_; ++k, part += n_ * n_) {
      for (long i = 0; i < n_; ++i) {
        for (long j = 0; j < n_; ++j) to(i, j) = to(i, j) + spread<S>(part[i * n_ + j] * factor);
      }
    }
  }

  // Between the passes: form_square(b, triangle, workspace) returns Psi or Ebar of matrix b; the
  // workspace has room for three n x n matrices in lanes.
  template <class FormSquare>
  void form_squares(const FormSquare& form_square) const {
    parallel_for(pool_, p_.batch, [&](long b) {
      Workspace workspace(TriangleGroup<S>::bytes(p_) + 3 * square_bytes());
      TriangleGroup<S> triangle(workspace, p_, triangle_places_);
      triangle.load({b, 1});
      const LaneView<S> square = form_square(b, triangle, workspace);
      shared_[b].square.fill = square.fill;
      for (long i = 0; i < n_; ++i) {
        for (long j = 0; j < n_; ++j) shared_[b].square(i, j) = first_lane(square(i, j));
      }
    });
  }

  // The second pass: finish_block(block) computes the rows of the result. It goes in the other
  // direction: what the first pass read last is still in the cache.
  template <class FinishBlock>
  void finish_rows(const FinishBlock& finish_block) const {
    const long total = p_.batch * parts_;
    parallel_for(pool_, total, [&](long turn) {
      const long part = total - 1 - turn;
      Workspace workspace(block_bytes());
      RowBlock<S> block = take_block(workspace, part);
      const Span blocks = blocks_of(part);
      for (long k = blocks.end - 1; k >= blocks.begin; --k) {
        move_to(k, block);
        finish_block(block);
      }
    });
  }

  // A block's rows of a batch of matrices like A, into and out of lanes.
  void load(const S* batch, const RowBlock<S>& block, const LaneView<S>& to) const {
    load_row_packs<S>(rows_of(batch, block), block.places, to);
  }
  void store(const RowBlock<S>& block, S* batch) const {
    store_row_packs<S>(block.x, block.places, rows_of(batch, block));
  }

 private:
  struct Span {
    long begin, end;
  };

  // Packs of rows in a block: few enough for the cache, and enough to be worth a pass over an n x n
  // matrix.
  long block_packs() const { return std::max(8L, std::min(64L, 512 / n_ / 4 * 4)); }
  long block_rows() const { return block_packs() * kWidth<T>; }

  // Parts of a matrix: enough for all threads, but not so many that adding up their sums costs.
  static long count_parts(const DerivativeProblem<S>& p, const Pool& pool) {
    const long wanted = ceil_divide(4 * thread_count(pool), p.batch);
    return std::max(1L, std::min(wanted, p.m / (128 * kWidth<T>)));
  }

  // The blocks of a part, as numbers of blocks of their matrix.
  Span blocks_of(long part) const {
    const long blocks = ceil_divide(p_.m, block_rows()), size = ceil_divide(blocks, parts_);
    const long begin = part % parts_ * size;
    return {begin, std::min(blocks, begin + size)};
  }

  size_t square_bytes() const { return matrix_bytes<Pack<S>>(square()); }
  size_t block_bytes() const {
    return 2 * matrix_bytes<Pack<S>>({block_packs(), n_}) + Workspace::size<Place>(n_ * kParts<S>);
  }

  RowBlock<S> take_block(Workspace& workspace, long part) const {
    RowBlock<S> block{part / parts_, 0, 0, {}, {}, row_places<S>(workspace, n_)};
    block.q = take_matrix<Pack<S>>(workspace, {block_packs(), n_});
    block.x = take_matrix<Pack<S>>(workspace, {block_packs(), n_});
    return block;
  }

  // Let `block` be number k of its matrix.
  void move_to(long k, RowBlock<S>& block) const {
    block.first = k * block_rows();
    block.count = std::min(block_rows(), p_.m - block.first);
    block.q.rows = block.x.rows = packs_for<S>(block.count);
  }

  template <class E>
  RowRange<E> rows_of(E* batch, const RowBlock<S>& block) const {
    return {batch + block.matrix * p_.m * n_, p_.m, n_, p_.order, block.first, block.count};
  }

  void share_triangle(long b) const {
    Workspace workspace(TriangleGroup<S>::bytes(p_));
    TriangleGroup<S> triangle(workspace, p_, triangle_places_);
    triangle.load({b, 1});
    SharedFactors<S>& shared = shared_[b];
    const auto restricted = triangle.restricted();
    for (long i = 0; i < n_; ++i) {
      for (long j = i + 1; j < n_; ++j) {
        shared.triangle(i, j) = first_lane(restricted.entries(i, j));
      }
      shared.reciprocals[i] = restricted.reciprocals[i][0];
      shared.counts[i] = triangle.counts()[i][0] ? ~Mask<T>{} : Mask<T>{};
    }
    shared.all_count = triangle.all_count();
    shared.scale = triangle.scale()[0];
  }

  DerivativeProblem<S> p_;
  Pool& pool_;
  long n_, parts_;
  const Place* triangle_places_;
  SharedFactors<S>* shared_;
  S* sums_;
};

}  // namespace jaxqr
