// The custom calls of least squares.
#include "ffi/call.h"

namespace jaxqr {
namespace {

// A decomposition's arrays, results or operands: jaxqr/_cod.py says which of them are empty when.
template <class S>
CodProblem<S> decomposition(Call& call, bool pivoting, const Buffer& h, const Buffer& tau,
                            const Buffer& h1, const Buffer& tau1, const Buffer& p,
                            const Buffer& rank, const Buffer& hz, const Buffer& tauz) {
  const long m = call.rows(), n = call.cols();
  if (m < n) call.fail("a decomposition needs a deep matrix, got " + describe(h));
  const bool twice = pivoting && h1.dimensions().size() && h1.dimensions().back() == n && n > 0;
  const long inner = twice ? n : 0, extra = pivoting ? n : 0;
  CodProblem<S> cod{call.batch(), m, n, 0};
  cod.h = call.matrix<S>("h", h, m, n);
  cod.tau = call.data<S>("tau", tau, kDataType<S>, {n});
  S* inner_h = call.matrix<S>("h1", h1, inner, inner);
  S* inner_tau = call.data<S>("tau1", tau1, kDataType<S>, {inner});
  cod.rank = call.data<int32_t>("rank", rank, ffi::S32, {});
  int32_t* order = call.data<int32_t>("p", p, ffi::S32, {extra});
  S* z = call.matrix<S>("hz", hz, extra, extra);
  S* z_tau = call.data<S>("tauz", tauz, kDataType<S>, {extra});
  if (twice) {
    cod.h1 = inner_h;
    cod.tau1 = inner_tau;
  }
  if (pivoting) {
    cod.p = order;
    cod.hz = z;
    cod.tauz = z_tau;
  }
  return cod;
}

ffi::Error decompose_handler(ffi::ThreadPool xla_pool, Buffer a, ffi::Result<Buffer> h,
                             ffi::Result<Buffer> tau, ffi::Result<Buffer> h1,
                             ffi::Result<Buffer> tau1, ffi::Result<Buffer> p,
                             ffi::Result<Buffer> rank, ffi::Result<Buffer> hz,
                             ffi::Result<Buffer> tauz, double rcond, bool pivoting) {
  Call call(a);
  return for_dtype(call.dtype(), [&](auto scalar) {
    using S = decltype(scalar);
    auto cod = decomposition<S>(call, pivoting, *h, *tau, *h1, *tau1, *p, *rank, *hz, *tauz);
    if (call.failed()) return call.error();
    cod.rcond = rcond;
    cod.a = static_cast<const S*>(a.untyped_data());
    XlaPool pool(xla_pool);
    jaxqr::decompose(cod, pool);
    return ffi::Error::Success();
  });
}

ffi::Error pseudoinverse_handler(ffi::ThreadPool xla_pool, Buffer a, Buffer h, Buffer tau,
                                 Buffer h1, Buffer tau1, Buffer p, Buffer rank, Buffer hz,
                                 Buffer tauz, Buffer v, ffi::Result<Buffer> out,
                                 std::string_view operation, bool pivoting) {
  Call call(a);
  return for_dtype(call.dtype(), [&](auto scalar) {
    using S = decltype(scalar);
    PseudoinverseProblem<S> problem{
        decomposition<S>(call, pivoting, h, tau, h1, tau1, p, rank, hz, tauz), 0, {}};
    problem.s = v.dimensions().size() ? v.dimensions().back() : 0;
    if (operation == "solve") {
      problem.operation = Operation::kSolve;
    } else if (operation == "solve_adjoint") {
      problem.operation = Operation::kSolveAdjoint;
    } else if (operation == "gram") {
      problem.operation = Operation::kGram;
    } else if (operation == "null") {
      problem.operation = Operation::kNull;
    } else {
      call.fail("unknown operation " + std::string(operation));
    }
    problem.v = call.matrix<S>("v", v, problem.rows_in(), problem.s);
    problem.out = call.matrix<S>("out", *out, problem.rows_out(), problem.s);
    if (call.failed()) return call.error();
    XlaPool pool(xla_pool);
    jaxqr::pseudoinverse(problem, pool);
    return ffi::Error::Success();
  });
}

ffi::Error lstsq_handler(ffi::ThreadPool xla_pool, Buffer a, Buffer b, ffi::Result<Buffer> x,
                         ffi::Result<Buffer> residuals, ffi::Result<Buffer> rank, double rcond,
                         bool pivoting) {
  Call call(a);
  return for_dtype(call.dtype(), [&](auto scalar) {
    using S = decltype(scalar);
    using T = RealOf<S>;
    const long m = call.rows(), n = call.cols();
    const long s = b.dimensions().size() ? b.dimensions().back() : 0;
    if (m < n) call.fail("lstsq needs a deep matrix, got " + describe(a));
    LstsqProblem<S> problem{call.batch(), m, n, s, pivoting, rcond};
    problem.a = static_cast<const S*>(a.untyped_data());
    problem.b = call.matrix<S>("b", b, m, s);
    problem.x = call.matrix<S>("x", *x, n, s);
    problem.residuals = call.data<T>("residuals", *residuals, kDataType<T>, {s});
    problem.rank = call.data<int32_t>("rank", *rank, ffi::S32, {});
    if (call.failed()) return call.error();
    XlaPool pool(xla_pool);
    jaxqr::least_squares(problem, pool);
    return ffi::Error::Success();
  });
}

}  // namespace
}  // namespace jaxqr

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxqr_cod, jaxqr::decompose_handler,
                              jaxqr::ffi::Ffi::Bind()
                                  .Ctx<jaxqr::ffi::ThreadPool>()
                                  .Arg<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Attr<double>("rcond")
                                  .Attr<bool>("pivoting"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxqr_pseudoinverse, jaxqr::pseudoinverse_handler,
                              jaxqr::ffi::Ffi::Bind()
                                  .Ctx<jaxqr::ffi::ThreadPool>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Attr<std::string_view>("operation")
                                  .Attr<bool>("pivoting"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxqr_lstsq, jaxqr::lstsq_handler,
                              jaxqr::ffi::Ffi::Bind()
                                  .Ctx<jaxqr::ffi::ThreadPool>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Attr<double>("rcond")
                                  .Attr<bool>("pivoting"));

#pragma GCC visibility pop
