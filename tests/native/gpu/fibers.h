// Threads of execution that hand over to each other by themselves: a stack for each and the switch
// from one to another.
//
// On x86-64 and aarch64 the switch saves the registers that a function must preserve and swaps the
// stack pointers, a few nanoseconds; elsewhere it is swapcontext, which also makes system calls.
// The address and the thread sanitizer are told of every switch. To the thread sanitizer fibers are
// threads, and a switch from one to another synchronizes nothing.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

#if defined(__x86_64__) && !defined(JAXQR_UCONTEXT)
// jaxqr_switch_stacks(save, load): the label is this file's own, so nothing is exported.
asm(R"(
.text
.align 16
.type jaxqr_switch_stacks, @function
jaxqr_switch_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size jaxqr_switch_stacks, .-jaxqr_switch_stacks
)");
#elif defined(__aarch64__) && !defined(JAXQR_UCONTEXT)
asm(R"(
.text
.align 4
.type jaxqr_switch_stacks, %function
jaxqr_switch_stacks:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x2, sp
  str x2, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size jaxqr_switch_stacks, .-jaxqr_switch_stacks
)");
#else
#undef JAXQR_UCONTEXT
#define JAXQR_UCONTEXT
#include <ucontext.h>
#endif

#ifndef JAXQR_UCONTEXT
extern "C" __attribute__((visibility("hidden"))) void jaxqr_switch_stacks(void** save, void* load);
#endif

// Of functions that may be left for good by a switch: sanitizers keep accounts of calls, and would
// take what is left for a call that goes on.
#if defined(__SANITIZE_THREAD__)
#define JAXQR_SWITCHES __attribute__((noinline, no_sanitize_thread))
#elif defined(__SANITIZE_ADDRESS__)
#define JAXQR_SWITCHES __attribute__((noinline, no_sanitize_address))
#else
#define JAXQR_SWITCHES __attribute__((noinline))
#endif

namespace emulate {

class Fiber {
 public:
  using Entry = void (*)();

  // The thread of the operating system that runs now.
  Fiber() {
#ifdef __SANITIZE_THREAD__
    tsan_ = __tsan_get_current_fiber();
#endif
  }
  // One with a stack of its own. Below the stack is a page that nothing can write to.
  explicit Fiber(size_t bytes) : bytes_(bytes), guard_(sysconf(_SC_PAGESIZE)) {
    void* memory = mmap(nullptr, bytes_ + guard_, PROT_READ | PROT_WRITE, kMapping, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, guard_, PROT_NONE);
    stack_ = static_cast<char*>(memory) + guard_;
  }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber() {
    if (!guard_) return;
#ifdef __SANITIZE_ADDRESS__
    ASAN_UNPOISON_MEMORY_REGION(stack_, bytes_);  // frames that were never left
#endif
#ifdef __SANITIZE_THREAD__
    if (tsan_) __tsan_destroy_fiber(tsan_);
#endif
    munmap(stack_ - guard_, bytes_ + guard_);
  }

  // Start at `entry`, which may not return, when it is switched to next.
  void prepare(Entry entry) {
    fake_stack_ = nullptr;
#ifdef __SANITIZE_THREAD__  // to it every use of the fiber is a new thread, on new memory
    if (tsan_) __tsan_destroy_fiber(tsan_);
    tsan_ = __tsan_create_fiber(0);
    mmap(stack_, bytes_, PROT_READ | PROT_WRITE, kMapping | MAP_FIXED, -1, 0);
#endif
#if defined(JAXQR_UCONTEXT)
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_, context_.uc_stack.ss_size = bytes_;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#else
    // what the switch loads: zeros for all registers, and where it returns to
    void** top = reinterpret_cast<void**>(stack_ + bytes_);
#ifdef __x86_64__
    constexpr int kSaved = 8, kReturn = 6;  // the last is the return address that entry() sees
#else
    constexpr int kSaved = 20, kReturn = 11;  // x30
#endif
    std::memset(top - kSaved, 0, kSaved * sizeof(void*));
    std::memcpy(top - kSaved + kReturn, &entry, sizeof(entry));
    pointer_ = top - kSaved;
#endif
  }

  // Go on where `other` stopped, until something switches to this one, which is running, again.
  // `last`: nothing will.
  JAXQR_SWITCHES void switch_to(Fiber& other, bool last = false) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(last ? nullptr : &fake_stack_, other.stack_, other.bytes_);
#endif
#ifdef __SANITIZE_THREAD__
    __tsan_switch_to_fiber(other.tsan_, __tsan_switch_to_fiber_no_sync);
#endif
    other.from_ = this;
#ifdef JAXQR_UCONTEXT
    swapcontext(&context_, &other.context_);
#else
    jaxqr_switch_stacks(&pointer_, other.pointer_);
#endif
    (void)last;
    arrived();
  }

  // What entry() must call first, on its own fiber.
  void arrived() {
#ifdef __SANITIZE_ADDRESS__
    const void* stack;
    size_t bytes;
    __sanitizer_finish_switch_fiber(fake_stack_, &stack, &bytes);
    if (!from_->guard_) {  // a thread's own stack: only the sanitizer knows where it is
      from_->stack_ = static_cast<char*>(const_cast<void*>(stack));
      from_->bytes_ = bytes;
    }
#endif
  }

 private:
  static constexpr int kMapping = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  char* stack_ = nullptr;
  size_t bytes_ = 0, guard_ = 0;
  void* fake_stack_ = nullptr;
  Fiber* from_ = nullptr;
#ifdef __SANITIZE_THREAD__
  void* tsan_ = nullptr;
#endif
#ifdef JAXQR_UCONTEXT
  ucontext_t context_;
#else
  void* pointer_ = nullptr;
#endif
};

}  // namespace emulate
