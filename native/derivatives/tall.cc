// Tangents and cotangents of matrices with few columns and many rows: (8.5), (8.6) and (8.8) of
// notebooks/derivations.md.
//
// A pass over the rows sums E or M, the n x n part of the rule follows, and another pass computes
// the rows of the result. Both passes have rows in lanes, and n x n matrices that all lanes share.
// Threads take parts of the rows.
#include "kernels.h"
#include "derivatives/tall_passes.h"

namespace jaxqr {
namespace {

template <class S>
class TallTangent : public TallDerivative<S> {
 public:
  using TallDerivative<S>::TallDerivative;
  void run() { TallDerivative<S>::run(true, p_.dq); }

 private:
  using typename TallDerivative<S>::Block;
  using TallDerivative<S>::p_, TallDerivative<S>::shared_;
  using T = RealOf<S>;

  // E += Q^H B, and B into the place of dQ; or Q^H dA if dQ is not wanted.
  void add_block(const Block& block, const LaneView<S>& sums) const override {
    const Shared<S>& shared = shared_[block.matrix];
    this->load(p_.q, block, block.q);
    this->load(p_.da, block, block.x);
    if (!(shared.scale == 1)) scale_entries<S>(block.x, broadcast(shared.scale));
    if (p_.dq) {
      solve_right<S>(block.x, shared.restricted());
      this->store(block, p_.dq);
    }
    multiply_conj<S>(Update::kAdd, sums, block.q.transposed(), block.x);
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
  void finish_block(const Block& block) const override {
    const Shared<S>& shared = shared_[block.matrix];
    this->load(p_.q, block, block.q);
    this->load(p_.dq, block, block.x);
    if (!shared.all_count) keep_columns<S>(block.x, shared.counts);
    multiply<S>(Update::kSubtract, block.x, block.q, shared.square);
    this->store(block, p_.dq);
  }
};

// Conjugated as in lanes_derivatives.cc: with conj(Q) and conj(R) for Q and R.
template <class S>
class TallCotangent : public TallDerivative<S> {
 public:
  using TallDerivative<S>::TallDerivative;
  void run() { TallDerivative<S>::run(p_.dq, true); }

 private:
  using typename TallDerivative<S>::Block;
  using TallDerivative<S>::p_, TallDerivative<S>::shared_;

  // Qbar^H Q
  void add_block(const Block& block, const LaneView<S>& sums) const override {
    this->load(p_.q, block, block.q);
    this->load(p_.dq, block, block.x);
    multiply<S>(Update::kAdd, sums.with(Fill::kLower), block.x.transposed(), block.q);
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

  void finish_block(const Block& block) const override {
    const Shared<S>& shared = shared_[block.matrix];
    this->load(p_.q, block, block.q);
    if (p_.dq) {
      this->load(p_.dq, block, block.x);
      if (!(shared.scale == 1)) scale_entries<S>(block.x, broadcast(shared.scale));
      if (!shared.all_count) keep_columns<S>(block.x, shared.counts);
      multiply_conj<S>(Update::kAdd, block.x, block.q, shared.square);
      solve_right_transposed<S>(block.x, shared.restricted());
    } else {
      multiply_conj<S>(Update::kSet, block.x, block.q, shared.square);
    }
    this->store(block, p_.da);
  }
};

template <class Map, class S>
void run(const DerivativeProblem<S>& problem, Pool& pool) {
  Workspace workspace(Map::bytes(problem, thread_count(pool)));
  Map(workspace, problem, pool).run();
}

// Where there are matrices enough, each stays in the cache of a thread.
template <class S>
void run_batch(const DerivativeProblem<S>& problem, Pool& pool,
               void run(const DerivativeProblem<S>&, Pool&)) {
  if (problem.batch < 4 * thread_count(pool)) return run(problem, pool);
  parallel_for(pool, problem.batch, [&](long b) {
    run(problem.slice(b, 1), serial_pool());
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

#define INSTANTIATE(S)                                                \
  template void tangent_tall<S>(const DerivativeProblem<S>&, Pool&);  \
  template void cotangent_tall<S>(const DerivativeProblem<S>&, Pool&);
JAXQR_FOR_SCALARS(INSTANTIATE)

}  // namespace jaxqr
