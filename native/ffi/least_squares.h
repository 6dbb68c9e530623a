// The custom calls of least squares.
#pragma once

#include "ffi/call.h"

namespace jaxqr {

// The arrays of a decomposition, results or operands.
struct DecompositionBuffers {
  const Buffer &h, &tau, &h1, &tau1, &p, &rank, &hz, &tauz;
};

// Fill in a decomposition's arrays; jaxqr/_cod.py says which of them are empty when.
template <class S>
void fill_decomposition(Call& call, CodProblem<S>& cod, bool pivoting,
                        const DecompositionBuffers& buffers) {
  const long m = call.rows(), n = call.cols();
  if (m < n) call.fail("a decomposition needs a deep matrix, got " + describe(buffers.h));
  const bool twice = pivoting && last_dimension(buffers.h1, 0) == n && n > 0;
  const long inner = twice ? n : 0, extra = pivoting ? n : 0;
  cod = {call.batch(), m, n, 0};
  cod.h = call.matrix<S>("h", buffers.h, m, n);
  cod.tau = call.vector<S>("tau", buffers.tau, n);
  cod.rank = call.data<int32_t>("rank", buffers.rank, ffi::S32, {});
  S* h1 = call.matrix<S>("h1", buffers.h1, inner, inner);
  S* tau1 = call.vector<S>("tau1", buffers.tau1, inner);
  int32_t* p = call.data<int32_t>("p", buffers.p, ffi::S32, {extra});
  S* hz = call.matrix<S>("hz", buffers.hz, extra, extra);
  S* tauz = call.vector<S>("tauz", buffers.tauz, extra);
  if (twice) {
    cod.h1 = h1;
    cod.tau1 = tau1;
  }
  if (pivoting) {
    cod.p = p;
    cod.hz = hz;
    cod.tauz = tauz;
  }
}

inline ffi::Error decompose_handler(ffi::ThreadPool pool, Buffer a, ffi::Result<Buffer> h,
                                    ffi::Result<Buffer> tau, ffi::Result<Buffer> h1,
                                    ffi::Result<Buffer> tau1, ffi::Result<Buffer> p,
                                    ffi::Result<Buffer> rank, ffi::Result<Buffer> hz,
                                    ffi::Result<Buffer> tauz, double rcond, bool pivoting) {
  Call call(a);
  const auto fill = [&](auto& cod) {
    fill_decomposition(call, cod, pivoting, {*h, *tau, *h1, *tau1, *p, *rank, *hz, *tauz});
    cod.rcond = rcond;
    cod.a = call.first_data<JAXQR_SCALAR_OF(cod)>();
  };
  return run<CodProblem>(call, pool, fill, [](const auto& p, Pool& pool) { decompose(p, pool); });
}

inline Operation operation_of(Call& call, std::string_view name) {
  if (name == "solve") return Operation::kSolve;
  if (name == "solve_adjoint") return Operation::kSolveAdjoint;
  if (name == "gram") return Operation::kGram;
  if (name != "null") call.fail("unknown operation " + std::string(name));
  return Operation::kNull;
}

inline ffi::Error pseudoinverse_handler(ffi::ThreadPool pool, Buffer a, Buffer h, Buffer tau,
                                        Buffer h1, Buffer tau1, Buffer p, Buffer rank, Buffer hz,
                                        Buffer tauz, Buffer v, ffi::Result<Buffer> out,
                                        std::string_view operation, bool pivoting) {
  Call call(a);
  const auto fill = [&](auto& problem) {
    using S = JAXQR_SCALAR_OF(problem);
    fill_decomposition(call, problem.cod, pivoting, {h, tau, h1, tau1, p, rank, hz, tauz});
    problem.s = last_dimension(v, 0);
    problem.operation = operation_of(call, operation);
    problem.v = call.matrix<S>("v", v, problem.rows_in(), problem.s);
    problem.out = call.matrix<S>("out", *out, problem.rows_out(), problem.s);
  };
  return run<PseudoinverseProblem>(call, pool, fill,
                                   [](const auto& p, Pool& pool) { apply_pseudoinverse(p, pool); });
}

inline ffi::Error lstsq_handler(ffi::ThreadPool pool, Buffer a, Buffer b, ffi::Result<Buffer> x,
                                ffi::Result<Buffer> residuals, ffi::Result<Buffer> rank,
                                double rcond, bool pivoting) {
  Call call(a);
  const long m = call.rows(), n = call.cols(), s = last_dimension(b, 0);
  if (m < n) call.fail("lstsq needs a deep matrix, got " + describe(a));
  const auto fill = [&](auto& problem) {
    using S = JAXQR_SCALAR_OF(problem);
    problem = {call.batch(), m, n, s, pivoting, rcond};
    problem.a = call.first_data<S>();
    problem.b = call.matrix<S>("b", b, m, s);
    problem.x = call.matrix<S>("x", *x, n, s);
    problem.residuals = call.vector<RealOf<S>>("residuals", *residuals, s);
    problem.rank = call.data<int32_t>("rank", *rank, ffi::S32, {});
  };
  return run<LstsqProblem>(call, pool, fill,
                           [](const auto& p, Pool& pool) { solve_least_squares(p, pool); });
}

}  // namespace jaxqr
