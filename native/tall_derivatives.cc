// Tangents and cotangents of matrices with few columns and many rows: (8.5), (8.6) and (8.8) of
// notebooks/derivations.md.
//
// A pass over the rows sums E or M, the n x n part of the rule follows, and another pass computes
// the rows of the result. Both passes have rows in lanes, and n x n matrices that all lanes share.
// Threads take parts of the rows.
#include "lanes_derivatives_rules.h"
#include "routines.h"
#include "rows.h"

namespace jaxqr {
namespace {

// For a computation within a thread.
class SerialPool : public Pool {
 public:
  long threads() const override { return 1; }
  void schedule(std::function<void()>) override {}
};

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
      : p_(problem), pool_(pool), n_(problem.n), parts_(part_count(problem, pool.threads())) {
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
    if (with_sums) for_rows(kForward, &TallDerivative::add_block);
    for_matrices(&TallDerivative::share_square);
    if (with_rows) for_rows(kBackward, &TallDerivative::finish_block);
  }

 protected:
  // A part of a matrix's rows, and a thread's memory for blocks of them. `q` and `x` have as many
  // rows as the block has groups.
  struct Part {
    long matrix;
    LaneView<S> q, x, sums;
    const Place* places;
  };

  // The first pass, for rows [first, first + count).
  virtual void add_block(const Part& part, long first, long count) const = 0;
  // What comes between the passes.
  virtual LaneView<S> form_square(long b, const TriangleGroup<S>& triangle,
                                  Workspace& workspace) const = 0;
  // The second pass.
  virtual void finish_block(const Part& part, long first, long count) const = 0;

  PackedShape square() const { return {n_, n_}; }
  size_t square_bytes() const { return matrix_bytes<Pack<S>>(square()); }

  void load(const S* batch, const Part& part, long first, long count,
            const LaneView<S>& to) const {
    const TallMatrix<const S> from{batch + part.matrix * p_.m * n_, p_.m, n_, p_.order};
    load_rows<S>(from, first, count, part.places, to);
  }
  void store(const Part& part, long first, long count, S* batch) const {
    const TallMatrix<S> to{batch + part.matrix * p_.m * n_, p_.m, n_, p_.order};
    store_rows<S>(part.x, first, count, part.places, to);
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
  enum Direction { kForward, kBackward };

  // Groups of rows in lanes at a time: few enough for the cache, and enough to be worth a pass over
  // an n x n matrix.
  static long block_groups(long n) { return std::max(8L, std::min(64L, 512 / n / 4 * 4)); }

  // Enough for all threads, but not so many that adding up their sums costs.
  static long part_count(const DerivativeProblem<S>& p, long threads) {
    const long wanted = (4 * threads + p.batch - 1) / p.batch;
    return std::max(1L, std::min(wanted, p.m / (128 * kWidth<T>)));
  }

  void for_matrices(void (TallDerivative::*step)(long) const) {
    parallel_for(pool_, p_.batch, [&](long b) { (this->*step)(b); });
  }

  // Blocks of rows of all parts. What one pass reads last, the next in the other direction finds in
  // the cache.
  void for_rows(Direction direction,
                void (TallDerivative::*block)(const Part&, long, long) const) {
    const long total = p_.batch * parts_;
    parallel_for(pool_, total, [&](long turn) {
      run_part(direction == kForward ? turn : total - 1 - turn, direction, block);
    });
  }

  void run_part(long i, Direction direction,
                void (TallDerivative::*block)(const Part&, long, long) const) const {
    const long groups = block_groups(n_), rows = groups * kWidth<T>;
    const long blocks = (p_.m + rows - 1) / rows, part_blocks = (blocks + parts_ - 1) / parts_;
    Workspace workspace(2 * matrix_bytes<Pack<S>>({groups, n_}) + square_bytes() +
                        Workspace::size<Place>(n_ * kParts<S>));
    Part part{i / parts_, {}, {}, {}, row_places<S>(workspace, n_)};
    part.q = take_matrix<Pack<S>>(workspace, {groups, n_});
    part.x = take_matrix<Pack<S>>(workspace, {groups, n_});
    part.sums = take_matrix<Pack<S>>(workspace, square());
    clear(part.sums);
    const long begin = i % parts_ * part_blocks, end = std::min(blocks, begin + part_blocks);
    for (long k = begin; k < end; ++k) {
      const long first = (direction == kForward ? k : begin + end - 1 - k) * rows;
      const long count = std::min(rows, p_.m - first);
      part.q.rows = part.x.rows = (count + kWidth<T> - 1) / kWidth<T>;
      (this->*block)(part, first, count);
    }
    if (direction == kBackward) return;
    S* const sum_of_part = sums_ + i * n_ * n_;
    for (long j = 0; j < n_ * n_; ++j) sum_of_part[j] = sum(part.sums(j / n_, j % n_));
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

template <class S>
class TallTangent : public TallDerivative<S> {
 public:
  using TallDerivative<S>::TallDerivative;
  void run() { TallDerivative<S>::run(true, p_.dq); }

 private:
  using typename TallDerivative<S>::Part;
  using TallDerivative<S>::p_, TallDerivative<S>::shared_;
  using T = RealOf<S>;

  // E += Q^H B, and B into the place of dQ; or Q^H dA if dQ is not wanted.
  void add_block(const Part& part, long first, long count) const override {
    const Shared<S>& shared = shared_[part.matrix];
    this->load(p_.q, part, first, count, part.q);
    this->load(p_.da, part, first, count, part.x);
    if (!(shared.scale == 1)) scale_entries<S>(part.x, broadcast(shared.scale));
    if (p_.dq) {
      solve_right<S>(part.x, shared.restricted());
      this->store(part, first, count, p_.dq);
    }
    multiply_conj<S>(Update::kAdd, part.sums, part.q.transposed(), part.x);
  }

  // Psi, and dR.
  LaneView<S> form_square(long b, const TriangleGroup<S>& triangle,
                          Workspace& workspace) const override {
    const LaneView<S> e = take_matrix<Pack<S>>(workspace, this->square());
    const LaneView<S> psi = take_matrix<Pack<S>>(workspace, this->square(), Fill::kUpper);
    const LaneView<S> dr = take_matrix<Pack<S>>(workspace, this->square(), Fill::kUpper);
    clear(e);
    clear(psi);
    this->add_parts(b, 1, e);
    if (!p_.dq) solve_right<S>(e, triangle.restricted());
    form_psi<S>(e, triangle, psi);
    if (p_.dr) {
      form_dr<S>(e, psi, triangle, dr);
      finish_dr<S>(triangle, p_.pivoted, dr);
      store_lanes<S>(dr, {b, 1}, p_.batch, this->triangle_places_, p_.dr);
    }
    return psi;
  }

  // dQ = B_c - Q Psi, in place.
  void finish_block(const Part& part, long first, long count) const override {
    const Shared<S>& shared = shared_[part.matrix];
    this->load(p_.q, part, first, count, part.q);
    this->load(p_.dq, part, first, count, part.x);
    if (!shared.all_count) keep_columns<S>(part.x, shared.counts);
    multiply<S>(Update::kSubtract, part.x, part.q, shared.square);
    this->store(part, first, count, p_.dq);
  }
};

// Conjugated as in lanes_derivatives.cc: with conj(Q) and conj(R) for Q and R.
template <class S>
class TallCotangent : public TallDerivative<S> {
 public:
  using TallDerivative<S>::TallDerivative;
  void run() { TallDerivative<S>::run(p_.dq, true); }

 private:
  using typename TallDerivative<S>::Part;
  using TallDerivative<S>::p_, TallDerivative<S>::shared_;

  // Qbar^H Q
  void add_block(const Part& part, long first, long count) const override {
    this->load(p_.q, part, first, count, part.q);
    this->load(p_.dq, part, first, count, part.x);
    multiply<S>(Update::kAdd, part.sums.with(Fill::kLower), part.x.transposed(), part.q);
  }

  // Ebar; where there is no Qbar, Ebar R_m^-H.
  LaneView<S> form_square(long b, const TriangleGroup<S>& triangle,
                          Workspace& workspace) const override {
    const LaneView<S> ebar = take_matrix<Pack<S>>(workspace, this->square());
    const LaneView<S> rbar = take_matrix<Pack<S>>(workspace, this->square(), Fill::kUpper);
    clear(ebar);
    if (p_.dr) {
      load_rbar<S>(p_, {b, 1}, this->triangle_places_, triangle, rbar);
      multiply<S>(Update::kSet, ebar.with(Fill::kLower), triangle.r(), rbar.transposed());
    }
    if (p_.dq) this->add_parts(b, -triangle.scale()[0], ebar);
    form_ebar<S>(ebar, p_.dr ? &rbar : nullptr, triangle);
    if (!p_.dq) solve_right_transposed<S>(ebar, triangle.restricted());
    return ebar;
  }

  void finish_block(const Part& part, long first, long count) const override {
    const Shared<S>& shared = shared_[part.matrix];
    this->load(p_.q, part, first, count, part.q);
    if (p_.dq) {
      this->load(p_.dq, part, first, count, part.x);
      if (!(shared.scale == 1)) scale_entries<S>(part.x, broadcast(shared.scale));
      if (!shared.all_count) keep_columns<S>(part.x, shared.counts);
      multiply_conj<S>(Update::kAdd, part.x, part.q, shared.square);
      solve_right_transposed<S>(part.x, shared.restricted());
    } else {
      multiply_conj<S>(Update::kSet, part.x, part.q, shared.square);
    }
    this->store(part, first, count, p_.da);
  }
};

template <class Map, class S>
void run(const DerivativeProblem<S>& problem, Pool& pool) {
  Workspace workspace(Map::bytes(problem, pool.threads()));
  Map(workspace, problem, pool).run();
}

// Where there are matrices enough, each stays in the cache of a thread.
template <class S>
void run_batch(const DerivativeProblem<S>& problem, Pool& pool,
               void run(const DerivativeProblem<S>&, Pool&)) {
  if (problem.batch < 4 * pool.threads()) return run(problem, pool);
  parallel_for(pool, problem.batch, [&](long b) {
    SerialPool serial;
    run(problem.slice(b, 1), serial);
  });
}

}  // namespace

template <class S>
void tangent_tall(const DerivativeProblem<S>& problem, Pool& pool) {
  run_batch<S>(problem, pool, run<TallTangent<S>, S>);
}

template <class S>
void cotangent_tall(const DerivativeProblem<S>& problem, Pool& pool) {
  run_batch<S>(problem, pool, run<TallCotangent<S>, S>);
}

#ifndef JAXQR_FOR_SCALARS_TEST
#define INSTANTIATE(S)                                                \
  template void tangent_tall<S>(const DerivativeProblem<S>&, Pool&);  \
  template void cotangent_tall<S>(const DerivativeProblem<S>&, Pool&);
JAXQR_FOR_SCALARS(INSTANTIATE)
#endif

}  // namespace jaxqr
