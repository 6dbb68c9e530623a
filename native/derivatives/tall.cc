// Tangents and cotangents of matrices with few columns and many rows: (8.5), (8.6) and (8.8) of
// notebooks/derivations.md, in two passes over the rows (tall_passes.h).
#include "derivatives/tall_passes.h"
#include "kernels.h"

namespace jaxqr {
namespace {

template <class S>
using Run = void(const DerivativeProblem<S>&, Pool&);

// (8.5). The rows of B = dA R_m^-1 wait in the place of dQ. If dQ is not wanted, Q^H dA is summed
// instead of E = Q^H B, as a solve with n rows is quicker than one with m.
template <class S>
void run_tangent(const DerivativeProblem<S>& p, Pool& pool) {
  Workspace memory(TallPasses<S>::bytes(p, pool));
  const TallPasses<S> passes(memory, p, pool);
  passes.sum_rows([&](const RowBlock<S>& block, const LaneView<S>& sums) {
    const SharedFactors<S>& shared = passes.shared(block);
    passes.load(p.q, block, block.q);
    passes.load(p.da, block, block.x);
    if (!(shared.scale == 1)) scale_entries<S>(block.x, broadcast(shared.scale));
    if (p.dq) {
      solve_right<S>(block.x, shared.restricted());
      passes.store(block, p.dq);
    }
    multiply_conj<S>(Update::kAdd, sums, block.q.transposed(), block.x);
  });
  passes.form_squares([&](long b, const TriangleGroup<S>& triangle, Workspace& workspace) {
    const LaneView<S> e = take_matrix<Pack<S>>(workspace, passes.square());
    const LaneView<S> psi = take_matrix<Pack<S>>(workspace, passes.square(), Fill::kUpper);
    const LaneView<S> dr = take_matrix<Pack<S>>(workspace, passes.square(), Fill::kUpper);
    clear(e);
    clear(psi);
    passes.add_sums(b, 1, e);
    if (!p.dq) solve_right<S>(e, triangle.restricted());
    form_psi<S>(e, triangle, psi);
    if (p.dr) {
      form_dr<S>(e, psi, triangle, dr);
      finish_dr<S>(triangle, p.pivoted, dr);
      store_lanes<S>(dr, {b, 1}, p.batch, passes.places_of_triangle(), p.dr);
    }
    return psi;
  });
  if (!p.dq) return;
  passes.finish_rows([&](const RowBlock<S>& block) {  // dQ = B_c - Q Psi
    const SharedFactors<S>& shared = passes.shared(block);
    passes.load(p.q, block, block.q);
    passes.load(p.dq, block, block.x);
    if (!shared.all_count) keep_columns<S>(block.x, shared.counts);
    multiply<S>(Update::kSubtract, block.x, block.q, shared.square);
    passes.store(block, p.dq);
  });
}

// (8.6), conjugated as in derivatives/batch.cc: with conj(Q) and conj(R) for Q and R. Where there
// is no Qbar, Ebar R_m^-H takes the place of Ebar, as above.
template <class S>
void run_cotangent(const DerivativeProblem<S>& p, Pool& pool) {
  Workspace memory(TallPasses<S>::bytes(p, pool));
  const TallPasses<S> passes(memory, p, pool);
  if (p.dq) {
    passes.sum_rows([&](const RowBlock<S>& block, const LaneView<S>& sums) {  // Qbar^H Q
      passes.load(p.q, block, block.q);
      passes.load(p.dq, block, block.x);
      multiply<S>(Update::kAdd, sums.with(Fill::kLower), block.x.transposed(), block.q);
    });
  }
  passes.form_squares([&](long b, const TriangleGroup<S>& triangle, Workspace& workspace) {
    const LaneView<S> ebar = take_matrix<Pack<S>>(workspace, passes.square());
    const LaneView<S> rbar = take_matrix<Pack<S>>(workspace, passes.square(), Fill::kUpper);
    clear(ebar);
    if (p.dr) {
      load_rbar<S>(p, {b, 1}, passes.places_of_triangle(), triangle, rbar);
      multiply<S>(Update::kSet, ebar.with(Fill::kLower), triangle.r(), rbar.transposed());
    }
    if (p.dq) passes.add_sums(b, -triangle.scale()[0], ebar);
    form_ebar<S>(ebar, p.dr ? &rbar : nullptr, triangle);
    if (!p.dq) solve_right_transposed<S>(ebar, triangle.restricted());
    return ebar;
  });
  passes.finish_rows([&](const RowBlock<S>& block) {
    const SharedFactors<S>& shared = passes.shared(block);
    passes.load(p.q, block, block.q);
    if (p.dq) {
      passes.load(p.dq, block, block.x);
      if (!(shared.scale == 1)) scale_entries<S>(block.x, broadcast(shared.scale));
      if (!shared.all_count) keep_columns<S>(block.x, shared.counts);
      multiply_conj<S>(Update::kAdd, block.x, block.q, shared.square);
      solve_right_transposed<S>(block.x, shared.restricted());
    } else {
      multiply_conj<S>(Update::kSet, block.x, block.q, shared.square);
    }
    passes.store(block, p.da);
  });
}

// Where there are matrices enough, each stays in the cache of a thread.
template <class S>
void run_batch(const DerivativeProblem<S>& problem, Pool& pool, Run<S>* run) {
  if (problem.batch < 4 * thread_count(pool)) return run(problem, pool);
  parallel_for(pool, problem.batch, [&](long b) { run(problem.slice(b, 1), serial_pool()); });
}

}  // namespace

template <class S>
void compute_tangent_tall(const DerivativeProblem<S>& problem, Pool& pool) {
  run_batch<S>(problem, pool, run_tangent<S>);
}

template <class S>
void compute_cotangent_tall(const DerivativeProblem<S>& problem, Pool& pool) {
  run_batch<S>(problem, pool, run_cotangent<S>);
}

#define INSTANTIATE(S, NAME)                                                 \
  template void compute_tangent_tall<S>(const DerivativeProblem<S>&, Pool&); \
  template void compute_cotangent_tall<S>(const DerivativeProblem<S>&, Pool&);
JAXQR_FOR_SCALARS(INSTANTIATE)

}  // namespace jaxqr
