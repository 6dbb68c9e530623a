// The symbols that Python looks up: XLA's handlers, with the operands and results that each takes.
#include "ffi/factorization.h"
#include "ffi/least_squares.h"

using jaxqr::Buffer;
using jaxqr::ffi::Ffi;
using jaxqr::ffi::ThreadPool;

// Everything else in the library is hidden.
#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxqr_qr, jaxqr::factor_handler,
                              Ffi::Bind()
                                  .Ctx<ThreadPool>()
                                  .Arg<Buffer>()
                                  .RemainingRets()
                                  .Attr<std::string_view>("outputs")
                                  .Attr<std::string_view>("pivoting")
                                  .Attr<bool>("transposed"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxqr_leading_qr, jaxqr::leading_handler,
                              Ffi::Bind()
                                  .Ctx<ThreadPool>()
                                  .Arg<Buffer>()
                                  .RemainingRets()
                                  .Attr<std::string_view>("outputs")
                                  .Attr<std::string_view>("pivoting")
                                  .Attr<int64_t>("steps")
                                  .Attr<bool>("transposed"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    jaxqr_orgqr, jaxqr::form_handler,
    Ffi::Bind().Ctx<ThreadPool>().Arg<Buffer>().Arg<Buffer>().Ret<Buffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxqr_ormqr, jaxqr::apply_handler,
                              Ffi::Bind()
                                  .Ctx<ThreadPool>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Ret<Buffer>()
                                  .Attr<bool>("left")
                                  .Attr<bool>("adjoint"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxqr_qr_jvp, jaxqr::tangent_handler,
                              Ffi::Bind()
                                  .Ctx<ThreadPool>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .RemainingRets()
                                  .Attr<std::string_view>("outputs")
                                  .Attr<bool>("pivoted")
                                  .Attr<bool>("transposed"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxqr_qr_vjp, jaxqr::cotangent_handler,
                              Ffi::Bind()
                                  .Ctx<ThreadPool>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .RemainingArgs()
                                  .Ret<Buffer>()
                                  .Attr<std::string_view>("inputs")
                                  .Attr<bool>("pivoted")
                                  .Attr<bool>("transposed"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxqr_cod, jaxqr::decompose_handler,
                              Ffi::Bind()
                                  .Ctx<ThreadPool>()
                                  .Arg<Buffer>()
                                  .RemainingRets()
                                  .Attr<double>("rcond")
                                  .Attr<std::string_view>("factors"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxqr_pseudoinverse, jaxqr::pseudoinverse_handler,
                              Ffi::Bind()
                                  .Ctx<ThreadPool>()
                                  .Arg<Buffer>()
                                  .RemainingArgs()
                                  .Ret<Buffer>()
                                  .Attr<std::string_view>("operation")
                                  .Attr<std::string_view>("factors"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxqr_solve, jaxqr::solve_handler,
                              Ffi::Bind()
                                  .Ctx<ThreadPool>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Ret<Buffer>()
                                  .Attr<bool>("left")
                                  .Attr<bool>("lower")
                                  .Attr<bool>("transpose")
                                  .Attr<bool>("conjugate")
                                  .Attr<bool>("unit"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxqr_lstsq, jaxqr::lstsq_handler,
                              Ffi::Bind()
                                  .Ctx<ThreadPool>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Ret<Buffer>()
                                  .Ret<Buffer>()
                                  .Ret<Buffer>()
                                  .Attr<double>("rcond")
                                  .Attr<bool>("pivoting"));

#pragma GCC visibility pop
