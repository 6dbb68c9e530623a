// The custom calls of least squares.
#include "call.h"

namespace jaxqr {
namespace {

// The arrays of a decomposition, results or operands, by the names that
// jaxqr/_lstsq/decomposition.py gives them: those that there are. `other` takes buffers of other
// names and says whether it knows the name.
template <class S, class Remaining, class Other>
CodProblem<S> decomposition(Call& call, const Remaining& buffers, const std::string& names,
                            const Other& other) {
  const long m = call.rows(), n = call.cols();
  if (m < n) call.fail("a decomposition needs at least as many rows as columns");
  CodProblem<S> cod{call.batch(), m, n, 0};
  int outer = 0, inner = 0, revealing = 0;  // how many arrays there are of each kind
  for_named(call, buffers, names, [&](std::string_view name, const Buffer& buffer) {
    const auto matrix = [&](S*& to, int& kind, long rows) {
      to = call.matrix<S>(std::string(name).c_str(), buffer, rows, n);
      ++kind;
    };
    const auto vector = [&](auto*& to, int& kind, ffi::DataType dtype) {
      to = call.data<std::remove_reference_t<decltype(*to)>>(std::string(name).c_str(), buffer,
                                                              dtype, {n});
      ++kind;
    };
    if (name == "h") {
      matrix(cod.h, outer, m);
    } else if (name == "tau") {
      vector(cod.tau, outer, kDataType<S>);
    } else if (name == "h1") {
      matrix(cod.h1, inner, n);
    } else if (name == "tau1") {
      vector(cod.tau1, inner, kDataType<S>);
    } else if (name == "p") {
      vector(cod.p, revealing, ffi::S32);
    } else if (name == "rank") {
      cod.rank = call.data<int32_t>("rank", buffer, ffi::S32, {});
      ++revealing;
    } else if (name == "hz") {
      matrix(cod.hz, revealing, n);
    } else if (name == "tauz") {
      vector(cod.tauz, revealing, kDataType<S>);
    } else if (!other(name, buffer)) {
      call.fail("unknown factor " + std::string(name));
    }
  });
  if (outer != 2 || inner % 2 || revealing % 4 || (inner && !revealing)) {
    call.fail("no decomposition has just the factors " + names);
  }
  return cod;
}

ffi::Error decompose_handler(ffi::ThreadPool xla_pool, Buffer a, ffi::RemainingRets results,
                             double rcond, std::string_view factors) {
  Call call(a);
  return for_dtype(call.dtype(), [&](auto scalar) {
    using S = decltype(scalar);
    const auto none = [](std::string_view, const Buffer&) { return false; };
    auto cod = decomposition<S>(call, results, std::string(factors), none);
    if (call.failed()) return call.error();
    cod.rcond = rcond;
    cod.a = static_cast<const S*>(a.untyped_data());
    XlaPool pool(xla_pool);
    jaxqr::decompose(cod, pool);
    return ffi::Error::Success();
  });
}

Operation operation_of(Call& call, std::string_view name) {
  if (name == "solve") return Operation::kSolve;
  if (name == "solve_adjoint") return Operation::kSolveAdjoint;
  if (name == "gram") return Operation::kGram;
  if (name != "null") call.fail("unknown operation " + std::string(name));
  return Operation::kNull;
}

// Its operands are A, the factors by name, and V.
ffi::Error pseudoinverse_handler(ffi::ThreadPool xla_pool, Buffer a, ffi::RemainingArgs operands,
                                 ffi::Result<Buffer> out, std::string_view operation,
                                 std::string_view factors) {
  Call call(a);
  return for_dtype(call.dtype(), [&](auto scalar) {
    using S = decltype(scalar);
    PseudoinverseProblem<S> problem{};
    problem.cod.m = call.rows();
    problem.cod.n = call.cols();
    problem.operation = operation_of(call, operation);
    const S* v = nullptr;
    long columns = 0;
    const auto right_hand_sides = [&](std::string_view name, const Buffer& buffer) {
      if (name != "v") return false;
      columns = buffer.dimensions().size() ? buffer.dimensions().back() : 0;
      v = call.matrix<S>("v", buffer, problem.rows_in(), columns);
      return true;
    };
    const std::string names = std::string(factors) + ",v";
    problem.cod = decomposition<S>(call, operands, names, right_hand_sides);
    problem.s = columns;
    problem.v = v;
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
                                  .RemainingRets()
                                  .Attr<double>("rcond")
                                  .Attr<std::string_view>("factors"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxqr_pseudoinverse, jaxqr::pseudoinverse_handler,
                              jaxqr::ffi::Ffi::Bind()
                                  .Ctx<jaxqr::ffi::ThreadPool>()
                                  .Arg<jaxqr::Buffer>()
                                  .RemainingArgs()
                                  .Ret<jaxqr::Buffer>()
                                  .Attr<std::string_view>("operation")
                                  .Attr<std::string_view>("factors"));

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
